"""`tiderank rank`: ranking requests in, ranked ads out, with the newest weights.

What a crash means: between answering and committing, the requests are answered again, each with another response id
(the caller uses the first); before answering, they are answered by whoever takes the partition over.
"""

import logging
import threading
import time
from collections.abc import Sequence

import torch

from feature_store.log import UserLog
from kernels.linear_compress import bind, choose_impl
from ranker.engine import Engine
from streams.config.low_precision import use_measured_precision
from streams.config.settings import Settings, compiled_folder
from streams.errors import start_errors
from streams.kafka.connection import Kafka
from streams.kafka.dead_letters import bury
from streams.kafka.loop import BaseWorker, Pace, run
from streams.kafka.outbox import Outbox
from streams.kafka.topic_ids import TopicIds
from streams.runtime import metrics as metric
from streams.runtime.laps import Laps
from streams.runtime.redis_client import check, connect
from streams.runtime.service import Heartbeat
from streams.wire.codec import encode
from streams.wire.headers import CONTENT_TYPE, JSON, MSGPACK
from streams.wire.messages import Decision, RankingResponse, Served
from streams.wire.record import Record, next_offsets
from streams.wire.topics import DECISIONS, GROUPS, REQUESTS, RESPONSES, ROUTER_MODEL, SERVED, TOPICS, UPDATES
from streams.workers.rank.answers import to_error
from streams.workers.rank.compiled import use_compiled_graphs
from streams.workers.rank.intake import Intake, Refusal, TopicNames, Work
from streams.workers.rank.ranking import Answer, Ranking
from streams.workers.rank.replica import Replica
from streams.workers.rank.routing import Router, RouterModelSource

log = logging.getLogger(__name__)

GROUP = GROUPS["rank"]
MAX_BATCHES = 10_000
"""More than come in the 30 s that a reply topic which went away holds its responses."""


class RankWorker(BaseWorker):
    def __init__(
        self,
        *,
        intake: Intake,
        ranking: Ranking,
        replica: Replica,
        router: Router,
        router_models: RouterModelSource,
        outbox: Outbox,
        heartbeat: Heartbeat,
        laps: Laps,
        name: str,
    ) -> None:
        self._name = name
        self._laps = laps
        self._intake = intake
        self._ranking = ranking
        self._replica = replica
        self._router = router
        self._router_models = router_models
        self._outbox = outbox
        self._heartbeat = heartbeat
        self._load = _Load()

    def handle(self, records: Sequence[Record]) -> None:
        began = time.perf_counter()
        taken = [self._intake.take(record) for record in records]
        self._laps.lap("decode")
        decode_ms = 1000 * (time.perf_counter() - began)
        for refusal in taken:
            if isinstance(refusal, Refusal):
                self._refuse(refusal)
        answers = self._ranking.answer([work for work in taken if isinstance(work, Work)], decode_ms=decode_ms)
        self._laps.lap("answer")
        for answer in answers:
            self._send(answer)
        self._outbox.seal(next_offsets(records))
        self._ranking.load = self._load.add(time.perf_counter() - began)

    def tick(self) -> None:
        """Between two micro-batches, never inside one: so one response never mixes versions."""
        self._heartbeat.beat()
        applied = self._replica.apply_waiting()
        self._laps.lap("apply")
        if applied:
            metric.UPDATES_APPLIED.inc(applied)
        message = self._router_models.poll()
        if message is not None:
            self._router.take(message)

    def _send(self, answer: Answer) -> None:
        response, work = answer.response, answer.work
        metric.RESPONSES.labels(response.status, response.reason or "").inc()
        now_s = time.time()
        metric.RANKING_SECONDS.observe(max(0.0, now_s - work.record.timestamp_ms / 1000))
        if response.status == "ok" and response.tier is not None:
            for click_ms in self._replica.clicks_ms(response.tier):
                metric.FRESHNESS_SECONDS.labels(response.tier).observe(max(0.0, now_s - click_ms / 1000))
        self._respond(response, work.reply_topic, work.content_type, work.record)
        user = response.user
        if answer.served is not None:
            self._put(SERVED, answer.served, user)
        if answer.decision is not None:
            if answer.decision.reason == "deadline":
                metric.DEADLINE_LIMITED.inc()
            self._put(DECISIONS, answer.decision, user)

    def _put(self, topic: str, message: Served | Decision, user: str) -> None:
        value = encode(TOPICS[topic], message)
        self._laps.lap("encode")
        self._outbox.send(topic, value, key=user)
        self._laps.lap("produce")

    def _respond(self, response: RankingResponse, topic: str, content_type: str | None, record: Record) -> None:
        headers = {} if content_type is None else {CONTENT_TYPE: content_type}
        value = encode(TOPICS[RESPONSES], response, content_type)
        self._laps.lap("encode")

        def refuse(reason: str) -> None:
            reason = f"its response cannot be sent to {topic}: {reason}"
            self._refuse(Refusal(record, reason, response.request_id, response.user, RESPONSES, content_type))

        # A reply topic is its owner's: it may be gone, closed to us or too narrow, and must not stop the others.
        undelivered = None if topic == RESPONSES else refuse
        self._outbox.send(topic, value, key=response.user or None, headers=headers, undelivered=undelivered)
        self._laps.lap("produce")

    def _refuse(self, refusal: Refusal) -> None:
        metric.REFUSED.labels("rank").inc()
        bury(self._outbox, refusal.record, refusal.reason, worker="rank")
        if refusal.request_id is None:
            return
        metric.RESPONSES.labels("error", "refused").inc()
        response = to_error(
            refusal.request_id,
            refusal.user,
            refusal.reason,
            event_ms=refusal.record.timestamp_ms,
            replica=self._name,
        )
        content_type = refusal.content_type if refusal.content_type in (JSON, MSGPACK) else None
        self._respond(response, refusal.reply_topic, content_type, refusal.record)


