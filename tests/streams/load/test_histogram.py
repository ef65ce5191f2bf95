"""Percentiles of the histogram against exact ones of the same values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.load.histogram import Histogram

TIMES = st.lists(st.floats(min_value=0, max_value=1e7), min_size=1, max_size=200)
PERCENTS = st.sampled_from([0.0, 1.0, 50.0, 90.0, 99.0, 99.9, 100.0])


@given(TIMES, PERCENTS)
def test_a_percentile_is_the_exact_one_to_one_percent(times: list[float], percent: float) -> None:
    exact = float(np.percentile(times, percent, method="inverted_cdf"))
    assert Histogram(times).percentile(percent) == pytest.approx(exact, rel=0.01, abs=0.001)


@given(TIMES)
def test_count_and_max_are_exact(times: list[float]) -> None:
    histogram = Histogram(times)
    assert histogram.count == len(times)
    assert histogram.max == pytest.approx(max(times), abs=0.0005)
    assert histogram.percentile(100) == pytest.approx(histogram.max, rel=0.01)


@given(TIMES, TIMES, PERCENTS)
def test_merged_histograms_are_one_of_all_values(some: list[float], others: list[float], percent: float) -> None:
    merged = Histogram(some)
    merged.merge(Histogram(others))
    together = Histogram([*some, *others])
    assert (merged.count, merged.max) == (together.count, together.max)
    assert merged.percentile(percent) == together.percentile(percent)


@given(st.floats(min_value=0, max_value=1e7), st.integers(min_value=1, max_value=50))
def test_recording_a_value_many_times_is_recording_it_again_and_again(value: float, times: int) -> None:
    at_once = Histogram()
    at_once.record(value, times)
    assert at_once.count == times
    assert at_once.percentile(50) == Histogram([value] * times).percentile(50)


@pytest.mark.parametrize("microseconds", [0, 1, 127, 128, 129, 255, 256, 257, 2**20 - 1, 2**20, 2**20 + 1])
def test_the_error_holds_at_the_edges_of_buckets(microseconds: int) -> None:
    low = Histogram([microseconds / 1000, 1e9]).percentile(50)
    assert low == pytest.approx(microseconds / 1000, rel=1 / 128)


def test_memory_does_not_grow_with_the_values() -> None:
    histogram = Histogram(np.random.default_rng(0).lognormal(3, 2, 20_000))
    assert len(histogram._counts) < 2_000


def test_nothing_has_no_percentile() -> None:
    empty = Histogram()
    assert (empty.count, empty.max, empty.percentile(50)) == (0, None, None)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_what_is_no_time_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="a time must be finite and >= 0 ms"):
        Histogram([value])


@pytest.mark.parametrize("percent", [-1.0, 100.5])
def test_a_percent_beyond_its_range_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match=r"percent must be in 0\.\.100"):
        Histogram([1.0]).percentile(percent)
