"""Normalized entropy and its paired interval, by hand and over many draws."""

import math

import numpy as np
import pytest

from streams.demo.entropy import StepLosses, calibration, entropies


def step(count: float, positives: float, served: float, frozen: float | None, base: float = 1.0) -> StepLosses:
    return StepLosses(0, count, positives, 1.1 * positives, served, base, frozen)


def test_losses_are_divided_by_the_entropy_of_the_labels_mean() -> None:
    found = entropies([step(6, 2, 3.0, 4.0), step(2, 0, 1.0, 1.5, base=2.0)])
    assert found is not None
    scale = 8 * -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found.labels == 8
    assert found.live == pytest.approx(4.0 / scale)
    assert found.frozen == pytest.approx(5.5 / scale)
    assert found.base == pytest.approx(3.0 / scale)


def test_knowing_the_mean_and_nothing_else_is_an_entropy_of_one() -> None:
    loss = -(3 * math.log(0.3) + 7 * math.log(0.7))
    found = entropies([step(10, 3, loss, loss, base=loss)])
    assert found is not None
    assert (found.live, found.frozen, found.base) == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.parametrize("steps", [[], [step(5, 0, 1.0, 1.0)], [step(5, 5, 1.0, 1.0)]])
def test_labels_of_one_kind_have_no_entropy_to_compare_with(steps: list[StepLosses]) -> None:
    assert entropies(steps) is None


def test_without_a_frozen_copy_there_is_no_difference() -> None:
    found = entropies([step(4, 1, 1.0, None), step(4, 1, 1.0, 1.0)])
    assert found is not None
    assert found.frozen is None
    assert found.difference_95 is None


def test_a_difference_that_is_the_same_for_every_label_is_certain() -> None:
    found = entropies([step(4, 1, 2.0, 2.4), step(8, 2, 4.0, 4.8)])
    assert found is not None
    assert found.difference_95 is not None
    assert found.frozen is not None
    low, high = found.difference_95
    assert low == pytest.approx(high)
    assert low == pytest.approx(found.live - found.frozen)


def test_the_interval_covers_the_true_difference_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        count = rng.integers(1, 60, size=200)
        # 0.02 nats a label, with noise that the labels of one update share.
        gain = count * (-0.02 + 0.1 * rng.standard_normal(200))
        steps = [step(float(n), 0.1 * n, float(n), float(n - g)) for n, g in zip(count, gain, strict=True)]
        found = entropies(steps)
        assert found is not None
        assert found.difference_95 is not None
        low, high = found.difference_95
        truth = -0.02 / -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
        covered += low < truth < high
    assert 0.92 <= covered / 400 <= 0.98


def test_steps_without_click_labels_are_left_out() -> None:
    assert StepLosses.of(1, {}) is None
    assert StepLosses.of(1, {"examples": 3.0, "click.count": 0.0}) is None
    grades = {"count": 2.0, "positives": 1.0, "predicted": 1.2, "served": 0.5, "base": 0.7}
    clicks = {f"click.{name}": value for name, value in grades.items()}
    assert StepLosses.of(7, clicks) == StepLosses(7, 2.0, 1.0, 1.2, 0.5, 0.7, None)
    assert StepLosses.of(7, clicks | {"click.frozen": 0.6}) == StepLosses(7, 2.0, 1.0, 1.2, 0.5, 0.7, 0.6)
    assert StepLosses.of(7, clicks, "conversion") is None


def test_calibration_is_what_was_predicted_over_what_came() -> None:
    assert calibration([step(6, 2, 3.0, None), step(4, 0, 1.0, None), step(9, 3, 3.0, None)]) == pytest.approx(1.1)
    assert calibration([step(4, 0, 1.0, None)]) is None
