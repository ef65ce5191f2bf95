"""A step that takes long does not cost a member its partitions."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest
from confluent_kafka import TopicPartition

import streams.kafka.connection
from streams.errors import StreamError
from streams.kafka.connection import SESSION_TIMEOUT_MS, Kafka
from streams.kafka.loop import BaseWorker, Pace, ReadAgain, run
from streams.kafka.outbox import Outbox
from streams.kafka.scan import committed, ends
from streams.local.kafka import why_not
from streams.local.stack import local_stack
from streams.wire.record import Record, next_offsets
from streams.wire.topics import REWARDS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason="the in-memory broker throws nobody out for slowness"),
]

SLOW_S = SESSION_TIMEOUT_MS / 1000 + 4


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with local_stack(tmp_path_factory.mktemp("stack"), broker="kafka") as stack:
        kafka = Kafka(stack.bootstrap, {})
        kafka.create_topics()
        yield kafka


class Slow(BaseWorker):
    """Takes SLOW_S over its first batch, as one that waits for Redis does, and stops when all has been sealed."""

    def __init__(self, outbox: Outbox, stop: threading.Event, wanted: int, *, again: bool) -> None:
        self._outbox, self._stop, self._wanted, self._again = outbox, stop, wanted, again
        self.given_up = 0
        self.sealed: set[tuple[int, int]] = set()
        self._waited = False

    def handle(self, records: Sequence[Record]) -> None:
        if not self._waited:
            self._waited = True
            time.sleep(SLOW_S)
            if self._again:
                raise ReadAgain({(r.topic, r.partition): r.offset for r in reversed(records)})
        self._outbox.seal(next_offsets(records))
        self.sealed |= {(r.partition, r.offset) for r in records}
        self._last = time.monotonic()

    def tick(self) -> None:
        if len(self.sealed) == self._wanted and time.monotonic() - self._last > 2.0:
            self._stop.set()

    def revoked(self, partitions: list[TopicPartition]) -> None:
        self.given_up += not self._stop.is_set()


def run_slow_member(kafka: Kafka, group: str, *, again: bool) -> tuple[Slow, dict[int, int]]:
    """Handles all that the topic holds; returns the ends of the topic's partitions besides."""
    producer = kafka.producer()
    for number in range(20):
        producer.produce(REWARDS, b"{}", str(number))
    assert producer.flush(10) == 0
    wanted = {p: high for p, (_, high) in ends(kafka, REWARDS).items()}
    stop, outbox = threading.Event(), Outbox(producer)
    worker = Slow(outbox, stop, sum(wanted.values()), again=again)
    killer = threading.Timer(90.0, stop.set)
    killer.start()
    try:
        run(kafka.group_consumer(group, "one"), [REWARDS], worker, outbox, Pace(batch_max=100, idle_s=0.05), stop=stop)
    finally:
        killer.cancel()
    return worker, wanted


@pytest.mark.parametrize("again", [False, True])
def test_a_slow_step_costs_no_partition(kafka: Kafka, again: bool) -> None:
    """Longer than a session, whether it succeeds then or has to be read again."""
    worker, wanted = run_slow_member(kafka, f"slow-{again}", again=again)
    assert worker.given_up == 0
    assert len(worker.sealed) == sum(wanted.values())
    assert committed(kafka, f"slow-{again}", REWARDS) == wanted


def test_it_is_this_limit_that_keeps_the_member_in(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it a member with a name of its own is thrown out, and may find its name taken by its own return."""
    monkeypatch.setattr(streams.kafka.connection, "MAX_POLL_MS", SESSION_TIMEOUT_MS + 500)
    with suppress(StreamError):
        worker, _ = run_slow_member(kafka, "limited", again=False)
        assert worker.given_up > 0
