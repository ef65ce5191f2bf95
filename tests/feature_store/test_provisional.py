"""What is said of an impression before its click, or of a click before its conversion, or a window's end, is known."""

from dataclasses import replace

import pytest
from redis import Redis

from feature_store import Closed, Fact, JoinConfig, Joiner, Label, LogConfig, Reply, example_id
from tests.feature_store.facts import MINUTE, T0, action, impression, served

WINDOWS = JoinConfig(
    click_window_ms=10 * MINUTE,
    attribution_window_ms=60 * MINUTE,
    early_ms=5 * MINUTE,
    state_ttl_s=2 * 3600,
    elapsed_ms=15 * MINUTE,
)
LOG = LogConfig(length=32, slack=8, tags=16)
POLICIES = ["none", "click", "elapsed"]


def clicked(redis: Redis, provisional: str) -> tuple[Joiner, Reply]:
    """Shown at 0, clicked after a minute."""
    join = Joiner(redis, LOG, replace(WINDOWS, provisional=provisional))  # type: ignore[arg-type]
    *_, reply = join.apply([served(), impression(), action("c", at=MINUTE)], {})
    return join, reply


def one(join: Joiner, fact: Fact) -> Reply:
    (reply,) = join.apply([fact], {})
    return reply


def sweep(join: Joiner, at: int) -> list[Closed]:
    closed = [closed for closed in join.sweep(T0 + at, limit=1000) if closed.outcomes]
    join.settle(closed)
    return closed


def told(labels: tuple[Label, ...]) -> list[tuple[str, int, bool]]:
    return [(example_id(label), label.label, label.corrects) for label in labels]


def test_a_click_is_a_negative_example_at_once_and_a_conversion_corrects_it(redis: Redis) -> None:
    join, reply = clicked(redis, "click")
    assert told(reply.labels) == [("click:i", 1, False), ("provisional:i", 0, False)]
    said = reply.labels[1]
    assert (said.kind, said.trigger_id, said.label_ms, said.by_window) == ("conversion", "c", T0 + MINUTE, False)
    assert one(join, action("c", at=MINUTE)).labels == reply.labels
    assert told(one(join, action("p", "conversion", at=2 * MINUTE)).labels) == [("conversion:i", 1, True)]


def test_the_elapsed_time_makes_a_negative_example_until_it_is_settled(redis: Redis) -> None:
    join, reply = clicked(redis, "elapsed")
    assert told(reply.labels) == [("click:i", 1, False)]
    assert [one.labels for one in join.sweep(T0 + 16 * MINUTE - 1, limit=10) if one.labels] == []
    first = [one for one in join.sweep(T0 + 16 * MINUTE, limit=10) if one.labels]
    assert [one.outcomes for one in first] == [("provisional",)]
    assert told(first[0].labels) == [("provisional:i", 0, False)]
    assert (first[0].labels[0].label_ms, first[0].labels[0].by_window) == (T0 + 16 * MINUTE, True)
    assert told(one(join, action("p", "conversion", at=30 * MINUTE)).labels) == [("conversion:i", 1, True)]
    again = [one for one in join.sweep(T0 + 40 * MINUTE, limit=10) if one.labels]
    assert again == first
    join.settle(again)
    assert sweep(join, 59 * MINUTE) == []


def test_a_conversion_within_the_elapsed_time_corrects_nothing(redis: Redis) -> None:
    join, _ = clicked(redis, "elapsed")
    assert told(one(join, action("p", "conversion", at=16 * MINUTE)).labels) == [("conversion:i", 1, False)]
    assert sweep(join, 120 * MINUTE - 1) == []


def test_a_conversion_that_comes_behind_the_clock_corrects_what_was_said(redis: Redis) -> None:
    """Its event time alone would call it early."""
    join, _ = clicked(redis, "elapsed")
    assert len(sweep(join, 20 * MINUTE)) == 1
    early = one(join, action("p", "conversion", at=5 * MINUTE))
    assert told(early.labels) == [("conversion:i", 1, True)]
    assert one(join, action("p", "conversion", at=5 * MINUTE)).labels == early.labels


