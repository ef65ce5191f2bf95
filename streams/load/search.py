"""The highest rate that is sustained: doubled until one is not, then the gap halved. Knows rows; nothing of Kafka."""

from collections.abc import Callable
from dataclasses import dataclass

from streams.load.measure import Row

LOWEST_RATE = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sustained:
    """What a rate must give to count as sustained."""

    p99_ms: float = 100.0
    """Latency that 99 % stay within."""
    in_time: float = 0.99
    """Least share of requests that are scored and read within their deadline."""
    reached: float = 0.98
    """Least rate of answers, as a share of the one asked for; p99_ms after the last was due they must be there."""

    behind_s: float = 2.0
    """Most seconds of examples that the weights may be behind: else they would be ever further."""

    def why_not(self, row: Row) -> str | None:
        """What a row lacks; None if its rate is sustained."""
        p99, answers = row.latency.percentile(99), row.reached(grace_ms=self.p99_ms)
        if row.in_time_share < self.in_time:
            return f"{row.in_time_share:.1%} scored within {row.deadline_ms} ms, needs {self.in_time:.0%}"
        needed = self.reached * row.sent / row.seconds  # a whole number of requests is not quite the rate
        if answers < needed:
            return f"{answers:.2f} answers a second, needs {needed:.2f}"
        if p99 is None or p99 > self.p99_ms:
            return f"p99 {p99 or 0:.0f} ms, needs {self.p99_ms:g}"
        if row.behind_s is not None and row.behind_s > self.behind_s:
            return f"the trainer is {row.behind_s:.1f} s behind, needs {self.behind_s:g}"
        return None


def find_max(sustained: Callable[[float], bool], start: float, *, precision: float = 0.05) -> float | None:
    """The highest sustained rate, requests a second, to a share of `precision` of it; None if not even LOWEST_RATE is.

    sustained: tries a rate. It is asked at most about log2(highest / start) + log2(1 / precision) times.
    """
    low, high = None, start
    while sustained(high):
        low, high = high, 2 * high
    while low is None:
        if high <= LOWEST_RATE:
            return None
        tried = max(LOWEST_RATE, high / 2)
        if sustained(tried):
            low = tried
        else:
            high = tried
    while high > low * (1 + precision):
        middle = (low + high) / 2
        if sustained(middle):
            low = middle
        else:
            high = middle
    return low