class _Load:
    """Share of the newest seconds spent handling: an exponential mean over about 5 s."""

    def __init__(self) -> None:
        self._busy = 0.0
        self._since = time.perf_counter()

    def add(self, busy_s: float) -> float:
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        keep = 0.5 ** (elapsed / 5.0)
        share = min(busy_s / elapsed, 1.0) if elapsed > 0 else 1.0
        self._busy = keep * self._busy + (1 - keep) * share
        return self._busy


def run_rank(settings: Settings, stop: threading.Event, heartbeat: Heartbeat) -> None:
    """Runs a ranking worker until `stop`; without Redis, on fallbacks.

    Raises StartError without a broker, where Redis does not let us in, or for a model that cannot be built here.
    """
    torch.set_num_threads(1)  # two intra-op threads on busy cores collapse; scale by processes
    recipe, kafka = settings.recipe, settings.kafka
    metric.begin("rank")
    kafka.check()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    impl = choose_impl(device)
    log.info("model %s (%s) on %s; linear compression: %s", recipe.model.name, recipe.model.digest, device, impl)
    with start_errors():
        engine = Engine(recipe.model, bind(impl), device)
    if device.type == "cpu":
        use_measured_precision(engine, settings.snapshots)
        use_compiled_graphs(engine, compiled_folder())
    redis = connect(settings.redis_url)
    check(redis, settings.redis_url, may_be_away=True)
    outbox = Outbox(kafka.producer(), max_batches=MAX_BATCHES)
    router = Router(
        recipe.routing.router_plans(),
        exploration=recipe.routing.exploration,
        values=recipe.routing.values,
        initial_price=recipe.routing.budget.initial_price,
        seed=recipe.routing.seed,
    )
    ranking = Ranking(
        engine=engine,
        user_log=UserLog(redis, recipe.log),
        router=router,
        value=recipe.ranking.value,
        thompson_clicks=recipe.ranking.thompson_clicks,
        log_length=recipe.model.max_log_length,
        replica=settings.instance,
        # A GPU computes while this thread waits.
        compute_clock=time.thread_time if device.type == "cpu" else time.perf_counter,
    )
    laps = Laps()
    engine.lap = laps.lap
    worker = RankWorker(
        intake=_intake(settings, kafka),
        ranking=ranking,
        replica=Replica(engine, kafka, settings.snapshots),
        router=router,
        router_models=RouterModelSource(kafka),
        outbox=outbox,
        heartbeat=heartbeat,
        laps=laps,
        name=settings.instance,
    )
    ids = TopicIds(kafka, [REQUESTS, UPDATES, ROUTER_MODEL])
    pace = Pace(batch_max=recipe.ranking.batch_max, idle_s=0.01, rest_s=0.1)
    # An aborted request that is answered harms nobody; one sender's open transaction would hold up all others.
    consumer = kafka.group_consumer(GROUP, ids.member_name(settings.instance), uncommitted=True)
    run(consumer, [REQUESTS], worker, outbox, pace, check_topics=ids.check, stop=stop, laps=laps)


def _intake(settings: Settings, kafka: Kafka) -> Intake:
    admin = kafka.admin()
    ranking = settings.recipe.ranking
    return Intake(
        topic_exists=TopicNames(lambda: set(admin.list_topics(timeout=1.0).topics)),
        reply_prefix=ranking.reply_prefix,
        default_deadline_ms=ranking.default_deadline_ms,
        times=settings.recipe.times,
    )