def test_a_served_record_that_comes_after_all_else_brings_all_labels(redis: Redis) -> None:
    join = Joiner(redis, LOG, replace(WINDOWS, provisional="elapsed"))
    join.apply([impression(), action("c", at=MINUTE), action("p", "conversion", at=50 * MINUTE)], {})
    assert sweep(join, 40 * MINUTE) == []
    assert told(one(join, served()).labels) == [("click:i", 1, False), ("conversion:i", 1, True)]
    assert [told(closed.labels) for closed in sweep(join, 40 * MINUTE)] == [[("provisional:i", 0, False)]]


@pytest.mark.parametrize("provisional", POLICIES)
def test_the_final_label_comes_under_every_policy(redis: Redis, provisional: str) -> None:
    join, _ = clicked(redis, provisional)
    final = [label for at in (20, 60) for closed in sweep(join, at * MINUTE) for label in closed.labels][-1]
    assert (example_id(final), final.label, final.by_window, final.provisional) == ("conversion:i", 0, True, False)


@pytest.mark.parametrize("provisional", POLICIES)
def test_what_comes_after_the_window_is_counted_as_late_and_labels_nothing(redis: Redis, provisional: str) -> None:
    join, _ = clicked(redis, provisional)
    in_time_but_behind_the_clock = action("p", "conversion", at=59 * MINUTE)
    for at in (20, 60):
        sweep(join, at * MINUTE)
    after = one(join, action("q", "conversion", at=61 * MINUTE))
    assert (after.outcome, after.labels) == ("late", ())
    behind = one(join, in_time_but_behind_the_clock)
    assert (behind.outcome, behind.labels) == ("late", ())


@pytest.mark.parametrize("elapsed_ms", [0, 50 * MINUTE])
def test_the_elapsed_time_ends_within_the_attribution_window(elapsed_ms: int) -> None:
    with pytest.raises(ValueError, match="elapsed_ms must be > 0 and end before the attribution window"):
        replace(WINDOWS, provisional="elapsed", elapsed_ms=elapsed_ms)


def shown(redis: Redis) -> Joiner:
    join = Joiner(redis, LOG, replace(WINDOWS, click_elapsed_ms=2 * MINUTE))
    join.apply([served(), impression()], {})
    return join


def test_what_is_not_clicked_soon_is_a_negative_example_until_a_click_corrects_it(redis: Redis) -> None:
    join = shown(redis)
    assert sweep(join, 2 * MINUTE - 1) == []
    first = [one for one in join.sweep(T0 + 2 * MINUTE, limit=10) if one.labels]
    assert [one.outcomes for one in first] == [("provisional",)]
    (said,) = first[0].labels
    assert told((said,)) == [("unclicked:i", 0, False)]
    assert (said.kind, said.provisional, said.by_window) == ("click", True, True)
    assert (said.label_ms, said.trigger_id) == (T0 + 2 * MINUTE, "")
    assert [one for one in join.sweep(T0 + 3 * MINUTE, limit=10) if one.labels] == first, "until it is settled"
    join.settle(first)
    late = one(join, action("c", at=9 * MINUTE))
    assert told(late.labels) == [("click:i", 1, True)]
    assert one(join, action("c", at=9 * MINUTE)).labels == late.labels
    assert sweep(join, 11 * MINUTE) == []


def test_a_click_soon_corrects_nothing(redis: Redis) -> None:
    join = shown(redis)
    assert told(one(join, action("c", at=2 * MINUTE)).labels) == [("click:i", 1, False)]
    assert sweep(join, 11 * MINUTE) == []


def test_a_click_that_comes_behind_the_clock_corrects_what_was_said(redis: Redis) -> None:
    join = shown(redis)
    assert len(sweep(join, 3 * MINUTE)) == 1
    assert told(one(join, action("c", at=MINUTE)).labels) == [("click:i", 1, True)]


def test_a_click_label_is_final_whatever_was_said(redis: Redis) -> None:
    join = shown(redis)
    labels = [label for at in (5, 15, 90) for closed in sweep(join, at * MINUTE) for label in closed.labels]
    assert told(tuple(labels)) == [("unclicked:i", 0, False), ("click:i", 0, False)]
    assert not labels[1].provisional


@pytest.mark.parametrize("elapsed_ms", [-1, 10 * MINUTE])
def test_the_elapsed_time_of_a_click_ends_within_its_window(elapsed_ms: int) -> None:
    with pytest.raises(ValueError, match="0 <= click_elapsed_ms < click_window_ms"):
        replace(WINDOWS, click_elapsed_ms=elapsed_ms)
