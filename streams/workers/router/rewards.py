"""`tiderank rewards`: decisions and what their responses earned in, rewards out. A Faust app with its state in Redis.

It reads from where Redis says, which has the positions beside the windows; the group's offsets are for others to look
at. What a crash means, step by step:
    before Redis took a batch in: it is read again;
    between that and the commit: it is not;
    between a sweep and its rewards' delivery: the same rewards are swept and produced again, with the same ids;
    between that and the settling: they are read from their topic and settled;
    Redis comes back with less than it had, or with nothing: what it lacks is read again, from all three topics, by an
    app that begins anew.

Windows close by the join's clock, which tells when all outcomes of a time are on their topic (join_clock.py).
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn, TypeVar, cast

import faust
from confluent_kafka import OFFSET_BEGINNING
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from router_bandit.windows import (
    DecisionFact,
    Delivered,
    Forgotten,
    OutcomeFact,
    RewardWindows,
    WindowOptions,
)
from streams.config.settings import Settings
from streams.errors import Refused, StartError
from streams.kafka.connection import Kafka
from streams.kafka.dead_letters import letter_headers, letter_value
from streams.kafka.ends import EndsQuestion
from streams.kafka.gaps import GapWatch
from streams.kafka.loop import REST_AFTER_S
from streams.kafka.scan import ends, read_topic
from streams.kafka.topic_ids import TopicIds
from streams.runtime import metrics as metric
from streams.runtime.outage import Outage, RedisOutage
from streams.runtime.redis_client import check, connect, warn_of_eviction
from streams.runtime.service import Heartbeat
from streams.wire.codec import decode, encode
from streams.wire.event_time import TimeBounds
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import Decision
from streams.wire.record import Place, Record, next_offsets
from streams.wire.topics import DEAD_LETTERS, DECISIONS, GROUPS, OUTCOMES, REWARDS, TOPICS
from streams.workers.router.faust_app import begin_at, gather_fetches, make_app, run_app
from streams.workers.router.join_clock import JoinClock
from streams.workers.router.reward_facts import decision_fact, delivered_fact, outcome_fact, to_reward

log = logging.getLogger(__name__)

GROUP = GROUPS["rewards"]
INPUTS = (DECISIONS, OUTCOMES)
BATCH_MAX = 500
TICK_S = 0.2
REST_S = 0.5
"""Instead of TICK_S while nothing comes: windows then close by the wall clock alone, if at all."""
LINGER_S = 0.02
"""An event waits so long for others to come: rewards are in no hurry, and Redis is asked once a batch."""
SWEEP_LIMIT = 500
REDIS_TIMEOUT_S = 2.0

T = TypeVar("T")
Headers = Sequence[tuple[str, bytes]]


@dataclass(slots=True)
class _Batch:
    decisions: list[DecisionFact] = field(default_factory=list)
    outcomes: list[OutcomeFact] = field(default_factory=list)
    refused: list[tuple[Record, str]] = field(default_factory=list)


class RewardsWorker:
    """Agents put events into `inbox`; one task takes them from there in batches and does all the rest.

    Not Faust's own `take`: it acknowledges a batch however its block ends, an exception and a cancellation included,
    and it always waits out its time limit.
    """

    def __init__(
        self,
        app: faust.App,
        windows: RewardWindows,
        clock: JoinClock,
        gaps: GapWatch,
        outage: RedisOutage,
        again: threading.Event,
        *,
        times: TimeBounds,
        ids_tell: bool,
    ) -> None:
        """
        Args:
            again: to be set where all is to begin anew, from where Redis then stands.
            ids_tell: as TopicIds.tell.
        """
        self.inbox: asyncio.Queue[Any] = asyncio.Queue(2 * BATCH_MAX)
        self._app = app
        self._windows = windows
        self._clock = clock
        self._gaps = gaps
        self._times = times
        self._ids_tell = ids_tell
        self._outage = outage
        self._again = again
        self._at: dict[Place, int] = {}
        """Offset of each assigned partition at which Redis stands, as this process left it."""
        self._first: asyncio.Task[Any] | None = None
        self._heard = time.monotonic()
        self._tick_due = 0.0

    async def work(self) -> None:
        """Works until Redis has forgotten. An error that waiting does not mend ends the app, with nothing of its batch
        committed."""
        try:
            await self._work()
        except Forgotten as forgotten:
            log.warning("%s", forgotten)
            self._again.set()

    async def _work(self) -> NoReturn:
        while True:
            events = [event for event in await self._next_events() if _place(event.message) in self._at]
            records = [_record(event.message) for event in events]
            await asyncio.to_thread(self._gaps.see, records)
            batch = self._sort(records)
            await self._bury(batch.refused)
            if records:
                await self._until_redis_answers(partial(self._take, batch, next_offsets(records)))
                for event in events:
                    event.ack()
            self._clock.handled(records, max((d.event_ms for d in batch.decisions), default=0))
            if time.monotonic() >= self._tick_due:
                self._tick_due = time.monotonic() + self._period_s()
                await self._until_redis_answers(self._clock.look)
                await self._pay()

    async def _next_events(self) -> list[Any]:
        """Waits for one event and takes what else is there; nothing, if none comes for a while."""
        self._first = self._first or asyncio.ensure_future(self.inbox.get())
        await asyncio.wait({self._first}, timeout=self._period_s())
        if not self._first.done():
            return []
        events, self._first, self._heard = [self._first.result()], None, time.monotonic()
        await asyncio.sleep(LINGER_S)
        while len(events) < BATCH_MAX and not self.inbox.empty():
            events.append(self.inbox.get_nowait())
        return events

    def _period_s(self) -> float:
        rests = time.monotonic() - self._heard > REST_AFTER_S and not self._clock.waits
        return REST_S if rests else TICK_S

    def _sort(self, records: Sequence[Record]) -> _Batch:
        batch = _Batch()
        for record in records:
            try:
                message = decode(TOPICS[record.topic], record.value, record.header(CONTENT_TYPE))
                self._times.check(message.event_ms, record)
                if isinstance(message, Decision):
                    batch.decisions.append(decision_fact(message))
                else:
                    batch.outcomes.append(outcome_fact(message))
            except Refused as refused:
                batch.refused.append((record, str(refused)))
                continue
        return batch

    async def begin(self, committed: Mapping[Place, int]) -> Mapping[Place, int]:
        """Returns where to read partitions from: where Redis stands; their beginning where Redis knows of nothing, or
        where the group knows of nothing and no id tells whether the topic was made anew."""
        try:
            places = await self._windows.places()
        except RedisError as error:  # nothing waits here: Faust would take it for a consumer that does not answer
            self._outage.failed_of(error)
            self._at = {}
            self._again.set()
            return {}
        self._at = {place: places.get(place, 0) for place in committed}
        starts = {place: self._at[place] if at >= 0 or self._ids_tell else 0 for place, at in committed.items()}
        log.info("assigned %s", ", ".join(f"{topic}[{p}] from {at}" for (topic, p), at in starts.items()) or "nothing")
        # Where the group has read and Redis has forgotten, what the broker no longer has is missed.
        self._gaps.start({p: at if at or committed[p] > 0 else OFFSET_BEGINNING for p, at in starts.items()})
        return starts

    async def _take(self, batch: _Batch, after: dict[Place, int]) -> None:
        moves = {place: (self._at[place], offset) for place, offset in after.items()}
        words = await self._windows.take(batch.decisions, batch.outcomes, moves)
        self._at |= after
        for word in words:
            metric.REWARD_FACTS.labels(word).inc()

    async def _bury(self, refused: Sequence[tuple[Record, str]]) -> None:
        letters = []
        for record, reason in refused:
            metric.REFUSED.labels("rewards").inc()
            headers = letter_headers(record, reason, "rewards").items()
            encoded = [(name, text.encode() if isinstance(text, str) else text or b"") for name, text in headers]
            letters.append(await self._send(DEAD_LETTERS, record.key, letter_value(record), encoded, partition=0))
        await asyncio.gather(*letters)

    async def _pay(self) -> None:
        """Sweeps what is due, produces it, and settles what the broker has acknowledged."""
        sweep = partial(self._windows.sweep, self._clock.now_ms, SWEEP_LIMIT, self._at)
        swept = await self._until_redis_answers(sweep)
        if swept.gone:
            log.warning("%d windows had outlived their decisions' time to live", swept.gone)
            metric.REWARDS.labels("gone").inc(swept.gone)
        if not swept.closed:
            return
        deliveries = []
        for closed in swept.closed:
            reward = to_reward(closed)
            key = reward.decision.user.encode()
            deliveries.append(await self._send(REWARDS, key, encode(TOPICS[REWARDS], reward), []))
        delivered: dict[Place, int] = {}
        for made in await asyncio.gather(*deliveries):
            place = (made.topic, made.partition)
            delivered[place] = max(delivered.get(place, 0), made.offset + 1)
        for closed in swept.closed:
            metric.REWARDS.labels("late" if closed.late else "closed").inc()
        await self._until_redis_answers(partial(self._windows.settle, swept.closed, delivered))

    async def _until_redis_answers(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeats what changes nothing when it is repeated. Ends with the app, as its cancellation may be swallowed: by
        asyncio.wait_for, which redis-py calls, where what it waits for is done at the same moment (Python 3.11)."""
        while True:
            if self._app.should_stop:
                raise asyncio.CancelledError
            try:
                answer = await attempt()
            except RedisError as error:
                await asyncio.sleep(self._outage.failed_of(error))
            else:
                self._outage.worked()
                return answer

    async def _send(
        self, topic: str, key: bytes | None, value: bytes, headers: Headers, *, partition: int | None = None
    ) -> Awaitable[Any]:
        """Queues a record; to await what is returned is to await its acknowledgement."""
        delivery: Awaitable[Any] = await self._app.producer.send(
            topic, key, value, partition, timestamp=None, headers=list(headers)
        )
        return delivery


