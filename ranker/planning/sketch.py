"""What a stream of keys holds, in bounded memory: how many distinct ones, and how often the frequent ones come.

Keys are u64 that are uniform already (ranker.inputs.hashing.salted). Sketches of parts of a stream merge into the
whole's.
"""

import math
from typing import Self

import numpy as np

from ranker.arrays import I64, U64

_KEY_BITS = 64
_BUFFERED = 1 << 18


class HyperLogLog:
    """Distinct keys (Flajolet, Fusy, Gandouet, Meunier, 2007), in 2^precision bytes.

    Each of m = 2^precision registers holds the longest run of leading zeros (plus one) among its keys' other q bits.
    The original estimate α·m² / Σ 2^-register is biased until most registers are filled, by 3 % where linear counting
    hands over to it; so registers that are still empty (C_0 of them) or full count by Ertl's corrections (2017):

        estimate = m² / (2 ln 2 · (m·σ(C_0 / m) + Σ_k C_k·2^-k + m·τ(1 - C_(q+1) / m)·2^-q)),   k = 1 … q

    with a standard error of 1.04/√m at any cardinality; small ones come out as by linear counting.
    """

    def __init__(self, precision: int = 14) -> None:
        """precision: 11 to 18; 14 has a standard error of 0.8 %."""
        if not 11 <= precision <= 18:
            raise ValueError(f"precision must be in [11, 18], got {precision}")
        self.precision = precision
        self._registers = np.zeros(1 << precision, np.uint8)

    @property
    def standard_error(self) -> float:
        """Relative standard error of the estimate."""
        return 1.04 / math.sqrt(len(self._registers))

    def add(self, keys: U64) -> None:
        below = _KEY_BITS - self.precision
        register = (keys >> np.uint64(below)).astype(np.int64)
        rest = (keys & np.uint64((1 << below) - 1)).astype(np.float64)  # at most 53 bits: exact
        _, bit_length = np.frexp(rest)
        np.maximum.at(self._registers, register, (below + 1 - bit_length).astype(np.uint8))

    def merge(self, other: Self) -> None:
        """Takes in what the other has seen. Raises ValueError if their precisions differ."""
        if self.precision != other.precision:
            raise ValueError(f"sketches merge at equal precision, got {self.precision} and {other.precision}")
        np.maximum(self._registers, other._registers, out=self._registers)

    def estimate(self) -> float:
        m, q = len(self._registers), _KEY_BITS - self.precision
        holding = np.bincount(self._registers, minlength=q + 2).tolist()
        z = m * _tau(1 - holding[q + 1] / m)
        for count in reversed(holding[1 : q + 1]):
            z = 0.5 * (z + count)
        z += m * _sigma(holding[0] / m)
        return m * m / (2 * math.log(2) * z)


def _sigma(x: float) -> float:
    """x + Σ_k x^(2^k)·2^(k-1), k = 1, 2, …: of the share of empty registers."""
    if x == 1:
        return math.inf
    weight, total, before = 1.0, x, math.nan
    while total != before:
        x, before = x * x, total
        total += x * weight
        weight *= 2
    return total


def _tau(x: float) -> float:
    """(1 - x - Σ_k (1 - x^(2^-k))²·2^-k) / 3, k = 1, 2, …: of the share of registers that are not full."""
    if x in (0.0, 1.0):
        return 0.0
    weight, total, before = 1.0, 1 - x, math.nan
    while total != before:
        x, before = math.sqrt(x), total
        weight /= 2
        total -= (1 - x) ** 2 * weight
    return total / 3


class FrequentKeys:
    """Counts of the most frequent keys: at most `capacity` of them, each too low by at most `error`.

    Misra and Gries (1982) in the mergeable form of Agarwal et al. (2012), which is Space-Saving (Metwally et al., 2005)
    seen from the other side: when more than `capacity` keys are held, the largest count that has no place is taken off
    all counts, and what reaches zero is dropped. error <= total / (capacity + 1), and a key that is not held came
    `error` times at most. As long as no more than `capacity` keys came, all counts are exact and error is 0.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, got {capacity}")
        self.capacity = capacity
        self.total = 0
        """Occurrences of all keys."""
        self._error = 0
        self._keys: U64 = np.empty(0, np.uint64)
        self._counts: I64 = np.empty(0, np.int64)
        self._waiting: list[tuple[U64, I64]] = []
        self._num_waiting = 0

    def add(self, keys: U64, counts: I64 | None = None) -> None:
        """counts: how often each came, once where not given. Keys may repeat."""
        counts = np.ones(len(keys), np.int64) if counts is None else counts
        self.total += int(counts.sum())
        self._waiting.append((keys, counts))
        self._num_waiting += len(keys)
        if self._num_waiting >= max(_BUFFERED, self.capacity):  # so that the cost of a key does not depend on capacity
            self._settle()

    def merge(self, other: Self) -> None:
        """Takes in what the other has seen; the capacity stays."""
        other._settle()
        self.add(other._keys, other._counts)
        self.total += other.total - int(other._counts.sum())
        self._settle()
        self._error += other._error

    @property
    def error(self) -> int:
        self._settle()
        return self._error

    def __len__(self) -> int:
        self._settle()
        return len(self._keys)

    def items(self) -> tuple[U64, I64]:
        """Keys and counts, the most frequent first; equal counts by key."""
        self._settle()
        order = np.lexsort((self._keys, -self._counts))
        return self._keys[order], self._counts[order]

    def _settle(self) -> None:
        if not self._waiting:
            return
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._waiting)])
        counts = np.concatenate([self._counts, *(counts for _, counts in self._waiting)])
        self._waiting, self._num_waiting = [], 0
        self._keys, place = np.unique(keys, return_inverse=True)
        # float64 sums of integers are exact up to 2^53.
        self._counts = np.bincount(place, counts, len(self._keys)).astype(np.int64)
        if len(self._keys) > self.capacity:
            first_out = len(self._counts) - self.capacity - 1
            excess = int(np.partition(self._counts, first_out)[first_out])
            kept = self._counts > excess
            self._keys, self._counts = self._keys[kept], self._counts[kept] - excess
            self._error += excess
