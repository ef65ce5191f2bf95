"""Two ingest workers on a broker and a clock that a test moves: everything else is as it runs, Redis is a real one.

Kafka itself cannot be made to show these orders at will: a record that comes between a question and its answer, a
partition that is nobody's for a moment, an acknowledgement that is lost with the process that waited for it.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from confluent_kafka import TopicPartition
from redis import Redis
from redis.exceptions import RedisError

from feature_store.clock import EventClock
from feature_store.config import JoinConfig, LogConfig
from feature_store.join import Joiner
from feature_store.shared_clock import CLOCKS, SharedClock, closed_ms
from streams.config.recipe import EventKinds
from streams.kafka.ends import Ends
from streams.kafka.loop import ReadAgain
from streams.kafka.outbox import Outbox
from streams.runtime.service import Heartbeat
from streams.wire.codec import decode
from streams.wire.event_time import TimeBounds
from streams.wire.record import Record
from streams.wire.topics import CONVERSIONS, IMPRESSIONS, OUTCOMES, SERVED, TOPICS
from streams.workers.ingest.worker import IngestWorker

PARTITIONS = 2
TIMES = TimeBounds(min_ms=0, max_future_ms=60_000)
SENT = "step at which it was sent"
PLACES = [(topic, partition) for topic in (SERVED, IMPRESSIONS, CONVERSIONS) for partition in range(PARTITIONS)]
T0 = 1_700_000_000_000

Place = tuple[str, int]


class Broker:
    """Records as they were appended, what the group has committed, and what was produced. Its clock is the only one."""

    def __init__(self) -> None:
        self.now_ms = T0
        self.logs: dict[Place, list[Record]] = {place: [] for place in PLACES}
        self.committed: dict[Place, int] = {}
        self.arrived: defaultdict[str, list[tuple[bytes, dict[str, Any]]]] = defaultdict(list)
        """By topic, values and headers of what the workers produced; the header SENT says when."""
        self.steps = 0
        """Counts what the workers do: handling a record, and producing one."""
        self.passed_ms = 0
        """How far all workers' clock has gone."""
        self.closed_ms = 0
        """How far they said that all windows were closed, and all that came of it on the broker."""
        self.untold: dict[str, tuple[int, int]] = {}
        """Outcomes that were produced and have not arrived, by id: their time, and closed_ms when produced first."""
        self.handled: dict[bytes, tuple[int, int]] = {}
        """By value, the step at which a record was handled first, and passed_ms by then."""

    def append(self, topic: str, partition: int, value: bytes) -> Record:
        log = self.logs[topic, partition]
        record = Record(topic, partition, len(log), self.now_ms, b"k", value, ())
        log.append(record)
        return record

    def time(self) -> SimpleNamespace:
        """What the workers' modules take for `time`."""
        return SimpleNamespace(monotonic=lambda: self.now_ms / 1000, time=lambda: self.now_ms / 1000)


class Producer:
    """Holds what is sent until it arrives, and its report until that is served."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._under_way: list[tuple[str, bytes, dict[str, Any], Callable[..., None]]] = []
        self._reports: list[Callable[..., None]] = []

    def produce(
        self, topic: str, value: bytes, key: Any, partition: int, *, on_delivery: Callable[..., None], headers: Any
    ) -> None:
        self._broker.steps += 1
        self._under_way.append((topic, value, {**dict(headers), SENT: self._broker.steps}, on_delivery))
        if topic == OUTCOMES:
            outcome = decode(TOPICS[OUTCOMES], value)
            self._broker.untold.setdefault(outcome.outcome_id, (outcome.event_ms, self._broker.closed_ms))

    def arrive(self, count: int) -> None:
        for topic, value, headers, report in self._under_way[:count]:
            self._broker.arrived[topic].append((value, headers))
            if topic == OUTCOMES:
                self._broker.untold.pop(decode(TOPICS[OUTCOMES], value).outcome_id, None)
            self._reports.append(report)
        del self._under_way[:count]

    def poll(self, timeout: float) -> int:
        reports, self._reports = self._reports, []
        for report in reports:
            report(None, SimpleNamespace(offset=lambda: 0))
        return len(reports)

    def flush(self, timeout: float) -> int:
        self.arrive(len(self._under_way))
        self.poll(0)
        return 0


class Consumer:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        """As the real client: others than those asked with."""
        known = self._broker.committed
        return [TopicPartition(p.topic, p.partition, known.get((p.topic, p.partition), -1001)) for p in partitions]

    def commit(self, offsets: Sequence[TopicPartition], asynchronous: bool) -> None:
        for place in offsets:
            self._broker.committed[place.topic, place.partition] = place.offset


class Question:
    """The broker's ends: as they were when asked, said at the next look."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._ends: Ends | None = None

    @property
    def open(self) -> bool:
        return self._ends is not None

    def ask(self, places: Iterable[Place]) -> None:
        offsets = {place: len(self._broker.logs[place]) for place in places}
        self._ends = Ends(self._broker.now_ms, offsets) if offsets else None

    def answer(self) -> Ends | None:
        answer, self._ends = self._ends, None
        return answer


