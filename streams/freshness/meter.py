"""Freshness: how long an event takes until it changes what is served. Pure: is fed, and knows no Kafka.

    event ──join──▶ example ──queue──▶ step begins ──step──▶ learned ──publish──▶ update on the topic ──apply──▶ first
    response with it

The times are those of the broker, but for the two of a step, which are its trainer's. Records of different topics and
partitions may be fed in any order. A click is in its user's log, for the next request to be scored with, before its
example is made: join is the freshness of the log, and a little more.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from streams.kafka.seen import SeenIds

Cause = Literal["click", "conversion", "window"]
"""What decided an example's label. The end of a window is chosen, not lag: what it teaches is counted apart."""
CAUSES: tuple[Cause, ...] = ("click", "conversion", "window")
STAGES = ("join", "queue", "step", "publish", "apply")

MAX_STEPS = 4_096
MAX_PENDING = 50_000
"""Most examples of a partition that wait to be served; past it the oldest is given up."""
MAX_VERSIONS = 4_096

T = TypeVar("T", int, tuple[int, int, int])


@dataclass(frozen=True, slots=True)
class Fresh:
    """The way of one event into the weights of all replicas. Milliseconds."""

    cause: Cause
    event_ms: int
    """Broker timestamp of the event; of its example, where a window's end was the event."""
    join_ms: int
    queue_ms: int
    step_ms: int
    publish_ms: int
    apply_ms: int

    @property
    def total_ms(self) -> int:
        return self.join_ms + self.queue_ms + self.step_ms + self.publish_ms + self.apply_ms


class Staircase(Generic[T]):
    """When each offset was first reached, from (next offset, time) pairs that come in any order.

    Keeps only pairs that reach further than all earlier ones, so both columns rise; the newest `MAX_STEPS` of them.
    """

    def __init__(self) -> None:
        self._reaches: list[int] = []
        self._times: list[T] = []

    def add(self, reach: int, time: T) -> None:
        end = bisect_left(self._reaches, reach)
        if end < len(self._times) and self._times[end] <= time:
            return  # as much was reached before
        start = bisect_left(self._times, time, 0, end)
        if end < len(self._reaches) and self._reaches[end] == reach:
            end += 1
        self._reaches[start:end], self._times[start:end] = [reach], [time]
        if len(self._reaches) > 2 * MAX_STEPS:
            del self._reaches[:-MAX_STEPS], self._times[:-MAX_STEPS]

    def first(self, offset: int) -> T | None:
        """The earliest time at which the next offset was past this one; None if it never was."""
        place = bisect_right(self._reaches, offset)
        return self._times[place] if place < len(self._times) else None


@dataclass(frozen=True, slots=True)
class _Example:
    partition: int
    offset: int
    broker_ms: int
    event_ms: int
    cause: Cause


@dataclass(slots=True)
class _Replica:
    first_ms: int
    last_ms: int
    reached: dict[int, Staircase[int]] = field(default_factory=dict)