def _place(message: Any) -> Place:
    return message.topic, message.partition


def _record(message: Any) -> Record:
    headers = message.headers or ()
    return Record(
        message.topic,
        message.partition,
        message.offset,
        round(message.timestamp * 1000),
        message.key,
        message.value,
        tuple(headers.items() if isinstance(headers, dict) else headers),
    )


def build_app(settings: Settings, ids: TopicIds, outage: RedisOutage, again: threading.Event) -> faust.App:
    """The Faust app: two agents and the task that does their work."""
    app = make_app(settings.kafka, GROUP, ids.member_name(settings.instance))
    redis = _redis(settings)
    clock = JoinClock(app, redis, EndsQuestion(settings.kafka.admin()))
    asker = settings.kafka.reader()
    worker = RewardsWorker(
        app,
        _windows(settings, redis),
        clock,
        GapWatch(asker),
        outage,
        again,
        times=settings.recipe.times,
        ids_tell=ids.tell,
    )

    async def work() -> None:
        async with redis:
            with closing(asker):
                await worker.work()

    async def receive(stream: faust.StreamT[bytes]) -> None:
        async for event in (
            cast("faust.Stream[bytes]", stream).noack().events()
        ):  # acknowledged when Redis surely has it
            await worker.inbox.put(event)

    for name in INPUTS:
        app.agent(app.topic(name, key_type=bytes, value_type=bytes), name=f"receive {name}")(receive)
    app.task(work)
    gather_fetches(app)
    begin_at(app, worker.begin)
    return app


