"""Baselines: by hand, and never ahead of their time."""

import numpy as np
import pytest

from ranker.config import ITEM, USER, ModelConfig, Slot, TableConfig, TierConfig
from ranker.grades import PRIOR_LABELS
from streams.datasets.logs.traffic import LoggedImpression
from streams.replay.baselines import BaseRate, RunningMeans, Schedule, known_after, known_at, progressive
from streams.replay.report import BASELINES
from streams.replay.rivals import PRIOR, AsOf, boosted_trees, vowpal_wabbit


def row(user: str, item: str, clicked: bool, **features: str | float | list[str]) -> LoggedImpression:
    return LoggedImpression(user=user, item=item, event_ms=0, clicked=clicked, item_features=dict(features))


def loss(rows: list[LoggedImpression], p: np.ndarray) -> float:
    labels = np.array([row.clicked for row in rows])
    return float(-np.log(np.where(labels, p, 1 - p)).mean())


def test_the_base_rate_begins_at_the_prior_as_the_model_does() -> None:
    rate = BaseRate(0.1)
    assert rate.predict(row("u", "i", False)) == pytest.approx(0.1)
    for clicked in (False, False, True, False, False):
        rate.learn(row("u", "i", clicked))
    assert rate.predict(row("u", "i", False)) == pytest.approx((1 + 0.1 * PRIOR_LABELS) / (5 + PRIOR_LABELS))


def test_where_nothing_can_be_learned_nobody_wins_by_how_it_begins() -> None:
    """A short log of random labels that come late: what is said before the first of them is much of what is graded."""
    rng = np.random.default_rng(4)
    rows = [row(f"u{n % 50}", f"i{n % 40}", bool(rng.random() < 0.06), kind=f"k{n % 3}") for n in range(1_500)]
    schedule = known_after(len(rows), 256)
    known = loss(rows, np.full(len(rows), 0.06))
    for name, baseline in BASELINES.items():
        assert baseline(rows, schedule, MODEL)[:256] == pytest.approx(MODEL.click_prior, rel=1e-4), name
    assert loss(rows, BASELINES["base rate"](rows, schedule, MODEL)) < 1.05 * known


def test_running_means_add_up_as_log_odds() -> None:
    means = RunningMeans(0.65, weight=1.0, clicks=0.0)
    means.learn(row("u", "i", True))
    # Base (13 + 1) / (20 + 1) = 2/3, odds 2. User and item: (1 + 2/3) / 2 = 5/6, odds 5. Together 5 * 5 / 2 = 12.5.
    assert means.predict(row("u", "i", False)) == pytest.approx(12.5 / 13.5)
    assert means.predict(row("u", "new", False)) == pytest.approx(5 / 6)
    assert means.predict(row("new", "new", False)) == pytest.approx(2 / 3)


def test_where_clicks_are_rare_one_click_says_little() -> None:
    means = RunningMeans(0.05)
    for n in range(980):
        means.learn(row(f"u{n}", f"i{n}", False))
    means.learn(row("u", "i", True))
    # Base (1 + 1) / (20 + 981): 1001 examples hold two clicks. User and item: (1 + 2) / 1002 each, 1.5 times the base.
    assert means.predict(row("u", "i", False)) == pytest.approx(1.5 * 1.5 * 2 / 1001, rel=0.01)


def test_a_label_is_learned_when_its_time_is_over_and_no_sooner() -> None:
    rows = [row("a", "x", clicked) for clicked in (True, True, False, True)]
    schedule = known_at([0, 100, 101, 501], [100, 100, 500, 501])  # the first is known at 100, but not before
    assert progressive(BaseRate(0.5), rows, schedule) == pytest.approx([1 / 2, 1 / 2, 12 / 22, 12 / 23])
    assert schedule.lag_n.tolist() == [0, 1, 0, 0]


def test_labels_are_learned_in_the_order_in_which_they_became_known() -> None:
    schedule = known_at([0, 1, 2, 30], [9, 20, 3, 40])
    assert schedule.order_n.tolist() == [2, 0, 1, 3]
    assert schedule.known_n.tolist() == [0, 0, 0, 3]


@pytest.mark.parametrize("later", [0, 1, 16, 1_000])
def test_a_label_that_is_later_by_some_examples_is_known_to_those_behind(later: int) -> None:
    schedule = known_after(50, later)
    for n, known in enumerate(schedule.known_n):
        assert set(schedule.order_n[:known]) == set(range(max(0, n - later)))


