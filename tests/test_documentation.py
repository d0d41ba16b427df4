"""The documents' own examples, run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pycaffe_compat.graph import Graph
from pycaffe_compat.layers.base import REGISTRY
from pycaffe_compat.proto.text import parse_net

ROOT = Path(__file__).resolve().parents[1]


def blocks(document: str, language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    return [body for name, body in fences if name == language]


def test_the_worked_example_of_adding_a_layer_works(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(REGISTRY):
        monkeypatch.setitem(REGISTRY, name, REGISTRY[name])  # puts the registry back afterwards
    try:
        space: dict[str, object] = {"np": np}
        for code in blocks("CONTRIBUTING.md", "python"):
            exec(compile(code, "CONTRIBUTING.md", "exec"), space)  # noqa: S102
        net = Graph(parse_net(blocks("CONTRIBUTING.md", "")[0]))
        x = torch.randn(2, 3, 4, 4)
        gain = net.params["gain"][0].reshape(1, 3, 1, 1)
        torch.testing.assert_close(net(x)["y"], x * gain / (1 + (x * gain).abs()))
        text, shapes, formula = space["row"]  # type: ignore[misc]
        op = Graph(
            parse_net(
                f'layer {{ name: "a" type: "Input" top: "a" input_param {{ shape {{ dim: 2 dim: 3 }} }} }} {text}'
            )
        )
        a = torch.randn(shapes[0])
        np.testing.assert_allclose(op(a)["y"].numpy(), formula([a.numpy()], [])[0], rtol=1e-6)
    finally:
        for name in ("Softsign", "ChannelGain"):
            REGISTRY.pop(name, None)
