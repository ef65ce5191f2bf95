"""`tiderank rewards`: decisions and what their responses earned in, rewards out. A Faust app with its state in Redis.

What a crash means, step by step:
    before Redis took a batch in: it is read again;
    between that and the commit: it is read again, and changes nothing (decisions and outcomes are known by id);
    between a sweep and its rewards' delivery, or between that and the settling: the same rewards are swept and
    produced again, with the same ids (readers of router.rewards drop what they have).

Windows close by the join's clock, which tells when all outcomes of a time are on their topic (streams.join_clock).
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

import faust
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from router_bandit.journal import Journal
from router_bandit.windows import Closed, DecisionFact, OutcomeFact, RewardWindows, WindowOptions
from streams import metric_names as metric
from streams.codec import CONTENT_TYPE, decode, encode
from streams.dead_letters import letter_headers, letter_value
from streams.ends import EndsQuestion
from streams.errors import Refused
from streams.event_time import TimeBounds
from streams.faust_app import make_app, run_app
from streams.gaps import GroupGapWatch
from streams.join_clock import JoinClock
from streams.messages import Decision, Outcome, Reward
from streams.outage import RedisOutage
from streams.record import Record
from streams.redis_client import check, connect, warn_of_eviction
from streams.service import Heartbeat
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, DECISIONS, OUTCOMES, REWARDS, TOPICS

log = logging.getLogger(__name__)

GROUP = "tiderank-rewards"
BATCH_MAX = 500
TICK_S = 0.1
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
        self, app: faust.App, windows: RewardWindows, clock: JoinClock, gaps: GroupGapWatch, *, times: TimeBounds
    ) -> None:
        self.inbox: asyncio.Queue[Any] = asyncio.Queue(2 * BATCH_MAX)
        self._app = app
        self._windows = windows
        self._journal = Journal(windows)
        self._clock = clock
        self._gaps = gaps
        self._times = times
        self._outage = RedisOutage("rewards", "no windows are opened or closed")
        self._first: asyncio.Task[Any] | None = None
        self._tick_due = 0.0

    async def work(self) -> None:
        """Never returns. An error that waiting does not mend ends the app, with nothing of its batch committed."""
        while True:
            events = await self._next_events()
            records = [_record(event.message) for event in events]
            await asyncio.to_thread(self._gaps.see, self._clock.assigned(), records)
            batch = self._sort(records)
            await self._bury(batch.refused)
            if records:
                await self._until_redis_answers(partial(self._take, batch, events))
            self._clock.handled(records, max((d.event_ms for d in batch.decisions), default=0))
            if time.monotonic() >= self._tick_due:
                self._tick_due = time.monotonic() + TICK_S
                await self._until_redis_answers(self._clock.look)
                await self._until_redis_answers(self._journal.release)
                await self._pay()

    async def _next_events(self) -> list[Any]:
        """Waits for one and takes what else is there; nothing, if none comes for a while."""
        self._first = self._first or asyncio.ensure_future(self.inbox.get())
        await asyncio.wait({self._first}, timeout=TICK_S)
        if not self._first.done():
            return []
        events, self._first = [self._first.result()], None
        await asyncio.sleep(LINGER_S)
        while len(events) < BATCH_MAX and not self.inbox.empty():
            events.append(self.inbox.get_nowait())
        return events

    def _sort(self, records: Sequence[Record]) -> _Batch:
        batch = _Batch()
        for record in records:
            try:
                message = decode(TOPICS[record.topic], record.value, record.header(CONTENT_TYPE))
                self._times.check(message.event_ms, record)
                if isinstance(message, Decision):
                    batch.decisions.append(_decision_fact(message))
                else:
                    batch.outcomes.append(_outcome_fact(message))
            except Refused as refused:
                batch.refused.append((record, str(refused)))
                continue
        return batch

    async def _take(self, batch: _Batch, events: Sequence[Any]) -> None:
        def acknowledge() -> None:
            for event in events:
                event.ack()

        taken = await self._journal.take(batch.decisions, batch.outcomes, acknowledge)
        for word in taken.words:
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
        swept = await self._until_redis_answers(partial(self._windows.sweep, self._clock.now_ms, SWEEP_LIMIT))
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
        await asyncio.gather(*deliveries)
        for closed in swept.closed:
            metric.REWARDS.labels("late" if closed.late else "closed").inc()
        await self._until_redis_answers(partial(self._windows.settle, swept.closed))

    async def _until_redis_answers(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeats what changes nothing when it is repeated."""
        while True:
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


def to_reward(closed: Closed) -> Reward:
    return Reward(
        reward_id=closed.reward_id,
        decision=decode(TOPICS[DECISIONS], closed.payload),
        earned=closed.earned,
        outcomes=closed.outcomes,
        late=closed.late,
    )


def _decision_fact(decision: Decision) -> DecisionFact:
    """Raises Refused where its reward could not be sent: JSON may take more bytes than what came."""
    payload = encode(TOPICS[DECISIONS], decision)
    if len(payload) > TOPICS[DECISIONS].max_bytes:
        raise Refused(f"a decision must be at most {TOPICS[DECISIONS].max_bytes} bytes in JSON, got {len(payload)}")
    return DecisionFact(
        response_id=decision.response_id,
        event_ms=decision.event_ms,
        plan=decision.plan,
        cost_ms=decision.measured_ms,
        forced=decision.forced,
        payload=payload,
    )


def _outcome_fact(outcome: Outcome) -> OutcomeFact:
    return OutcomeFact(
        outcome_id=outcome.outcome_id,
        response_id=outcome.response_id,
        event_ms=outcome.event_ms,
        value=outcome.value,
    )


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


def build_app(settings: Settings) -> faust.App:
    """The Faust app: two agents and the task that does their work."""
    recipe = settings.recipe
    app = make_app(settings.kafka, GROUP, settings.instance)
    redis = Redis.from_url(
        settings.redis_url,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    options = WindowOptions(window_ms=recipe.routing.reward_window_ms)
    windows = RewardWindows(redis, options, caller=settings.instance)
    clock = JoinClock(app, redis, EndsQuestion(settings.kafka.admin()))
    gaps = GroupGapWatch(settings.kafka, GROUP)
    worker = RewardsWorker(app, windows, clock, gaps, times=recipe.times)

    async def receive(stream: faust.StreamT[bytes]) -> None:
        async for event in (
            cast("faust.Stream[bytes]", stream).noack().events()
        ):  # acknowledged when Redis surely has it
            await worker.inbox.put(event)

    for name in (DECISIONS, OUTCOMES):
        app.agent(app.topic(name, key_type=bytes, value_type=bytes), name=f"receive {name}")(receive)
    app.task(worker.work)
    return app


def run_rewards(settings: Settings, stop: threading.Event, heartbeat: Heartbeat) -> None:
    """Runs a rewards worker until `stop`. Raises StartError where the broker or Redis does not answer."""
    settings.kafka.check()
    redis = connect(settings.redis_url)
    check(redis, settings.redis_url)
    warn_of_eviction(redis)
    run_app(build_app(settings), stop, heartbeat)
