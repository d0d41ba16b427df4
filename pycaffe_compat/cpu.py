"""What the CPU is good at, where that decides which arithmetic to use."""

from __future__ import annotations

PRECISIONS = ("float32", "bfloat16")
"""The arithmetic that networks are trained and run in."""


def fast_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool | None:
    """Whether training and restoring are faster in bfloat16 than in float32 on this CPU; None where nothing is known.

    Fast are matrix units (AMX; measured: 2.6 to 3.8 times faster than float32) and AMD's AVX-512, whose bfloat16
    products have twice its rate (measured: 2.0 to 2.1). Intel's avx512_bf16 without AMX has no more products a cycle
    than float32 and pays for the conversions (measured: 1.4 times slower).

    Args:
        cpuinfo: the file in which Linux describes the processors.
    """
    try:
        with open(cpuinfo, encoding="ascii", errors="replace") as file:
            fields = {name.strip(): value for name, _, value in (line.partition(":") for line in file)}
    except OSError:  # not Linux
        return None
    if "flags" in fields:  # x86
        flags = fields["flags"].split()
        return "amx_bf16" in flags or ("avx512_bf16" in flags and "AuthenticAMD" in fields.get("vendor_id", ""))
    if "Features" in fields:  # ARM
        return "bf16" in fields["Features"].split()
    return None
