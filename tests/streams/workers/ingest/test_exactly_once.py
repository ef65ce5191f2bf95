"""Ingest against the ideal log, on histories that hypothesis draws: whatever is redelivered, retried, reordered, moved
between workers or stamped by a wrong clock, each event is stored once and each impression labelled once, and rightly.

    TIDERANK_LONG_TESTS=1 pytest tests/streams/workers/ingest/test_exactly_once.py

Which orders give the same label: all in which an action reaches the broker before its impression's window ends (in the
impression's event time, by the broker's clock), and its impression before the action has waited for `early_ms`. What
comes later may be too late, or may still be taken, and both are right. What never depends on the order is which
examples there are: one of its click for each impression of a served response, one of its conversion for each that is
clicked.
"""

import os
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import feature_store.shared_clock
import streams.workers.ingest.worker
from feature_store.keys import bucket_of
from streams.wire.messages import Conversion, Impression
from streams.wire.topics import CONVERSIONS, EXAMPLES, IMPRESSIONS, SERVED
from tests.feature_store.servers import Server, find_servers
from tests.streams.workers.ingest.ideal_labels import CLICK_MS, SECOND
from tests.streams.workers.ingest.ideal_log import BUCKETS, HANDED_OVER_MS, USERS, Exactly, served
from tests.streams.workers.ingest.simulated_ingest import PARTITIONS, T0, Broker

