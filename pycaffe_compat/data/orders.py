"""Random numbers that are a function of a seed and a few small counters, the same under every version of
numpy.

Numpy promises to keep the raw streams of its bit generators and the hash of SeedSequence, but not what
``Generator`` makes of them (NEP 19). Databases and resumed trainings must not change with an upgrade, hence
raw draws.
"""

import numpy as np
from numpy.typing import NDArray


def draws(count: int, seed: int, *key: int) -> NDArray[np.uint64]:
    """``count`` uniform 64-bit numbers of the PCG64 stream that belongs to ``seed`` and ``key`` (all >=
    0)."""
    return np.asarray(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)).random_raw(count))


def permutation(count: int, seed: int, *key: int) -> NDArray[np.intp]:
    """A random order of 0 ... ``count`` - 1 that depends on ``seed`` and ``key`` (all >= 0) alone."""
    return np.argsort(draws(count, seed, *key), kind="stable")


class Chances:
    """Random numbers one after another, of the stream that belongs to ``seed`` and ``key`` (all >= 0)."""

    def __init__(self, seed: int, *key: int):
        self._bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key))

    def uniform(self, low: float = 0, high: float = 1) -> float:
        """A number in low..high, high excluded unless it is low."""
        return low + (high - low) * ((self._next() >> 11) * 2.0**-53)

    def below(self, count: int) -> int:
        """A whole number below ``count``."""
        return self._next() % count

    def _next(self) -> int:
        return int(self._bits.random_raw())
