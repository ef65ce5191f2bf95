"""A histogram of times with a bounded relative error, in the manner of HdrHistogram (Tene 2012). Knows nothing else.

Values are whole microseconds. Buckets are log-linear: each doubling is cut into HALF buckets of equal width, so a
bucket is at most 1/HALF of its values wide, and its middle at most 1/(2·HALF) = 0.78 % away from any of them. Below
2·HALF every value has a bucket of its own.

    shift  = max(0, bits(value) - 7)            value >> shift then is in HALF .. 2·HALF - 1
    bucket = shift · HALF + (value >> shift)
"""

import math
from collections import Counter
from collections.abc import Iterable

HALF = 64
_BITS = (2 * HALF - 1).bit_length()


class Histogram:
    """Counts of milliseconds. Memory grows with the logarithm of the range, never with the number of values."""

    def __init__(self, values_ms: Iterable[float] = ()) -> None:
        self._counts: Counter[int] = Counter()
        self._count = 0
        self._max_us = 0
        for value_ms in values_ms:
            self.record(value_ms)

    def record(self, value_ms: float, times: int = 1) -> None:
        """Raises ValueError on what is no time: a negative, infinite or undefined value."""
        if not 0 <= value_ms < math.inf:
            raise ValueError(f"a time must be finite and >= 0 ms, got {value_ms}")
        if times < 1:
            raise ValueError(f"times must be >= 1, got {times}")
        value_us = round(1000 * value_ms)
        self._counts[_bucket(value_us)] += times
        self._count += times
        self._max_us = max(self._max_us, value_us)

    def merge(self, other: "Histogram") -> None:
        """Takes over all that the other has counted: the same as if it had been recorded here."""
        self._counts.update(other._counts)
        self._count += other._count
        self._max_us = max(self._max_us, other._max_us)

    @property
    def count(self) -> int:
        return self._count

    @property
    def max(self) -> float | None:
        """The largest value, to the microsecond; None of nothing."""
        return self._max_us / 1000 if self._count else None

    def percentile(self, percent: float) -> float | None:
        """The smallest value that at least `percent` percent of all do not exceed (nearest rank), in ms, to 0.78 % and
        half a microsecond; None of nothing. Raises ValueError unless 0 <= percent <= 100.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"percent must be in 0..100, got {percent}")
        if not self._count:
            return None
        rank = max(1, math.ceil(percent * self._count / 100))
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                break
        return min(_middle(bucket), self._max_us) / 1000


def _bucket(value_us: int) -> int:
    shift = max(0, value_us.bit_length() - _BITS)
    return shift * HALF + (value_us >> shift)


def _middle(bucket: int) -> float:
    """Returns the middle of the values that fall into the bucket, in microseconds."""
    shift = max(0, bucket // HALF - 1)
    low = (bucket - shift * HALF) << shift
    return low + ((1 << shift) - 1) / 2
