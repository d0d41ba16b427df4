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


def test_the_readmes_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for code in blocks("README.md", "python"):
        exec(compile(code, "README.md", "exec"), {})  # noqa: S102


def test_the_documents_name_every_layer_type_and_every_program() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "(docs/layers.md)" in readme
    types = (ROOT / "docs/layers.md").read_text()
    assert not [name for name in REGISTRY if not name.startswith("Test") and f"\n| {name} |" not in types]
    programs = {p.stem for p in (ROOT / "tools").glob("*.py")} - {"__init__", "_checkout", "demo"}
    assert not [name for name in programs if name not in readme]


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "models/l4_residual_q10/README.md"])
def test_files_that_the_documents_name_are_there(document: str) -> None:
    text = (ROOT / document).read_text()
    links = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\":]+)\"", text)
    folder = (ROOT / document).parent
    assert not [a or b for a, b in links if not (folder / (a or b)).exists()]
    named = set(re.findall(r"\b(solver_\w+)\b(?:\.prototxt)?", text)) - {"solver_mode", "solver_type", "solver_count", "solver_rank"}
    assert not [name for name in named if not (ROOT / "prototxt" / f"{name}.prototxt").exists()]