class FreshnessMeter:
    """Feed it examples, updates and responses; `settle` hands out the events whose way is known.

    An event is served when every replica that counts has answered with an update whose offsets include its example.
    A replica counts if it had answered before that update was published, unless it has been silent for `silent_ms`:
    nothing is known of a replica that answers nothing.
    """

    def __init__(self, *, silent_ms: int = 10_000, grace_ms: int = 500, wait_ms: int = 120_000) -> None:
        """
        Args:
            grace_ms: an event is handed out this long after its response, when no earlier record can still come.
            wait_ms: an example that no response includes by then is given up, and counted in `abandoned`.
        """
        self._silent_ms, self._grace_ms, self._wait_ms = silent_ms, grace_ms, wait_ms
        self._pending: dict[int, deque[_Example]] = {}
        self._published: dict[int, Staircase[tuple[int, int, int]]] = {}
        self._offsets: OrderedDict[tuple[int, int], Mapping[int, int]] = OrderedDict()
        self._unknown: OrderedDict[tuple[int, int], dict[str, int]] = OrderedDict()
        """Versions that answered before their update was fed: when, by replica."""
        self._replicas: dict[str, _Replica] = {}
        self._seen = SeenIds()
        self._now_ms = 0
        self.abandoned = 0

    def example(
        self,
        partition: int,
        offset: int,
        *,
        example_id: str,
        broker_ms: int,
        trigger_ms: int,
        kind: str,
        label: float,
        by_window: bool,
    ) -> None:
        """Takes a record of training.examples, of each partition in order of offset. One that comes again counts
        once."""
        self._now_ms = max(self._now_ms, broker_ms)
        if not self._seen.add(example_id):
            return
        cause: Cause = "window" if by_window or label <= 0 else "click" if kind == "click" else "conversion"
        waiting = self._pending.setdefault(partition, deque())
        waiting.append(_Example(partition, offset, broker_ms, trigger_ms or broker_ms, cause))
        if len(waiting) > MAX_PENDING:
            waiting.popleft()
            self.abandoned += 1

    def update(
        self, epoch: int, number: int, offsets: Mapping[int, int], *, begun_ms: int, created_ms: int, broker_ms: int
    ) -> None:
        """Takes a whole update of model.updates: `offsets` are the next of training.examples by partition."""
        self._now_ms = max(self._now_ms, broker_ms)
        version = (epoch, number)
        self._offsets[version] = dict(offsets)
        if len(self._offsets) > MAX_VERSIONS:
            self._offsets.popitem(last=False)
        for partition, reach in offsets.items():
            self._published.setdefault(partition, Staircase()).add(reach, (broker_ms, begun_ms, created_ms))
        for replica, served_ms in self._unknown.pop(version, {}).items():
            self._reach(replica, offsets, served_ms)

    def response(self, replica: str, epoch: int, number: int, *, broker_ms: int) -> None:
        """Takes a scored record of ranking.responses."""
        self._now_ms = max(self._now_ms, broker_ms)
        known = self._replicas.setdefault(replica, _Replica(broker_ms, broker_ms))
        known.first_ms, known.last_ms = min(known.first_ms, broker_ms), max(known.last_ms, broker_ms)
        version = (epoch, number)
        if version in self._offsets:
            self._reach(replica, self._offsets[version], broker_ms)
            return
        times = self._unknown.setdefault(version, {})
        times[replica] = min(times.get(replica, broker_ms), broker_ms)
        if len(self._unknown) > MAX_VERSIONS:
            self._unknown.popitem(last=False)

    def settle(self, *, grace_ms: int | None = None) -> list[Fresh]:
        """Returns the events whose way has become known since the last call."""
        known_ms = self._now_ms - (self._grace_ms if grace_ms is None else grace_ms)
        settled: list[Fresh] = []
        for waiting in self._pending.values():
            while waiting:
                fresh = self._judge(waiting[0])
                if fresh is not None and fresh.event_ms + fresh.total_ms <= known_ms:
                    settled.append(fresh)
                elif self._now_ms - waiting[0].broker_ms > self._wait_ms:
                    self.abandoned += 1
                else:
                    break  # those behind it were learned no earlier
                waiting.popleft()
        self._forget_the_silent()
        return settled

    def _reach(self, replica: str, offsets: Mapping[int, int], served_ms: int) -> None:
        known = self._replicas.get(replica)
        if known is None:
            return  # forgotten since
        for partition, reach in offsets.items():
            known.reached.setdefault(partition, Staircase()).add(reach, served_ms)

    def _judge(self, example: _Example) -> Fresh | None:
        steps = self._published.get(example.partition)
        published = steps.first(example.offset) if steps is not None else None
        if published is None:
            return None
        published_ms, begun_ms, created_ms = published
        served_ms = self._served_ms(example, published_ms)
        if served_ms is None:
            return None
        return Fresh(
            cause=example.cause,
            event_ms=example.event_ms,
            join_ms=example.broker_ms - example.event_ms,
            queue_ms=begun_ms - example.broker_ms,
            step_ms=created_ms - begun_ms,
            publish_ms=published_ms - created_ms,
            apply_ms=served_ms - published_ms,
        )

    def _served_ms(self, example: _Example, published_ms: int) -> int | None:
        """When the slowest replica that counts first answered with the example; None while one has not."""
        slowest: int | None = None
        for replica in self._replicas.values():
            if replica.first_ms > published_ms:
                continue
            steps = replica.reached.get(example.partition)
            served_ms = steps.first(example.offset) if steps is not None else None
            if served_ms is not None:
                slowest = max(slowest or 0, served_ms)
            elif self._now_ms - replica.last_ms <= self._silent_ms:
                return None
        return slowest

    def _forget_the_silent(self) -> None:
        for name in [n for n, r in self._replicas.items() if self._now_ms - r.last_ms > self._wait_ms]:
            del self._replicas[name]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of all does not exceed (nearest rank); of at least one value, in any order."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50 and p99; None of nothing."""
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99)} if values else None


def summarize(events: Iterable[Fresh]) -> dict[str, dict[str, Any]]:
    """By cause: count, p50 and p99 of the whole, and of each stage. Milliseconds; causes that did not occur are left
    out."""
    by_cause: dict[Cause, list[Fresh]] = {}
    for event in events:
        by_cause.setdefault(event.cause, []).append(event)
    return {
        cause: {
            "count": len(found),
            "ms": quantiles([e.total_ms for e in found]),
            "stages_ms": {stage: quantiles([getattr(e, f"{stage}_ms") for e in found]) for stage in STAGES},
        }
        for cause in CAUSES
        if (found := by_cause.get(cause))
    }
