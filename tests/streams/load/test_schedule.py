"""Due times: known beforehand, at the asked rate, and as independent callers would make them."""

import numpy as np
import pytest

from streams.load.schedule import Pacing, due_times


@pytest.mark.parametrize("pacing", ["poisson", "uniform"])
@pytest.mark.parametrize(("rate", "seconds"), [(20.0, 30.0), (0.5, 2.0), (333.3, 7.0)])
def test_the_rate_is_exactly_the_asked_one(rate: float, seconds: float, pacing: Pacing) -> None:
    due = due_times(rate, seconds, pacing=pacing)
    assert len(due) == round(rate * seconds)
    assert due[0] >= 0
    assert due[-1] < seconds
    assert np.all(np.diff(due) >= 0)


def test_they_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    first = due_times(50, 10, seed=1)
    np.testing.assert_array_equal(first, due_times(50, 10, seed=1))
    assert not np.array_equal(first, due_times(50, 10, seed=2))


def test_poisson_gaps_vary_as_much_as_they_are_long_and_uniform_ones_not_at_all() -> None:
    gaps = np.diff(due_times(1000, 20, pacing="poisson"))
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(np.diff(due_times(1000, 20, pacing="uniform")), 0.001)


@pytest.mark.parametrize(
    ("rate", "seconds"), [(0, 1), (-5, 1), (float("nan"), 1), (2e5, 1), (20, 0), (20, float("inf"))]
)
def test_senseless_rates_and_lengths_are_refused(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        due_times(rate, seconds)


def test_a_run_without_a_request_is_refused() -> None:
    with pytest.raises(ValueError, match="change one of them"):
        due_times(0.1, 1)
