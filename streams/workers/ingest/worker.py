"""`tiderank ingest`: served records and events into the user log and the join; labelled examples and outcomes out.

What a crash means: the facts of the unfinished batch are taken in again, change nothing, and give the labels that they
gave the first time; so an example lost between Redis and Kafka is produced after all, with the same id.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from redis import Redis
from redis.exceptions import RedisError

from feature_store import functions
from feature_store.clock import EventClock
from feature_store.config import WINDOWS, JoinConfig, windows
from feature_store.facts import Closed, Fact, Label
from feature_store.join import Joiner
from feature_store.keys import BUCKETS, OFFSETS, TOPIC_IDS
from feature_store.shared_clock import SharedClock
from streams.config.recipe import EventKinds
from streams.config.settings import Settings
from streams.errors import Refused, StreamError
from streams.kafka.connection import CONNECT_TIMEOUT_S
from streams.kafka.dead_letters import bury
from streams.kafka.ends import Ends, EndsQuestion
from streams.kafka.loop import Pace, ReadAgain, run
from streams.kafka.open_transactions import OpenTransactions
from streams.kafka.outbox import Outbox
from streams.kafka.topic_ids import TopicIds
from streams.runtime import metrics as metric
from streams.runtime.outage import RedisOutage
from streams.runtime.redis_client import ReconnectGuard, check, connect, warn_of_eviction
from streams.runtime.service import Heartbeat
from streams.wire.codec import encode
from streams.wire.event_time import TimeBounds
from streams.wire.headers import CLOSED_MS
from streams.wire.record import Place, Record, next_offsets
from streams.wire.topics import CONVERSIONS, EXAMPLES, GROUPS, IMPRESSIONS, OUTCOMES, SERVED, TOPICS
from streams.workers.ingest.events import to_example, to_fact, to_outcome

log = logging.getLogger(__name__)

GROUP = GROUPS["ingest"]
INPUTS = (SERVED, IMPRESSIONS, CONVERSIONS)
PACE = Pace(batch_max=500, idle_s=0.05, rest_s=0.5)
SWEEP_EVERY_S = 0.1
"""What was not clicked comes with a sweep, clicks at once: with four sweeps a second steps have less of both, and a
replay is 0.003 of entropy worse."""
SWEEP_LIMIT = 1000
COMMIT_EVERY_S = 0.25
"""What is read again after a crash Redis knows already."""
HOLD_S = 10.0
"""After partitions were given up no window closes for so long, with any worker: until someone reads them, they hold no
clock, and what stands in them would be late. So too after Redis was away."""

Places = dict[Place, int]


class IngestWorker:
    def __init__(
        self,
        *,
        joiner: Joiner,
        guard: ReconnectGuard,
        clock: EventClock,
        shared_clock: SharedClock,
        forget_old_places: Callable[[], None],
        ids_tell: bool,
        ends: EndsQuestion,
        transactions: OpenTransactions,
        kinds: EventKinds,
        times: TimeBounds,
        wall_lag_ms: int | None,
        outbox: Outbox,
        stop: threading.Event,
        heartbeat: Heartbeat,
    ) -> None:
        self._joiner = joiner
        self._guard = guard
        self._clock = clock
        self._shared_clock = shared_clock
        self._forget_old_places = forget_old_places
        self._ids_tell = ids_tell
        self._ends = ends
        self._transactions = transactions
        self._kinds = kinds
        self._times = times
        self._wall_lag_ms = wall_lag_ms
        self._outbox = outbox
        self._stop = stop
        self._heartbeat = heartbeat
        self._outage = RedisOutage("ingest", "nothing is taken in")
        self._sweep_due = 0.0
        self._sweeping = False
        self._swept_ms = 0
        """All windows of this worker's buckets that end before this event time have closed, and their labels are on the
        broker; but for attribution windows that ended with their click window, after a silence: one sweep later."""
        self._closed_ms = 0
        """The same for the buckets of all workers."""
        self._part = (0, 0)
        """Which of how many workers this was at the last sweep: its buckets."""
        self._hold_until = float("-inf")
        self._read_before_ms = 0
        """The newest event that had been read when the question about the ends was asked."""
        self._read_before: Places = {}
        """What `_next` was then."""
        self._next: Places = {}
        """Next offset to handle of each assigned partition; below 0 while that is not known."""
        self._stored: Places = {}
        """Offset of each assigned partition before which Redis had all when it was begun: records before it are read
        again. 0 where offsets do not tell, as of a topic that was made anew."""

    def handle(self, records: Sequence[Record]) -> None:
        facts: list[Fact] = []
        known: set[int] = set()
        refused: list[tuple[Record, str]] = []
        for record in records:
            again = self._is_stored(record)
            try:
                fact = to_fact(record, self._kinds, self._times)
            except Refused as reason:
                refused.append((record, str(reason)))
                continue
            if again:
                known.add(len(facts))
            facts.append(fact)
            # Not beyond the broker's own time: one sender's fast clock must not close the windows of the others.
            bound_ms = record.timestamp_ms
            self._clock.observe(record.topic, record.partition, min(fact.event_ms, bound_ms), bound_ms=bound_ms)
        after = next_offsets(records)
        try:
            replies = self._joiner.apply(facts, {p: max(at, self._stored.get(p, 0)) for p, at in after.items()}, known)
        except RedisError as error:
            self._read_again(error)
        self._outage.worked()
        self._next |= after
        for reply in replies:
            metric.EVENTS.labels(reply.outcome).inc()
            self._send(reply.labels)
        for record, reason_text in refused:
            metric.REFUSED.labels("ingest").inc()
            bury(self._outbox, record, reason_text, worker="ingest")
        self._outbox.seal(after)

    def _is_stored(self, record: Record) -> bool:
        """Whether Redis has the record already, as it is read again. Not where a topic was made anew, and its offsets
        begin again."""
        place = (record.topic, record.partition)
        if record.offset < self._next.get(place, 0):
            self._stored.pop(place, None)
        return record.offset < self._stored.get(place, 0)

    def tick(self) -> None:
        """Closes the windows that event time has passed: swept, produced, and only then settled."""
        self._heartbeat.beat()
        if self._sweeping:
            return
        ends = self._ends.answer()
        if ends is None:
            now = time.monotonic()
            if not self._ends.open and now >= self._sweep_due:
                self._sweep_due = now + SWEEP_EVERY_S
                self._read_before_ms, self._read_before = self._clock.newest_ms(), dict(self._next)
                self._ends.ask(self._next)
            return
        self._transactions.look(ends.offsets, self._next)
        if not self._next:
            return  # without a partition there is nothing to tell the time by
        try:
            agreed = self._shared_clock.agree(self._reached_ms(ends), self._swept_ms, self._part)
            buckets = range(agreed.place, BUCKETS, agreed.readers)
            closed = self._joiner.sweep(agreed.now_ms, SWEEP_LIMIT, buckets)
        except RedisError as error:
            self._read_again(error)
        self._outage.worked()
        self._closed_ms = max(self._closed_ms, agreed.closed_ms)
        if self._part != agreed.part:  # some of these buckets were another's, who may not have swept them so far
            self._part, self._swept_ms = agreed.part, 0
        for window in closed:
            for outcome in window.outcomes:
                metric.EVENTS.labels(outcome).inc()
        swept_ms = agreed.now_ms if len(closed) < SWEEP_LIMIT else closed[-1].due_ms
        self._send([label for window in closed for label in window.labels])
        # Also where none is due: it is settled once all that was sent before is on the broker, events' labels too.
        self._sweeping = True
        self._outbox.seal({}, then=lambda: self._settle(closed, swept_ms))

    def at_end(self, topic: str, partition: int, offset: int) -> None:
        """Notes that all before `offset` is handled, also where the first record kept lies beyond the offset that was
        begun at, where none is kept, and where the last are no records but markers of transactions. What an open
        transaction holds back lies beyond."""
        if (topic, partition) in self._next:
            self._next[topic, partition] = max(self._next[topic, partition], offset)

    def _reached_ms(self, ends: Ends) -> int:
        """Returns the event time that this worker has reached; 0, which holds all, while partitions are on their way to
        others.

        A partition holds the clock unless all that the broker had of it when asked was handled; what came since may
        have been handled of one partition and not of another, and moves nothing. So no window closes over an event
        that the broker has had all along, whatever this process or the broker went through meanwhile. Where the end
        lies before what had been read when asked, the topic was made anew, and nothing of that is read.
        """
        for place in ends.offsets.keys() & self._next.keys():  # some may be another member's since the question
            if self._next[place] >= ends.offsets[place] >= self._read_before.get(place, 0):
                self._clock.at_end(*place)
            else:
                self._clock.behind(*place)
        bound_ms = self._read_before_ms
        if self._wall_lag_ms is not None:
            # The wall clock as a partition that is always at its end: it counts only where all is read.
            wall_ms = ends.asked_ms - self._wall_lag_ms
            self._clock.observe("wall", 0, wall_ms, bound_ms=wall_ms)
            self._clock.at_end("wall", 0)
            bound_ms = max(bound_ms, wall_ms)
        return 0 if time.monotonic() < self._hold_until else min(self._clock.now_ms(), bound_ms)

    def assigned(self, consumer: Consumer, partitions: Sequence[Place]) -> Places:
        """Returns where to read from: the smaller of what Redis and the group remember, as either may have forgotten
        its newest part."""
        stored = self._stored_offsets()
        asked = [TopicPartition(*place) for place in partitions]
        committed = {(c.topic, c.partition): c.offset for c in consumer.committed(asked, CONNECT_TIMEOUT_S)}
        starts = {place: _start(stored.get(place), committed[place]) for place in partitions}
        for place in starts:
            self._clock.add(*place)
        self._begin(starts, stored)
        return starts

    def _begin(self, starts: Places, stored: Places) -> None:
        self._next |= starts
        self._stored |= {p: stored.get(p, 0) if at >= 0 or self._ids_tell else 0 for p, at in starts.items()}

    def revoked(self, partitions: list[TopicPartition]) -> None:
        self._hold_until = time.monotonic() + HOLD_S
        for partition in partitions:
            self._next.pop((partition.topic, partition.partition), None)
            self._stored.pop((partition.topic, partition.partition), None)
            self._clock.drop(partition.topic, partition.partition)

    def _send(self, labels: Sequence[Label]) -> None:
        for label in labels:
            example = to_example(label)
            by = "provisional" if example.provisional else "window" if example.by_window else "event"
            metric.EXAMPLES.labels(example.kind, str(int(example.label)), by).inc()
            closed = {CLOSED_MS: str(self._closed_ms)}
            self._outbox.send(EXAMPLES, encode(TOPICS[EXAMPLES], example), key=example.user, headers=closed)
            if example.label > 0:
                outcome = to_outcome(label)
                self._outbox.send(OUTCOMES, encode(TOPICS[OUTCOMES], outcome), key=outcome.user)

    def _settle(self, closed: Sequence[Closed], swept_ms: int) -> None:
        self._sweeping, self._swept_ms = False, max(self._swept_ms, swept_ms)
        try:
            self._joiner.settle(closed)
        except RedisError as error:
            # They stay due: the next sweep produces the same examples, with the same ids.
            self._sweep_due = time.monotonic() + self._outage.failed_of(error)

    def _read_again(self, error: RedisError) -> NoReturn:
        """Waits for Redis; then has each partition read from what Redis still knows of it, or from where this worker
        was if that is less: what Redis knows already may have labels that were never delivered.

        Raises StartError instead where Redis forbids it.
        """
        self._stop.wait(self._outage.failed_of(error))
        stored = self._stored_offsets()
        # A partition that Redis knows nothing of any more is read from its first offset, kept or not.
        self._begin({key: min(stored.get(key, 0), at) for key, at in self._next.items()}, stored)
        # Redis may have forgotten facts whose time has passed: no window may close over them before they are there
        # again, whoever reads them, and another worker may not have noticed yet.
        self._clock.restart()
        self._read_before_ms = 0
        self._hold_until = time.monotonic() + HOLD_S
        raise ReadAgain(self._next) from error

    def _stored_offsets(self) -> Places:
        """Waits until Redis answers, and takes writes. Raises StreamError if asked to stop before that."""
        while not self._stop.is_set():
            self._heartbeat.beat()
            try:
                with self._guard:
                    self._shared_clock.agree(0)  # a write; and no other worker is to pass what is unread here
                    self._forget_old_places()
                    return self._joiner.offsets()
            except RedisError as error:
                self._stop.wait(self._outage.failed_of(error))
        raise StreamError("asked to stop while Redis was away; nothing of the open batch was committed")


def _start(stored: int | None, committed: int) -> int:
    """Where to read from; below 0, as of `committed`, stands for none: whatever is there first.

    Where the group has read and Redis knows of nothing, all is to be read again; what is no longer there is missed.
    """
    return min(stored or 0, committed) if committed >= 0 else OFFSET_BEGINNING


def _prepare(redis: Redis, join: JoinConfig, stop: threading.Event, heartbeat: Heartbeat) -> None:
    """Loads the functions, here and not when they are first needed: who only reads the logs may have no right to. Waits
    until Redis takes writes."""
    outage = RedisOutage("ingest", "it cannot begin")
    while not stop.is_set():
        heartbeat.beat()
        try:
            functions.load(redis)
            redis.set(WINDOWS, windows(join))
        except RedisError as error:
            stop.wait(outage.failed_of(error))
        else:
            outage.worked()
            return


def run_ingest(settings: Settings, stop: threading.Event, heartbeat: Heartbeat) -> None:
    """Runs an ingest worker until `stop`. Raises StartError where the broker or Redis does not answer."""
    recipe, kafka = settings.recipe, settings.kafka
    metric.begin("ingest")
    kafka.check()
    redis = connect(settings.redis_url)
    check(redis, settings.redis_url)
    warn_of_eviction(redis)
    _prepare(redis, recipe.join, stop, heartbeat)
    outbox, admin = Outbox(kafka.producer(linger_ms=1.0), commit_every_s=COMMIT_EVERY_S), kafka.admin()
    ids = TopicIds(kafka, INPUTS)
    worker = IngestWorker(
        joiner=Joiner(redis, recipe.log, recipe.join),
        guard=ReconnectGuard(redis),
        clock=EventClock(),
        shared_clock=SharedClock(redis, settings.instance),
        forget_old_places=lambda: ids.forget_old_places(redis, places=OFFSETS, known=TOPIC_IDS),
        ids_tell=ids.tell,
        ends=EndsQuestion(admin),
        transactions=OpenTransactions(admin),
        kinds=recipe.kinds,
        times=recipe.times,
        wall_lag_ms=recipe.wall_lag_ms,
        outbox=outbox,
        stop=stop,
        heartbeat=heartbeat,
    )
    consumer = kafka.group_consumer(GROUP, ids.member_name(settings.instance))
    run(consumer, INPUTS, worker, outbox, PACE, check_topics=ids.check, stop=stop)
