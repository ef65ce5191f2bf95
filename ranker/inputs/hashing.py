"""Ids of categories. Knows nothing of torch: workers that only need ids import this alone."""

from functools import cache

import numpy as np
import xxhash

from ranker.arrays import U64

MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
"""Factors of `mixed`."""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ over the golden ratio: odd, so that multiplying by it loses nothing."""


def hash64(value: str) -> int:
    """The 64-bit id of a category: XXH3 of its UTF-8 bytes. The user log stores this for items."""
    return xxhash.xxh3_64_intdigest(value.encode())


@cache
def salt_of(feature: str) -> np.uint64:
    """What the ids of a feature are xored with: features that share a table do not share keys."""
    return np.uint64(xxhash.xxh3_64_intdigest(f"salt:{feature}".encode()))


def mixed(x: U64) -> U64:
    """The finalizer of SplitMix64 (Steele et al., 2014), in place: a bijection, so nothing collides here."""
    x ^= x >> np.uint64(30)
    x *= MIX[0]
    x ^= x >> np.uint64(27)
    x *= MIX[1]
    x ^= x >> np.uint64(31)
    return x


def salted(ids: U64, feature: str) -> U64:
    """Table keys of a feature's ids; no two ids of one feature have the same."""
    return mixed(ids ^ salt_of(feature))


def number_category(value: int | float) -> str:
    """The category that a number stands for: all digits of an integer, and at most 15 of what has a fraction."""
    return str(int(value)) if isinstance(value, int) or value.is_integer() else f"{value:.15g}"