LONG = os.environ.get("TIDERANK_LONG_TESTS") == "1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = next(program for program in find_servers().values() if program is not None)
    server = Server(program, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def machine(server: Server, monkeypatch: pytest.MonkeyPatch) -> type[Exactly]:
    class Machine(Exactly):
        redis = server.redis
        clock: ClassVar[list[Broker]] = [Broker()]

    assert {bucket_of(user) for user in USERS} == set(range(BUCKETS))
    monkeypatch.setattr(streams.workers.ingest.worker, "BUCKETS", BUCKETS)
    monkeypatch.setattr(streams.workers.ingest.worker, "SWEEP_LIMIT", 2)  # so that sweeps leave timers to the next
    for module in (streams.workers.ingest.worker, feature_store.shared_clock):
        clock: Any = type("", (), {"monotonic": staticmethod(lambda: Machine.clock[0].now_ms / 1000)})
        monkeypatch.setattr(module, "time", clock)
    return Machine


def shown_at_the_start(machine: type[Exactly], both: bool = False) -> Exactly:
    """One impression of a served response, read; its click window ends at T0 + CLICK_MS."""
    story = machine()
    story.start(provisional="none", both=both)
    for topic, message in (
        (SERVED, served("r0", USERS[0], T0, ("a",))),
        (IMPRESSIONS, Impression(event_id="i1", user=USERS[0], response_id="r0", item="a", position=0, event_ms=T0)),
    ):
        story._send(message.response_id if topic == SERVED else "i1", topic, message, 0)
    story.deliver_all(0)
    return story


def click_of_it(story: Exactly, partition: int) -> None:
    click = Conversion(event_id="x", user=USERS[0], kind="click", event_ms=story.broker.now_ms, impression_id="i1")
    story._send("x", CONVERSIONS, click, partition)


def test_what_came_after_the_question_is_not_closed_over_by_its_answer(machine: type[Exactly]) -> None:
    """Between the two, one partition is read further than another."""
    story = shown_at_the_start(machine)
    story.wait(CLICK_MS - 5 * SECOND)
    story.tick(0)  # asks
    click_of_it(story, 0)
    story.wait(10 * SECOND)
    other = Conversion(event_id="y", user=USERS[1], kind="search", event_ms=story.broker.now_ms)
    story._send("y", CONVERSIONS, other, 1)
    story.members[0].handle(story.members[0].poll((CONVERSIONS, 1), 1))
    story.tick(0)  # takes the answer
    story.teardown()


def test_a_senders_fast_clock_closes_nobodys_windows(machine: type[Exactly]) -> None:
    story = shown_at_the_start(machine)
    story.wait(10 * SECOND)
    ahead_ms = story.broker.now_ms + CLICK_MS - SECOND
    story._send("y", CONVERSIONS, Conversion(event_id="y", user=USERS[1], kind="search", event_ms=ahead_ms), 1)
    story.deliver_all(0)
    for _ in range(3):
        story.wait(SECOND)
        story.tick(0)
    click_of_it(story, 0)
    story.teardown()


@pytest.mark.parametrize("drained", [True, False])
def test_a_partition_that_is_nobodys_holds_the_windows_of_all(machine: type[Exactly], drained: bool) -> None:
    """It is on its way from one member to the other."""
    story = shown_at_the_start(machine)
    story.wait(CLICK_MS - SECOND)
    for _ in range(2):
        story.tick(0)
    click_of_it(story, 1)
    story.members[0].give_up([(CONVERSIONS, 1)], drained=drained)
    story.free = {(CONVERSIONS, 1): story.broker.now_ms + HANDED_OVER_MS}
    story.wait(HANDED_OVER_MS)
    for _ in range(3):
        story.tick(0)
    story.take_over(1)
    story.teardown()


@pytest.mark.parametrize("both", [False, True])
def test_what_redis_forgot_is_read_again_before_any_window_closes_over_it(machine: type[Exactly], both: bool) -> None:
    """Its window has passed meanwhile. Of two workers, the one that reads the impression notices first."""
    story = shown_at_the_start(machine, both=both)
    kept = {key: story.redis.dump(key) for key in story.redis.scan_iter()}
    story.wait(SECOND)
    click_of_it(story, 1)
    for who in range(1 + both):
        story.deliver_all(who)
        story.commit(who, 1_000)
    assert len(story.broker.arrived[EXAMPLES]) == 1, "its click is said"
    story.wait(CLICK_MS + 20 * SECOND)
    story.redis.flushall()
    for key, value in kept.items():
        story.redis.restore(key, 0, value)
    story.logs.clear()
    story.members[0].notice_that_redis_forgot()
    for place in [place for place in story.members[0].positions if place != (CONVERSIONS, 1)]:
        story.members[0].handle(story.members[0].poll(place, 100))
        story.tick(0)
        story.tick(0)
    if both:
        story.members[1].notice_that_redis_forgot()
    story.teardown()


def test_what_is_read_again_is_read_to_its_end_whatever_redis_does_meanwhile(machine: type[Exactly]) -> None:
    """Labels that were lost with a process come again with their events: no error may jump over those."""
    story = shown_at_the_start(machine)
    search_three_times(story, "before")
    story.commit(0, 1_000)
    search_three_times(story, "after")
    click_of_it(story, 0)
    story.deliver_all(0)
    story.kill(0, 0)
    assert not story.broker.arrived[EXAMPLES]
    story.take_over(0)
    story.members[0].handle(story.members[0].poll((CONVERSIONS, 0), 2))
    story.members[0].notice_that_redis_forgot()
    story.teardown()


def search_three_times(story: Exactly, name: str) -> None:
    story.wait(SECOND)
    for number in range(3):
        search = Conversion(event_id=f"{name} {number}", user=USERS[1], kind="search", event_ms=story.broker.now_ms)
        story._send(search.event_id, CONVERSIONS, search, 0)
    story.deliver_all(0)


def test_nothing_closes_over_a_topic_that_was_made_anew(machine: type[Exactly]) -> None:
    """It ends before what was read of the old one: that is not to have read it."""
    story = shown_at_the_start(machine)
    search_three_times(story, "s")
    story.commit(0, 1_000)
    for partition in range(PARTITIONS):
        story.broker.logs[CONVERSIONS, partition].clear()
        story.broker.committed.pop((CONVERSIONS, partition), None)
    click_of_it(story, 0)
    while story.broker.now_ms < T0 + CLICK_MS + 20 * SECOND:
        story.wait(4 * SECOND)
        story.tick(0)
        story.commit(0, 1_000)
    assert story.broker.passed_ms < T0 + CLICK_MS
    story.kill(0, 1_000)
    story.take_over(0)
    story.teardown()


def test_the_clock_passes_no_outcome_that_is_on_its_way(machine: type[Exactly]) -> None:
    """A click is handled and its outcome produced; nothing is due, and the broker acknowledges it only later."""
    story = shown_at_the_start(machine)
    story.wait(SECOND)
    click_of_it(story, 0)
    story.deliver_all(0)
    for _ in range(6):
        story.wait(SECOND)
        story.tick(0)
        story.commit(0, 0)
        story.outcomes_of_closed_windows_are_told()
    assert story.broker.closed_ms <= T0 + SECOND < story.broker.passed_ms
    story.commit(0, 1_000)
    for _ in range(4):
        story.wait(SECOND)
        story.tick(0)
        story.commit(0, 1_000)
    assert story.broker.closed_ms > T0 + 2 * SECOND
    story.teardown()


def test_ingest_is_the_ideal_log(machine: type[Exactly]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=6_000 if LONG else 32,
            stateful_step_count=80,
            derandomize=not LONG,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        ),
    )
