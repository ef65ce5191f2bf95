"""Ids of categories. Knows nothing of torch: workers that only need ids import this alone."""

import numpy as np
import xxhash

from ranker.arrays import U64

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def hash64(value: str) -> int:
    """The 64-bit id of a category: XXH3 of its UTF-8 bytes. The user log stores this for items."""
    return xxhash.xxh3_64_intdigest(value.encode())


def salted(ids: U64, feature: str) -> U64:
    """Table keys of a feature's ids: features that share a table do not share keys.

    The finalizer of SplitMix64 (Steele et al., 2014) over id xor salt: a bijection, so no two ids of one feature
    collide here.
    """
    x = ids ^ np.uint64(xxhash.xxh3_64_intdigest(f"salt:{feature}".encode()))
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def number_category(value: int | float) -> str:
    """The category that a number stands for: all digits of an integer, and at most 15 of what has a fraction."""
    return str(int(value)) if isinstance(value, int) or value.is_integer() else f"{value:.15g}"
