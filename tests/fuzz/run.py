"""Fuzzes one target with atheris:  python -m tests.fuzz.run TARGET [SECONDS] [options of libFuzzer]

Stops at the first input that raises anything but a CaffeError, takes over 2 s or over 1 GiB, writes it to a file
``crash-...`` and says so. ``make fuzz`` runs every target in turn.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pycaffe_compat.proto", "pycaffe_compat.weights", "pycaffe_compat.solver.snapshot", "pycaffe_compat.data"]):
    from tests.fuzz.seeds import seeds, words
    from tests.fuzz.targets import MEMORY, SECONDS, TARGETS, run_one


def main(arguments: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    if not arguments or arguments[0] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz.run TARGET [SECONDS]; TARGET is one of {', '.join(TARGETS)}")
    target, seconds, *options = [*arguments, "60"] if len(arguments) == 1 else arguments
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    for i, content in enumerate(seeds(target, folder)):
        (folder / f"seed_{i}").write_bytes(content)
    if target in ("text", "upgrade", "schema"):
        entries = ['"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in words()]
        (folder / "words.dict").write_text("\n".join(entries))
        options.append(f"-dict={folder / 'words.dict'}")
    # libFuzzer's clock is the wall's, and others may be at work: the targets watch the processor's themselves
    limits = [f"-timeout={20 * SECONDS}", f"-rss_limit_mb={(MEMORY >> 20) + 700}", f"-max_total_time={seconds}", "-max_len=20000"]
    atheris.Setup([sys.argv[0], str(folder), *limits, "-print_final_stats=1", *options], lambda data: run_one(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
