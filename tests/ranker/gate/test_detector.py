"""The gate's tests speak soon when something is wrong, and hold their tongue when nothing is."""

import numpy as np
import pytest

from ranker.arrays import F64
from ranker.gate.detector import PATIENT, QUICK, Detector, strange, worse

N = 400_000
"""Labels of a long clean run: at a hundred a second, more than an hour."""


def stream(seed: int, n: int = N) -> tuple[F64, F64]:
    """Probabilities around .1, and labels that follow them."""
    rng = np.random.default_rng(seed)
    p_n = 1 / (1 + np.exp(-rng.normal(-2.4, 0.8, n)))
    return p_n, (rng.random(n) < p_n).astype(np.float64)


def logit(p_n: F64) -> F64:
    return np.asarray(np.log(p_n) - np.log1p(-p_n))


def shifted(p_n: F64, by: float) -> F64:
    return np.asarray(1 / (1 + np.exp(-(logit(p_n) + by))))


def first_alarm(addends_n: F64, false_alarms: float = 1e6) -> int | None:
    """After how many labels, fed a few at a time."""
    detector = Detector(false_alarms)
    for start in range(0, len(addends_n), 37):
        some = addends_n[start : start + 37]
        if detector.add(some, np.arange(start, start + len(some))):
            return start + len(some)
    return None


@pytest.mark.parametrize("seed", range(3))
def test_clean_labels_raise_no_alarm(seed: int) -> None:
    p_n, y_n = stream(seed)
    noisy_n = shifted(p_n, 0.1)
    assert first_alarm(worse(y_n, p_n, noisy_n, 0.02)) is None
    for temper in (QUICK, PATIENT):
        assert first_alarm(strange(y_n, p_n, 0.1, temper)) is None


def test_each_addend_is_the_logarithm_of_an_e_value() -> None:
    for p in (0.01, 0.1, 0.5, 0.9):
        for other in (0.02, 0.3, 0.8):
            one, zero = np.array([1.0]), np.array([0.0])
            live, reference = np.array([p]), np.array([other])
            mean = p * np.exp(worse(one, live, reference, 0.0)) + (1 - p) * np.exp(worse(zero, live, reference, 0.0))
            assert mean[0] <= 1 + 1e-9
            for temper in (QUICK, PATIENT):
                values = np.exp(strange(one, live, 0.0, temper)), np.exp(strange(zero, live, 0.0, temper))
                assert p * values[0] + (1 - p) * values[1] == pytest.approx(1)


def test_drift_within_the_tolerance_raises_none() -> None:
    """The reference is half a minute old: a tenth more clicks than it believes in."""
    p_n, _ = stream(0)
    y_n = (np.random.default_rng(1).random(N) < shifted(p_n, 0.08)).astype(np.float64)
    for temper in (QUICK, PATIENT):
        assert first_alarm(strange(y_n, p_n, 0.15, temper)) is None


@pytest.mark.parametrize(("share", "temper", "at_most"), [(0.05, PATIENT, 5_000), (0.2, QUICK, 600), (0.5, QUICK, 250)])
def test_poisoned_labels_are_strange_soon(share: float, temper: float, at_most: int) -> None:
    p_n, y_n = stream(0, 20_000)
    flipped_n = np.random.default_rng(1).random(len(y_n)) < share
    alarm = first_alarm(strange(np.where(flipped_n, 1 - y_n, y_n), p_n, 0.1, temper))
    assert alarm is not None
    assert alarm <= at_most


def test_a_live_model_that_got_worse_is_found() -> None:
    p_n, y_n = stream(0, 50_000)
    noise_n = np.random.default_rng(1).normal(0, 1.0, len(p_n))
    live_n = np.asarray(1 / (1 + np.exp(-(logit(p_n) + noise_n))))
    alarm = first_alarm(worse(y_n, live_n, p_n, 0.02))
    assert alarm is not None
    assert alarm < 3_000
    assert first_alarm(worse(y_n, p_n, live_n, 0.02)) is None  # the other way round all is well


def test_the_sum_is_pages_whatever_the_portions() -> None:
    rng = np.random.default_rng(0)
    addends_n = rng.normal(-0.1, 1.0, 500)
    level, levels = 0.0, []
    for addend in addends_n:
        level = max(0.0, level + addend)
        levels.append(level)
    whole, portions = Detector(np.inf), Detector(np.inf)
    whole.add(addends_n, np.arange(500))
    for start in range(0, 500, 7):
        portions.add(addends_n[start : start + 7], np.arange(start, min(start + 7, 500)))
    assert whole.level == pytest.approx(levels[-1])
    assert portions.level == pytest.approx(levels[-1])
    assert whole.since_ms == portions.since_ms == max(i for i, x in enumerate(levels) if x == 0)


def test_it_speaks_until_it_is_reset_and_says_since_when() -> None:
    detector = Detector(np.e**4)
    assert not detector.add(np.array([-1.0, 1.0, 1.0]), np.array([10, 20, 30]))
    assert (detector.level, detector.since_ms, detector.suspicious) == (2.0, 10, False)
    assert detector.add(np.array([1.0, 3.0, -9.0]), np.array([40, 50, 60]))
    assert (detector.since_ms, detector.suspicious) == (10, True)
    assert detector.add(np.empty(0), np.empty(0, np.int64))
    detector.reset()
    assert not detector.add(np.empty(0), np.empty(0, np.int64))


def test_certain_predictions_do_not_break_it() -> None:
    y_n, p_n = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    for addends_n in (worse(y_n, p_n, 1 - p_n, 0.02), strange(y_n, p_n, 0.1)):
        assert np.isfinite(addends_n).all()
        assert (addends_n > 1).all()