def test_running_means_beat_the_base_rate_where_items_differ() -> None:
    rng = np.random.default_rng(1)
    rates = rng.beta(1, 3, 20)
    rows = [row("u", str(i), bool(rng.random() < rates[i])) for i in rng.integers(0, 20, 3000)]
    schedule = known_after(len(rows), 0)
    assert loss(rows, progressive(RunningMeans(0.5), rows, schedule)) < 0.9 * loss(
        rows, progressive(BaseRate(0.5), rows, schedule)
    )


MODEL = ModelConfig(
    name="log",
    slots=(
        Slot(name=USER, side="user"),
        Slot(name=ITEM, side="candidate", table="items"),
        Slot(name="kind", side="candidate"),
        Slot(name="price", side="candidate", kind="numeric"),
    ),
    tables=(TableConfig(name="items", rows=8), TableConfig(name="shared", rows=8)),
    tiers=(TierConfig(name="light"),),
)


def test_columns_are_counts_and_means_of_what_was_learned() -> None:
    columns = AsOf(MODEL)
    columns.learn(row("u", "a", True, kind=["x", "y"]))
    columns.learn(row("u", "b", False, kind="x"))
    base = (1 + PRIOR_LABELS * MODEL.click_prior) / (2 + PRIOR_LABELS)
    user, item, kind, pair = (np.array([clicks + PRIOR * base, 0]) for clicks in (1, 1, 1, 1))
    user[:] = user[0] / (2 + PRIOR), np.log1p(2)
    item[:] = item[0] / (1 + PRIOR), np.log1p(1)
    kind[:] = ((1 + PRIOR * base) / (2 + PRIOR) + (1 + PRIOR * base) / (1 + PRIOR)) / 2, np.log1p(1.5)
    pair[:] = kind
    found = columns.of(row("u", "a", False, kind=["x", "y"], price=7.5))
    assert len(found) == columns.width
    assert found == pytest.approx([*user, *item, *kind, *pair, 7.5])


def interests(number: int) -> list[LoggedImpression]:
    """Each user likes one of two kinds: means of users and items say nothing."""
    rng = np.random.default_rng(2)
    drawn = rng.integers(0, 2, (number, 3))
    return [
        row(f"u{n % 20}", f"i{kind}", bool(rng.random() < (0.9 if kind == n % 2 else 0.1)), kind=f"k{kind}", price=1.0)
        for n, (kind, *_) in enumerate(drawn.tolist())
    ]


def test_crosses_and_trees_learn_what_means_cannot() -> None:
    rows = interests(4_000)
    schedule = known_after(len(rows), 16)
    means = loss(rows, progressive(RunningMeans(0.5), rows, schedule))
    for p_n in (vowpal_wabbit(rows, schedule, MODEL), boosted_trees(rows, schedule, MODEL)):
        assert ((p_n > 0) & (p_n < 1)).all()
        assert loss(rows, p_n) < 0.85 * means


@pytest.mark.parametrize("rival", [vowpal_wabbit, boosted_trees])
def test_no_rival_knows_a_label_before_its_schedule(rival) -> None:  # type: ignore[no-untyped-def]
    """What comes from the 1,200th example on is changed: predictions that knew only earlier ones stay."""
    rows = interests(1_400)
    other = [*rows[:1_200], *(row(r.user, r.item, not r.clicked, **(r.item_features or {})) for r in rows[1_200:])]
    schedule = known_after(len(rows), 100)
    before, after = rival(rows, schedule, MODEL), rival(other, schedule, MODEL)
    assert (before[:1_301] == after[:1_301]).all()
    assert (before[1_301:] != after[1_301:]).any()


def test_trees_stand_a_log_of_a_single_click() -> None:
    rows = [row(f"u{n % 9}", f"i{n % 7}", n == 30, kind="k", price=1.0) for n in range(1_200)]
    assert ((p_n := boosted_trees(rows, known_after(1_200, 0), MODEL)) < 0.6).all()
    assert (p_n >= 0).all()


def test_names_that_hold_the_separators_of_a_format_are_names_like_others() -> None:
    odd = [row("a|b c:d", "i\n1", n % 3 == 0, kind="x y|z", price=float(n)) for n in range(60)]
    assert np.isfinite(vowpal_wabbit(odd, Schedule(np.arange(60), np.arange(60)), MODEL)).all()
