"""The consumer loop of every worker.

At-least-once, in this order: 1 wait for a record and drain what is there, 2 the worker's effects and sends, 3 its seal,
4 commit once the sends are acknowledged. A crash before 4 reads the batch again, so effects must be idempotent: each is
keyed by an id of its record. An exception from the worker ends the loop with nothing unsealed committed.
"""

import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from confluent_kafka import OFFSET_BEGINNING, OFFSET_STORED, Consumer, KafkaError, KafkaException, TopicPartition

from streams.errors import StreamError
from streams.kafka.connection import CONNECT_TIMEOUT_S, denied, is_denied, topic_partitions
from streams.kafka.gaps import GapWatch
from streams.kafka.outbox import Outbox
from streams.runtime.laps import Laps
from streams.runtime.outage import Outage
from streams.wire.record import Place, Record

log = logging.getLogger(__name__)

REST_AFTER_S = 5.0
"""A worker to which nothing has come for so long rests: it is ticked less often. A record wakes it at once."""


class ReadAgain(Exception):
    """Raised by a worker: what it has not sealed had no lasting effect, read again from these places."""

    def __init__(self, places: Mapping[Place, int]) -> None:
        super().__init__(f"reading again from {places}")
        self.places = places


class Worker(Protocol):
    """What a worker does with records. One thread calls all of it; nothing is called after the loop ends."""

    def handle(self, records: Sequence[Record]) -> None:
        """Takes a batch, in order within each partition. Its offsets go to `Outbox.seal`, here or in a later tick."""
        ...

    def tick(self) -> None:
        """Called between batches, at least every `idle_s`, at rest every `rest_s`: timers, weight updates, windows."""
        ...

    def at_end(self, topic: str, partition: int, offset: int) -> None:
        """Everything of this partition before `offset` has been handed over; more may come."""
        ...

    def assigned(self, consumer: Consumer, partitions: Sequence[Place]) -> Mapping[Place, int]:
        """New partitions. Returns the offset to begin at, by place; what it does not name is read on from the offset
        that the group has committed."""
        ...

    def revoked(self, partitions: list[TopicPartition]) -> None:
        """These are another member's now."""
        ...


class BaseWorker:
    """A worker that has only `handle` to say."""

    def tick(self) -> None:
        return

    def at_end(self, topic: str, partition: int, offset: int) -> None:
        return

    def assigned(self, consumer: Consumer, partitions: Sequence[Place]) -> Mapping[Place, int]:
        return {}

    def revoked(self, partitions: list[TopicPartition]) -> None:
        return


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How many records at once, and how often a worker is ticked to which none come."""

    batch_max: int
    idle_s: float
    rest_s: float | None = None
    """Instead of `idle_s` at rest; None: as that."""

    def wait_s(self, *, rested: bool) -> float:
        return self.rest_s if rested and self.rest_s else self.idle_s


def run(
    consumer: Consumer,
    topics: Sequence[str],
    worker: Worker,
    outbox: Outbox,
    pace: Pace,
    *,
    check_topics: Callable[[], None] = lambda: None,
    stop: threading.Event,
    laps: Laps | None = None,
) -> None:
    """Runs until `stop` is set, then waits up to 5 s for deliveries, commits, and leaves the group's place kept.

    laps: where the worker counts its phases; all that it does not count is "handle" or "tick".
    """
    _freeze_what_is_there()
    gaps, said = GapWatch(consumer), dict[Place, int]()
    heard, laps = time.monotonic(), laps or Laps()
    kafka = Outage("kafka", "the client tries again by itself")
    moves = _Moves(worker, outbox, gaps)
    consumer.subscribe(list(topics), on_assign=moves.assigned, on_revoke=moves.revoked, on_lost=moves.lost)
    try:
        while not stop.is_set():
            rested = time.monotonic() - heard > REST_AFTER_S
            records, ended = _poll(consumer, pace.batch_max, pace.wait_s(rested=rested), kafka)
            laps.lap("poll")
            gaps.see(records)
            check_topics()
            try:
                if records:
                    heard = time.monotonic()
                    if rested:
                        worker.tick()  # first what it would have met meanwhile, such as newer weights
                    worker.handle(records)
                    laps.lap("handle")
                for place, offset in ended.items():  # after their records: they are what the worker has seen of it
                    worker.at_end(*place, offset)
                worker.tick()
                laps.lap("tick")
            except ReadAgain as again:
                if again.places != said:  # where the same fails again, the same is not said again
                    said = dict(again.places)
                    log.warning("reading again from %s", ", ".join(f"{t}[{p}]@{at}" for (t, p), at in said.items()))
                _go_back(consumer, outbox, gaps, again.places)
            outbox.commit(consumer)
            laps.lap("commit")
            laps.publish()
        if not outbox.drain(consumer, 5.0):
            log.warning("stopped with deliveries under way: their records will be read again")
    finally:
        consumer.close()


class _Moves:
    """Partitions that come and go, as the group's leader shares them out."""

    def __init__(self, worker: Worker, outbox: Outbox, gaps: GapWatch) -> None:
        self._worker = worker
        self._outbox = outbox
        self._gaps = gaps

    def assigned(self, member: Consumer, partitions: list[TopicPartition]) -> None:
        places = [(p.topic, p.partition) for p in partitions]
        starts = _starts(member, places, self._worker.assigned(member, places))
        log.info("assigned %s", ", ".join(f"{topic}[{p}] from {at}" for (topic, p), at in starts.items()) or "nothing")
        self._gaps.start(starts)
        member.incremental_assign(topic_partitions(starts))

    def revoked(self, member: Consumer, partitions: list[TopicPartition]) -> None:
        log.info("revoked %s", _names(partitions))
        self._outbox.drain(member, 1.0)
        self._give_up(member, partitions)

    def lost(self, member: Consumer, partitions: list[TopicPartition]) -> None:
        log.warning("lost %s", _names(partitions))
        self._give_up(member, partitions)

    def _give_up(self, member: Consumer, partitions: list[TopicPartition]) -> None:
        self._worker.revoked(partitions)
        self._gaps.drop((p.topic, p.partition) for p in partitions)
        member.incremental_unassign(partitions)