@dataclass
class Member:
    """One process of the group."""

    name: str
    broker: Broker
    redis: Redis
    join: JoinConfig
    log: LogConfig
    positions: dict[Place, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """As a new process of this name."""
        self.positions = {}
        self.producer, self.consumer = Producer(self.broker), Consumer(self.broker)
        self.outbox = Outbox(self.producer, commit_every_s=0.0)  # type: ignore[arg-type]
        self.worker = IngestWorker(
            joiner=Joiner(self.redis, self.log, self.join),
            guard=threading.Lock(),  # type: ignore[arg-type]  # Redis stays
            clock=EventClock(),
            shared_clock=SharedClock(self.redis, self.name),
            forget_old_places=lambda: None,
            ids_tell=True,
            ends=Question(self.broker),  # type: ignore[arg-type]
            transactions=SimpleNamespace(look=lambda *_: None),  # type: ignore[arg-type]  # nobody has any
            kinds=EventKinds(),
            times=TIMES,
            wall_lag_ms=1_000,
            outbox=self.outbox,
            stop=threading.Event(),
            heartbeat=Heartbeat(None),
        )

    def assign(self, places: Sequence[Place]) -> None:
        starts = self.worker.assigned(self.consumer, places)  # type: ignore[arg-type]
        self.positions |= {place: max(offset, 0) for place, offset in starts.items()}

    def give_up(self, places: Sequence[Place], *, drained: bool) -> None:
        """As the loop does: what is under way is waited for and committed, unless the group has moved on already."""
        if drained:
            self.outbox.drain(self.consumer, 1.0)  # type: ignore[arg-type]
        self.worker.revoked([TopicPartition(*place) for place in places])
        for place in places:
            del self.positions[place]

    def die(self, arrived: int) -> None:
        """kill -9: some of what was sent has arrived, and nobody is told."""
        self.producer.arrive(arrived)
        self.start()

    def poll(self, place: Place, count: int) -> list[Record]:
        at = self.positions[place]
        records = self.broker.logs[place][at : at + count]
        self.positions[place] = at + len(records)
        return records

    def handle(self, records: Sequence[Record]) -> None:
        """A batch, and then the ends that it reached."""
        if records:
            self.worker.handle(records)
            self.broker.steps += 1
        for record in records:
            self.broker.handled.setdefault(record.value or b"", (self.broker.steps, self.broker.passed_ms))
        for place, at in self.positions.items():
            if at == len(self.broker.logs[place]):
                self.worker.at_end(*place, at)

    def tick(self) -> None:
        self.worker.tick()
        clocks: Any = self.redis.hvals(CLOCKS)
        agreed_ms = min((int(words.split(b":")[1]) for words in clocks), default=0)
        self.broker.passed_ms = max(self.broker.passed_ms, agreed_ms)
        self.broker.closed_ms = max(self.broker.closed_ms, closed_ms(self.redis.hgetall(CLOCKS)))

    def notice_that_redis_forgot(self) -> None:
        """As its next call to a Redis that was away does."""
        try:
            self.worker._read_again(RedisError("away"))
        except ReadAgain as again:
            self.outbox.discard()
            self.positions = {place: max(at, 0) for place, at in again.places.items()}

    def commit(self, arrived: int) -> None:
        self.producer.arrive(arrived)
        self.outbox.commit(self.consumer)  # type: ignore[arg-type]
