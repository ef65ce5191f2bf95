"""How sure a change of the loss is, and what it would take to be sure enough."""

import math

import numpy as np
import pytest

from ranker.tuning.held_out import Change, compare


def test_so_many_times_the_labels_put_the_interval_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    before = rng.exponential(size=500)
    after = before + rng.normal(0.01, 0.2, size=500)
    change = compare(before, after)
    budget = change.loss + change.error / 3
    growth = change.sample_growth(budget)
    assert change.interval[1] > budget
    assert growth == pytest.approx(9)
    larger = compare(np.tile(before, round(growth)), np.tile(after, round(growth)))
    assert larger.interval[1] == pytest.approx(budget)
    assert change.sample_growth(change.interval[1]) == pytest.approx(1)


def test_a_loss_at_or_past_the_budget_is_never_within_it() -> None:
    assert Change(loss=2e-4, error=1e-5).sample_growth(1e-4) == math.inf
    assert Change(loss=1e-4, error=1e-5).sample_growth(1e-4) == math.inf
    assert Change(loss=0.0, error=0.0).sample_growth(0.0) == 0
