"""Freshness by hand: one partition or two, one replica or two, epochs, and replicas that go silent."""

from collections.abc import Mapping
from typing import Any

import pytest

from streams.freshness.meter import Fresh, FreshnessMeter, Staircase, percentile, summarize

SILENT_MS = 10_000


def meter(**options: Any) -> FreshnessMeter:
    return FreshnessMeter(**{"silent_ms": SILENT_MS, "grace_ms": 0} | options)


def example(m: FreshnessMeter, offset: int, at_ms: int, *, trigger_ms: int, partition: int = 0, **kind: Any) -> None:
    click: dict[str, Any] = {
        "kind": "click",
        "label": 1.0,
        "by_window": False,
        "example_id": f"click:{partition}:{offset}",
    }
    m.example(partition, offset, broker_ms=at_ms, trigger_ms=trigger_ms, **click | kind)


def update(m: FreshnessMeter, number: int, at_ms: int, offsets: Mapping[int, int], *, epoch: int = 1) -> None:
    """Made 5 ms before it is on the topic, by a step of 20 ms."""
    m.update(epoch, number, offsets, begun_ms=at_ms - 25, created_ms=at_ms - 5, broker_ms=at_ms)


def respond(m: FreshnessMeter, replica: str, number: int, at_ms: int, *, epoch: int = 1) -> None:
    m.response(replica, epoch, number, broker_ms=at_ms)


def test_an_example_that_is_delivered_again_counts_once() -> None:
    m = meter()
    update(m, 1, 900, {0: 0})
    respond(m, "a", 1, 950)
    for offset, at_ms in ((0, 1_030), (1, 2_600)):
        example(m, offset, at_ms, trigger_ms=1_000, example_id="click:i")
    update(m, 2, 2_700, {0: 2})
    respond(m, "a", 2, 2_740)
    assert [fresh.join_ms for fresh in m.settle()] == [30]


def test_the_way_of_one_click_by_stage() -> None:
    m = meter()
    update(m, 1, 900, {0: 0})
    respond(m, "a", 1, 950)
    example(m, 0, 1_030, trigger_ms=1_000)
    respond(m, "a", 1, 1_100)  # without it
    update(m, 2, 1_200, {0: 1})
    assert m.settle() == []
    respond(m, "a", 2, 1_240)
    assert m.settle() == [Fresh("click", 1_000, join_ms=30, queue_ms=145, step_ms=20, publish_ms=5, apply_ms=40)]
    assert m.settle() == []


def test_total_is_the_sum_of_the_stages() -> None:
    assert Fresh("click", 1_000, join_ms=30, queue_ms=145, step_ms=20, publish_ms=5, apply_ms=40).total_ms == 240


def test_an_update_includes_offsets_below_its_own_only() -> None:
    m = meter()
    respond(m, "a", 1, 1_000)
    example(m, 7, 1_000, trigger_ms=1_000)
    update(m, 2, 1_100, {0: 7})
    respond(m, "a", 2, 1_110)
    update(m, 3, 1_200, {0: 8})
    respond(m, "a", 3, 1_210)
    assert [fresh.total_ms for fresh in m.settle()] == [210]


def test_the_slowest_replica_decides() -> None:
    m = meter()
    for replica in "ab":
        respond(m, replica, 1, 1_000)
    example(m, 0, 1_000, trigger_ms=1_000)
    update(m, 2, 1_100, {0: 1})
    respond(m, "a", 2, 1_110)
    respond(m, "b", 1, 1_200)
    assert m.settle() == []
    respond(m, "b", 2, 1_300)
    assert [fresh.total_ms for fresh in m.settle()] == [300]


def test_a_replica_that_jumps_over_the_update_has_it_too() -> None:
    m = meter()
    respond(m, "a", 1, 1_000)
    example(m, 0, 1_000, trigger_ms=1_000)
    for number in (2, 3):
        update(m, number, 1_000 + 100 * number, {0: number})
    respond(m, "a", 3, 1_350)
    [fresh] = m.settle()
    assert (fresh.total_ms, fresh.publish_ms + fresh.step_ms + fresh.queue_ms) == (350, 200)


def test_a_silent_replica_is_not_waited_for() -> None:
    m = meter()
    for replica in "ab":
        respond(m, replica, 1, 1_000)
    example(m, 0, 1_000, trigger_ms=1_000)
    update(m, 2, 1_100, {0: 1})
    respond(m, "a", 2, 1_110)
    respond(m, "a", 2, 1_000 + SILENT_MS)
    assert m.settle() == []
    respond(m, "a", 2, 1_001 + SILENT_MS)
    assert [fresh.total_ms for fresh in m.settle()] == [110]


def test_a_replica_that_was_not_there_yet_does_not_count() -> None:
    m = meter()
    respond(m, "a", 1, 1_000)
    example(m, 0, 1_000, trigger_ms=1_000)
    update(m, 2, 1_100, {0: 1})
    respond(m, "a", 2, 1_110)
    respond(m, "new", 2, 1_900)
    assert [fresh.total_ms for fresh in m.settle()] == [110]


