"""How much memory there is, and sizes as people read them."""

from __future__ import annotations

import os
from functools import cache


@cache
def physical_memory() -> int:
    """Bytes of memory that this process can have: the machine's, or its container's limit; 2**63 where unknown."""
    limits = [2**63]
    try:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # no such call or value on this system
        pass
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):  # no container, or "max"
            continue
    return min(limit for limit in limits if limit > 0)


def unpacked_limit(file_size: int) -> int:
    """Bytes that a file of this size may unpack to: honest ones need less."""
    return (64 << 20) + 20 * file_size


def shown_bytes(size: int) -> str:
    """A size as people read it: ``1.5 GiB``."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
    amount = float(min(size, 2**1000))
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.0f} bytes" if units[0] == "bytes" else f"{amount:,.1f} {units[0]}"
