"""The fuzzers' targets with hypothesis, for as long as a test may take: pieces of good files, put together wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import seeds, words
from tests.fuzz.targets import TARGETS, run_one

WORDS = words()
FOUND = sorted((Path(__file__).parent / "found").glob("*"))


def mutated(content: list[bytes]) -> st.SearchStrategy[bytes]:
    """Slices of the seeds, bytes and words, one after the other."""
    pieces = st.one_of(
        st.tuples(st.sampled_from(content), st.integers(0, 4000), st.integers(0, 4000)).map(lambda t: t[0][t[1] : t[1] + t[2]]),
        st.sampled_from(content),
        st.sampled_from(WORDS).map(lambda word: b" " + word + b" "),
        st.binary(max_size=8),
    )
    return st.lists(pieces, max_size=6).map(b"".join)


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes(target: str, tmp_path: Path) -> None:
    inputs = mutated(seeds(target, tmp_path))

    @settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
    @given(inputs)
    def run(content: bytes) -> None:
        run_one(target, content)

    run()


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_themselves(target: str, tmp_path: Path) -> None:
    for content in seeds(target, tmp_path):
        run_one(target, content)
        for end in range(0, len(content), max(1, len(content) // (10 if target == "schema" else 50))):
            run_one(target, content[:end])


DEEP, WIDE = 100_000, 1_000_000


@pytest.mark.parametrize(
    ("target", "content"),
    [
        ("text", b"layer { " * DEEP),
        ("text", b"layer: [ " * DEEP),
        ("text", b"{" * WIDE),
        ("text", b'name: "' + b"a" * WIDE),
        ("text", b'name: ' + b'"a" ' * (WIDE // 8)),
        ("text", b"input_dim: " + b"9" * WIDE),
        ("text", b"layer { blobs { double_data: 1" + b"e" * WIDE),
        ("text", b"a" * WIDE + b": 1"),
        ("text", b"x { } " * (WIDE // 60)),
        ("text", b'name: "' + b"\\\\" * (WIDE // 4) + b'"'),
        ("text", b"#" * WIDE + b"\n" * WIDE),
        ("weights", b"\xa2\x06\xff\xff\xff\xff\x07" + b"a" * 100),
        ("weights", b"\xa2\x06\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
        ("weights", b"\xa2\x06\x00" * (WIDE // 6)),
        ("binary_net", b"\x0b" * DEEP),
        ("binary_net", b"\x12\x7e" * DEEP),
        ("binary_net", b"\xa2\x06\x00" * (WIDE // 20)),
        ("blob", b"\x3a\x0a\x0a\x08" + b"\xff\xff\xff\xff\x07\xff\xff\xff"),
        ("blob", b"\x3a\x90\x4e" + b"\x08\x01" * 5000 + b"\x2a\x04abcd"),
        ("state", b"\x08\x01\xc2\xb8\x02\xa0\x8d\x06" + b"[" * DEEP),
        ("schema", b"message M { " * (DEEP // 5)),
        ("schema", b"/*" * DEEP),
        ("schema", b"enum E { A = " + b"9" * WIDE),
    ],
)
def test_large_and_deep(target: str, content: bytes) -> None:
    run_one(target, content)


@pytest.mark.parametrize("path", FOUND, ids=[path.name for path in FOUND])
def test_what_the_fuzzers_found_stays_mended(path: Path) -> None:
    run_one(path.name.split("-")[0], path.read_bytes())