async def settle_delivered(settings: Settings, stop: threading.Event, heartbeat: Heartbeat) -> None:
    """Reads on in router.rewards from where Redis knows of it, and settles those rewards' windows.

    So a Redis that was emptied learns which decisions were rewarded before it reads them again; else all would be
    rewarded again, in which the learner recognizes the newest only. Raises redis' errors.
    """
    async with _redis(settings) as redis:
        windows = _windows(settings, redis)
        since = {partition: at for (topic, partition), at in (await windows.places()).items() if topic == REWARDS}
        until = {partition: end for partition, (_, end) in ends(settings.kafka, REWARDS).items()}
        restored, some = 0, list[Delivered]()
        for record in read_topic(settings.kafka, REWARDS, since, until):
            try:
                some.append(delivered_fact(decode(TOPICS[REWARDS], record.value, record.header(CONTENT_TYPE))))
            except (Refused, ValueError):
                continue  # none of ours
            if len(some) == BATCH_MAX:
                restored += await windows.restore(some)
                some.clear()
                heartbeat.beat()
            if stop.is_set():
                return
        restored += await windows.restore(some, {(REWARDS, partition): end for partition, end in until.items()})
    if restored:
        log.warning("%d rewards were delivered that Redis did not know of", restored)


def _redis(settings: Settings) -> Redis:
    return Redis.from_url(
        settings.redis_url,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


def _options(settings: Settings) -> WindowOptions:
    return WindowOptions(window_ms=settings.recipe.routing.reward_window_ms)


def _windows(settings: Settings, redis: Redis) -> RewardWindows:
    return RewardWindows(redis, _options(settings))


def run_rewards(settings: Settings, stop: threading.Event, heartbeat: Heartbeat) -> None:
    """Runs a rewards worker until `stop`. Raises StartError where the broker or Redis does not answer."""
    metric.begin("rewards")
    settings.kafka.check()
    redis = connect(settings.redis_url)
    check(redis, settings.redis_url)
    warn_of_eviction(redis)
    outage = RedisOutage("rewards", "no windows are opened or closed")
    options = _options(settings)
    while not stop.is_set():
        heartbeat.beat()
        try:
            ids, again = TopicIds(settings.kafka, (*INPUTS, REWARDS)), threading.Event()
            ids.forget_old_places(redis, places=options.places_key, known=options.topics_key)
            asyncio.run(settle_delivered(settings, stop, heartbeat))
            app = build_app(settings, ids, outage, again)
            run_app(app, heartbeat, until=(stop, again), check=ids.check)
            _await_kafka(settings.kafka, stop, heartbeat)
        except RedisError as error:
            stop.wait(outage.failed_of(error))


def _await_kafka(kafka: Kafka, stop: threading.Event, heartbeat: Heartbeat) -> None:
    """Waits until the broker answers: to begin anew takes one, and it may be away as well."""
    outage = Outage("kafka", "rewards cannot begin anew")
    while not stop.is_set():
        heartbeat.beat()
        try:
            kafka.check()
        except StartError as error:
            stop.wait(outage.failed("away", str(error)))
        else:
            return
