"""The search for the highest sustained rate, against systems whose capacity is known."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.load.measure import Row
from streams.load.search import LOWEST_RATE, Sustained, find_max


@given(st.floats(min_value=1.1, max_value=5_000), st.floats(min_value=1, max_value=500))
def test_it_finds_the_capacity_to_five_percent_and_never_above(capacity: float, start: float) -> None:
    tried: list[float] = []

    def sustained(rate: float) -> bool:
        tried.append(rate)
        return rate <= capacity

    found = find_max(sustained, start)
    assert found is not None
    assert found <= capacity <= 1.06 * found
    assert found in tried
    assert len(tried) <= 25


def test_a_system_that_sustains_nothing_has_no_highest_rate() -> None:
    tried: list[float] = []

    def never(rate: float) -> bool:
        tried.append(rate)
        return False

    assert find_max(never, 20) is None
    assert tried[-1] == LOWEST_RATE


def row(*, latency_ms: float = 20.0, in_time: int = 1000, slower: float = 1.0, behind_s: float | None = 0.2) -> Row:
    """100 requests a second for 10 s; the answers take `slower` times as long as that to be read."""
    made = Row(rate=100, seconds=10, deadline_ms=500, timeout_ms=5_000, sent=1000, in_time=in_time, behind_s=behind_s)
    made.latency.record(latency_ms, times=1000)
    made.read_s = [slower * n / 100 for n in range(1000)]
    return made


def test_a_rate_that_makes_no_whole_number_of_requests_is_sustained_by_answering_them() -> None:
    made = Row(rate=1.25, seconds=10, deadline_ms=500, timeout_ms=5_000, sent=12, in_time=12)
    made.latency.record(20, times=12)
    made.read_s = [0.8 * n for n in range(12)]
    assert Sustained().why_not(made) is None


@pytest.mark.parametrize(
    ("made", "lacks"),
    [
        (row(), None),
        (row(in_time=990), None),
        (row(in_time=989), "98.9% scored within 500 ms, needs 99%"),
        (row(slower=1.02), None),
        (row(slower=1.05), "96.20 answers a second, needs 98.00"),
        (row(latency_ms=99), None),
        (row(latency_ms=120), r"p99 1\d\d ms, needs 100"),
        (row(behind_s=None), None),
        (row(behind_s=2.0), None),
        (row(behind_s=2.1), "the trainer is 2.1 s behind, needs 2"),
    ],
)
def test_each_condition_of_a_sustained_rate_is_asked(made: Row, lacks: str | None) -> None:
    why_not = Sustained().why_not(made)
    if lacks is None:
        assert why_not is None
    else:
        assert why_not is not None
        assert re.fullmatch(lacks, why_not)
