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
