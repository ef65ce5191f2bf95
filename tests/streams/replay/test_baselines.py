"""Baselines: by hand, and never ahead of their time."""

import numpy as np
import pytest

from streams.replay.baselines import BaseRate, Graded, RunningMeans, progressive


def example(user: str, item: str, label: float, event_ms: int, label_ms: int) -> Graded:
    return Graded(user=user, item=item, label=label, predicted=0.5, event_ms=event_ms, label_ms=label_ms)


def test_the_base_rate_begins_at_one_click_in_two() -> None:
    rate = BaseRate()
    assert rate.predict("u", "i") == 0.5
    for label in (0.0, 0.0, 1.0):
        rate.learn("u", "i", label)
    assert rate.predict("u", "i") == pytest.approx(2 / 5)


def test_running_means_add_up_as_log_odds() -> None:
    means = RunningMeans(weight=1.0, clicks=0.0)
    means.learn("u", "i", 1.0)
    # Base (1 + 1) / (2 + 1) = 2/3, odds 2. User and item: (1 + 2/3) / 2 = 5/6, odds 5. Together 5 * 5 / 2 = 12.5.
    assert means.predict("u", "i") == pytest.approx(12.5 / 13.5)
    assert means.predict("u", "new") == pytest.approx(5 / 6)
    assert means.predict("new", "new") == pytest.approx(2 / 3)


def test_where_clicks_are_rare_one_click_says_little() -> None:
    means = RunningMeans()
    for n in range(998):
        means.learn(f"u{n}", f"i{n}", 0.0)
    means.learn("u", "i", 1.0)
    # Base 2 / 1001, so 1001 examples hold two clicks. User and item: (1 + 2) / 1002 each, 1.5 times the base.
    assert means.predict("u", "i") == pytest.approx(1.5 * 1.5 * 2 / 1001, rel=0.01)


def test_a_label_is_learned_when_its_time_is_over_and_no_sooner() -> None:
    examples = [
        example("a", "x", 1.0, event_ms=0, label_ms=100),
        example("a", "x", 1.0, event_ms=100, label_ms=100),  # the first is known at 100, not before
        example("a", "x", 0.0, event_ms=101, label_ms=500),
        example("a", "x", 1.0, event_ms=501, label_ms=501),
    ]
    assert progressive(BaseRate(), examples) == pytest.approx([1 / 2, 1 / 2, 3 / 4, 3 / 5])


def test_the_order_in_which_labels_arrived_does_not_matter() -> None:
    examples = [example("a", "x", i % 2, event_ms=10 * i, label_ms=10 * i + 25) for i in range(50)]
    shuffled = np.random.default_rng(0).permutation(50)
    there = progressive(RunningMeans(), [examples[i] for i in shuffled])
    assert there == pytest.approx(progressive(RunningMeans(), examples)[shuffled])


def test_running_means_beat_the_base_rate_where_items_differ() -> None:
    rng = np.random.default_rng(1)
    rates = rng.beta(1, 3, 20)
    items = rng.integers(0, 20, 3000)
    examples = [example("u", str(i), float(rng.random() < rates[i]), n, n) for n, i in enumerate(items)]
    labels = np.array([e.label for e in examples])

    def loss(p: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        return float(-(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean())

    assert loss(progressive(RunningMeans(), examples)) < 0.9 * loss(progressive(BaseRate(), examples))