def test_partitions_have_their_own_offsets() -> None:
    m = meter()
    respond(m, "a", 1, 1_000)
    example(m, 0, 1_000, trigger_ms=1_000, partition=0)
    example(m, 5, 1_000, trigger_ms=990, partition=1)
    update(m, 2, 1_100, {0: 1, 1: 5})
    respond(m, "a", 2, 1_110)
    assert [fresh.event_ms for fresh in m.settle()] == [1_000]
    update(m, 3, 1_200, {0: 1, 1: 6})
    respond(m, "a", 3, 1_210)
    assert [(fresh.event_ms, fresh.total_ms) for fresh in m.settle()] == [(990, 220)]


def test_a_new_epoch_that_starts_behind_does_not_count_until_it_has_learned_again() -> None:
    m = meter()
    update(m, 40, 900, {0: 5}, epoch=1)
    respond(m, "a", 40, 1_000, epoch=1)
    example(m, 5, 1_000, trigger_ms=1_000)
    update(m, 1, 1_100, {0: 3}, epoch=2)  # from the snapshot
    respond(m, "a", 1, 1_110, epoch=2)
    assert m.settle() == []
    update(m, 2, 1_200, {0: 6}, epoch=2)
    respond(m, "a", 2, 1_210, epoch=2)
    assert [fresh.total_ms for fresh in m.settle()] == [210]


def test_what_was_served_stays_served_when_a_new_epoch_starts_behind() -> None:
    m = meter()
    respond(m, "a", 1, 1_000)
    example(m, 0, 1_000, trigger_ms=1_000)
    update(m, 2, 1_100, {0: 1})
    respond(m, "a", 2, 1_110)
    update(m, 1, 1_200, {0: 0}, epoch=2)
    respond(m, "a", 1, 1_210, epoch=2)
    assert [fresh.total_ms for fresh in m.settle()] == [110]


def test_records_of_different_topics_may_come_in_any_order() -> None:
    m = meter(grace_ms=100)
    respond(m, "a", 1, 1_000)
    respond(m, "a", 2, 1_210)  # the first response with it, before update and example
    respond(m, "a", 2, 1_205)  # an earlier one, of another partition
    update(m, 2, 1_200, {0: 1})
    example(m, 0, 1_100, trigger_ms=1_000)
    assert m.settle() == []  # an earlier response may still come
    respond(m, "a", 2, 1_305)
    assert [fresh.total_ms for fresh in m.settle()] == [205]


@pytest.mark.parametrize(
    ("kind", "cause", "event_ms"),
    [
        ({"kind": "click", "label": 1.0, "by_window": False}, "click", 1_000),
        ({"kind": "conversion", "label": 1.0, "by_window": False}, "conversion", 1_000),
        ({"kind": "click", "label": 0.0, "by_window": True, "trigger_ms": 0}, "window", 1_050),
        ({"kind": "conversion", "label": 0.0, "by_window": True, "trigger_ms": 0}, "window", 1_050),
    ],
)
def test_what_decided_a_label_is_told_apart(kind: dict[str, Any], cause: str, event_ms: int) -> None:
    m = meter()
    respond(m, "a", 1, 1_000)
    example(m, 0, 1_050, **{"trigger_ms": 1_000} | kind)
    update(m, 2, 1_100, {0: 1})
    respond(m, "a", 2, 1_110)
    [fresh] = m.settle()
    assert (fresh.cause, fresh.event_ms, fresh.event_ms + fresh.total_ms) == (cause, event_ms, 1_110)


def test_what_nobody_serves_is_given_up_and_counted() -> None:
    m = meter(wait_ms=5_000)
    example(m, 0, 1_000, trigger_ms=1_000)
    update(m, 1, 6_000, {0: 0})
    assert (m.settle(), m.abandoned) == ([], 0)
    update(m, 2, 6_001, {0: 0})
    assert (m.settle(), m.abandoned) == ([], 1)


def test_staircase_keeps_the_earliest_time_of_each_offset() -> None:
    pairs = [(5, 50), (3, 20), (9, 90), (7, 40), (4, 60), (9, 80), (2, 30)]
    stairs: Staircase[int] = Staircase()
    for reach, time_ms in pairs:
        stairs.add(reach, time_ms)
    for offset in range(10):
        earliest = min((time_ms for reach, time_ms in pairs if reach > offset), default=None)
        assert stairs.first(offset) == earliest


def test_summary_by_cause_and_stage() -> None:
    clicks = [Fresh("click", 0, join_ms=10, queue_ms=n, step_ms=0, publish_ms=1, apply_ms=9) for n in range(100)]
    summary = summarize([*clicks, Fresh("window", 0, join_ms=0, queue_ms=4, step_ms=1, publish_ms=1, apply_ms=2)])
    assert list(summary) == ["click", "window"]
    assert summary["click"]["count"] == 100
    assert summary["click"]["ms"] == {"p50": 69, "p99": 118}
    assert summary["click"]["stages_ms"]["queue"] == {"p50": 49, "p99": 98}
    assert summary["click"]["stages_ms"]["join"] == {"p50": 10, "p99": 10}


def test_percentile_is_by_nearest_rank() -> None:
    values = [3.0, 1.0, 2.0]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 2.0, 3.0, 3.0]
