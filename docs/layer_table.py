#!/usr/bin/env python3
"""Write docs/layers.md, the table of layer types, from the registry and the numbers that tests hold it against.

    .venv/bin/python docs/layer_table.py        after a type was added or changed; a test compares the file
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from pycaffe_compat.layers import REGISTRY  # noqa: E402

HEAD = """# Layer types

Made by docs/layer_table.py. A type's family is its file in `pycaffe_compat/layers/`.

- *in place*: a top may bear its bottom's name.
- *gradient*: whether one goes through, always the true one unless it says whose.
- *ONNX*: exported and computed to the same by ONNX Runtime in `tests/layers/test_every_type.py`, or why it cannot be.
- *fork*: where a type comes from that stock Caffe does not have. Its rules are held against tests of their own only.
- *Caffe*: how many nets with this type, computed by the original program, lie under `tests/data/golden/layers`.

Besides, every type has rows in `tests/layers` that hold its values against NumPy or SciPy and its gradient against
finite differences, or a test of its own.

| type | family | bottoms | tops | in place | gradient | ONNX | fork | Caffe |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def layer_table(root: Path) -> str:
    """The text of docs/layers.md."""
    nets: Counter[str] = Counter()
    stems: set[str] = set()
    for index in sorted((root / "tests/data/golden/layers").glob("index*.json")):
        for case in json.loads(index.read_text())["cases"]:
            if case["stem"] not in stems:
                stems.add(case["stem"])
                nets.update(set(case["layer_types"]))
    rows = []
    for name, row in sorted(REGISTRY.items()):
        if row.cls.__module__.startswith("pycaffe_compat.layers."):  # not what a test has registered
            family = row.cls.__module__.rpartition(".")[2]
            tops = "as bottoms" if row.same_count else _count(row.tops)
            onnx = f"no: {row.cls.no_onnx}" if row.cls.no_onnx else "yes"
            inplace = "yes" if row.inplace else "no"
            cells = [name, family, _count(row.bottoms), tops, inplace, row.cls.gradient, onnx, row.fork]
            rows.append("| " + " | ".join([*cells, str(nets[name])]) + " |")
    return HEAD + "\n".join(rows) + "\n"


def _count(limits: tuple[int, int | None]) -> str:
    least, most = limits
    return f"{least}+" if most is None else str(least) if least == most else f"{least}-{most}"


if __name__ == "__main__":
    (ROOT / "docs/layers.md").write_text(layer_table(ROOT))
