"""What the demo knows of the running system: read from its topics, and from Redis for the size of the log alone."""

import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field

from redis import Redis
from redis.exceptions import RedisError

from feature_store.layout import HEADER_BYTES, decode_header
from ranker.updates.record import UpdateHeader
from streams.demo.entropy import StepLosses
from streams.errors import Refused
from streams.freshness.feed import FOLLOWED, feed
from streams.freshness.meter import Fresh, FreshnessMeter
from streams.kafka.connection import Kafka
from streams.kafka.tail import Tail
from streams.wire.codec import decode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import Decision, RankingResponse, RouterModel
from streams.wire.record import Record
from streams.wire.topics import DEAD_LETTERS, DECISIONS, ROUTER_MODEL, TOPICS

MAX_KEPT = 50_000
"""Measurements of one kind that are kept: the newest."""
LOG_KEYS_AT_MOST = 2_000


@dataclass(slots=True)
class Part:
    """What was seen in one part of the demo: its warm-up, or its measured part."""

    since_ms: int
    responses: Counter[str] = field(default_factory=Counter)
    """Number of responses by status: all that are on the topic, also a second one to the same request."""
    fallbacks: Counter[str] = field(default_factory=Counter)
    """Number of fallbacks by reason."""
    server_ms: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_KEPT))
    """Milliseconds inside the ranking process: decode, fetch, route, score."""
    fresh: deque[Fresh] = field(default_factory=lambda: deque(maxlen=MAX_KEPT))
    plans: Counter[str] = field(default_factory=Counter)
    """Decisions by plan."""
    plan_ms: dict[str, float] = field(default_factory=dict)
    """Measured milliseconds, summed by plan."""
    steps: list[StepLosses] = field(default_factory=list)
    """Losses of click labels, by update."""
    conversion_steps: list[StepLosses] = field(default_factory=list)
    examples: int = 0
    """Number of examples learned."""
    responses_learned: int = 0
    """Groups of examples of one response in one step, whose request's side was computed once."""
    updates: set[tuple[int, int]] = field(default_factory=set)
    """Versions that were published."""
    served_versions: set[tuple[int, int]] = field(default_factory=set)
    """Versions that answered."""
    dead_letters: int = 0

    @property
    def updates_applied(self) -> int:
        """Number of updates published in this part that a response was scored with: the update itself, or a newer one
        of its epoch, as updates are applied in order and without gaps."""
        newest: dict[int, int] = {}
        for epoch, number in self.served_versions:
            newest[epoch] = max(number, newest.get(epoch, 0))
        return sum(number <= newest.get(epoch, 0) for epoch, number in self.updates)

    @property
    def mean_cost_ms(self) -> float | None:
        decisions = self.plans.total()
        return sum(self.plan_ms.values()) / decisions if decisions else None


@dataclass(frozen=True, slots=True)
class LogSize:
    """Size of the user logs in Redis."""

    users: int
    events: int
    """Events held now: what a full ring has dropped is not counted."""
    size_bytes: int
    """Memory that the logs take, all in, as Redis accounts for it."""


class Observer:
    def __init__(self, kafka: Kafka, redis: Redis) -> None:
        self._tail = Tail(kafka, (*FOLLOWED, DECISIONS, ROUTER_MODEL, DEAD_LETTERS))
        self._redis = redis
        self._meter = FreshnessMeter()
        self.part = Part(_now_ms())
        self.learned = 0
        """Examples learned since the trainer started."""
        self.frozen_after: int | None = None
        """Examples that the frozen copy has learned; None while there is none."""
        self.page: RankingResponse | None = None
        """The newest answer that was scored."""
        self.router: RouterModel | None = None
        self.log_size: LogSize | None = None

    @property
    def missed(self) -> int:
        """Records that the broker had let go of before they were seen here."""
        return self._tail.missed

    def begin_part(self) -> Part:
        """Counts from zero from here on; returns what was counted so far."""
        before, self.part = self.part, Part(_now_ms())
        return before

    def poll(self) -> None:
        """Takes in what has come, without waiting."""
        for record in self._tail.poll():
            self._take(record)
        self._keep(self._meter.settle())

    def finish(self) -> None:
        """Takes in what is still on its way to us."""
        while records := self._tail.poll(timeout_s=0.5):
            for record in records:
                self._take(record)
        self._keep(self._meter.settle(grace_ms=0))

    def measure_log(self) -> None:
        """Measures `log_size`, in a few round trips to Redis; leaves it as it was where Redis does not answer."""
        with suppress(RedisError):
            self.log_size = log_size(self._redis)

    def close(self) -> None:
        self._tail.close()

    def _take(self, record: Record) -> None:
        if record.topic in FOLLOWED:
            match feed(self._meter, record):
                case RankingResponse() as response:
                    self._take_response(response)
                case UpdateHeader() as header:
                    self._take_update(header)
        elif record.topic == DEAD_LETTERS:
            self.part.dead_letters += 1
        else:
            self._take_routing(record)

    def _take_response(self, response: RankingResponse) -> None:
        part = self.part
        part.responses[response.status] += 1
        if response.status == "ok":
            self.page = response
        if response.status == "fallback":
            part.fallbacks[response.reason or "unknown"] += 1
        if response.timings is not None:
            t = response.timings
            part.server_ms.append(t.decode + t.fetch + t.route + t.score)
        if response.model is not None:
            part.served_versions.add((response.model.epoch, response.model.number))

    def _take_update(self, header: UpdateHeader) -> None:
        part, grades = self.part, header.grades or {}
        part.updates.add((header.epoch, header.number))
        part.examples += round(grades.get("examples", 0))
        part.responses_learned += round(grades.get("responses", 0))
        if self.frozen_after is None and "click.frozen" in grades:
            self.frozen_after = self.learned
        self.learned = round(grades.get("learned", self.learned))
        for kind, steps in (("click", part.steps), ("conversion", part.conversion_steps)):
            if (step := StepLosses.of(header.created_ms, grades, kind)) is not None:
                steps.append(step)

    def _take_routing(self, record: Record) -> None:
        try:
            message: Decision | RouterModel = decode(TOPICS[record.topic], record.value, record.header(CONTENT_TYPE))
        except Refused:
            return
        if isinstance(message, RouterModel):
            self.router = message
        else:
            part = self.part
            part.plans[message.plan] += 1
            part.plan_ms[message.plan] = part.plan_ms.get(message.plan, 0.0) + message.measured_ms

    def _keep(self, settled: list[Fresh]) -> None:
        self.part.fresh.extend(event for event in settled if event.event_ms >= self.part.since_ms)


def log_size(redis: Redis) -> LogSize:
    """Measures the logs of at most 2,000 users, those that a scan meets first. Raises redis' errors."""
    keys: list[bytes] = []
    for key in redis.scan_iter(match="log:{*", count=1_000):
        keys.append(key)
        if len(keys) == LOG_KEYS_AT_MOST:
            break
    pipeline = redis.pipeline(transaction=False)
    for key in keys:
        pipeline.getrange(key, 0, HEADER_BYTES - 1)
        pipeline.memory_usage(key)
    replies = pipeline.execute()
    # A log that expired or was forgotten between scan and read has neither.
    logs = [(decode_header(h), used) for h, used in zip(replies[::2], replies[1::2], strict=True) if h and used]
    return LogSize(
        users=len(logs),
        events=sum(min(header.count, header.capacity) for header, _ in logs),
        size_bytes=sum(used for _, used in logs),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
