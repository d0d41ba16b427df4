"""What is known of a CPU from Linux's description of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pycaffe_compat.cpu import fast_bfloat16

INTEL, AMD = "vendor_id\t: GenuineIntel\n", "vendor_id\t: AuthenticAMD\n"


@pytest.mark.parametrize(
    ("cpuinfo", "fast"),
    [
        (INTEL + "flags\t\t: fpu avx512_bf16 amx_bf16\n", True),
        (INTEL + "flags\t\t: fpu avx512_bf16\nvmx flags\t: amx_bf16\n", False),
        (INTEL + "flags\t\t: fpu avx2\n", False),
        (AMD + "flags\t\t: fpu avx512_bf16\n", True),
        (AMD + "flags\t\t: fpu avx512f\n", False),
        ("Features\t: fp asimd bf16\n", True),
        ("Features\t: fp asimd\n", False),
        ("isa\t: rv64\n", None),
        (None, None),
    ],
)
def test_fast_bfloat16(cpuinfo: str | None, fast: bool | None, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    assert fast_bfloat16(str(path)) is fast