def _freeze_what_is_there() -> None:
    """Takes what was imported and built by now, which lives as long as the process, from the collector's sight.

    Left there, a full collection walks all of it, of torch above all: 200 ms in which nothing is answered.
    """
    gc.collect()
    gc.freeze()


def _starts(consumer: Consumer, places: Sequence[Place], said: Mapping[Place, int]) -> dict[Place, int]:
    """Where to begin: as the worker says, else as the group has committed, else at the beginning.

    In so many words, so that what is read first is what was said, and what is missing before it is noticed.
    """
    unsaid = [place for place in places if place not in said]
    try:
        committed = consumer.committed(topic_partitions(dict.fromkeys(unsaid, OFFSET_STORED)), CONNECT_TIMEOUT_S)
    except KafkaException as error:
        log.warning("kafka: %s; the client itself looks up where to begin", error.args[0].str())
        return {place: said.get(place, OFFSET_STORED) for place in places}
    known = {(c.topic, c.partition): c.offset if c.offset >= 0 else OFFSET_BEGINNING for c in committed}
    return {place: said.get(place, known.get(place, OFFSET_BEGINNING)) for place in places}


def _poll(consumer: Consumer, batch_max: int, idle_s: float, kafka: Outage) -> tuple[list[Record], dict[Place, int]]:
    """Records, and the partitions that end with them, each with the offset of its end.

    Waits for one, then takes what is there: `consume(n, timeout)` would hold a lone record for the whole timeout.
    """
    first = consumer.poll(idle_s)
    if first is None:
        return [], {}
    records: list[Record] = []
    ended: dict[Place, int] = {}
    for message in (first, *consumer.consume(batch_max - 1, timeout=0)):
        place = (message.topic() or "", message.partition() or 0)
        error = message.error()
        if error is None:
            kafka.worked()
            records.append(Record.of(message))
            ended.pop(place, None)
        elif error.code() == KafkaError._PARTITION_EOF:
            ended[place] = message.offset() or 0
        elif error.fatal() or error.code() == KafkaError._FATAL:  # as an event the flag is not set
            raise fatal_error(error)
        elif is_denied(error):  # waiting does not mend it
            raise denied(error, place[0])
        else:
            kafka.failed(error.name(), error.str())
    return records, ended


def fatal_error(error: KafkaError) -> Exception:
    """What to raise for it. As an event it has no code of its own, only its words."""
    if "group.instance.id" in error.str():
        return StreamError(
            "the group no longer counts this process in: another one has joined under its name (give each a name of "
            "its own with --instance or TIDERANK_INSTANCE), or it stood still for longer than the broker waits (start "
            "it again)"
        )
    return KafkaException(error)


def _go_back(consumer: Consumer, outbox: Outbox, gaps: GapWatch, places: Mapping[Place, int]) -> None:
    outbox.discard()
    gaps.start(places)
    for (topic, partition), offset in places.items():
        consumer.seek(TopicPartition(topic, partition, offset))


def _names(partitions: list[TopicPartition]) -> str:
    return ", ".join(f"{p.topic}[{p.partition}]" for p in partitions) or "nothing"
