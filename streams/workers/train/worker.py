"""`tiderank train`: labelled examples in, every change of the weights out.

What a crash means: the restart goes on from the newest snapshot, opens a new epoch (what the old one wrote after the
snapshot is void once the first update of the new one is there), and learns again what came after the snapshot.
"""

import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from redis.exceptions import RedisError

from feature_store.clock import EventClock
from feature_store.log import UserLog
from kernels.linear_compress import bind, choose_impl
from ranker.engine import Engine
from ranker.gate.checks import Breach
from ranker.inputs.requests import LabelledRequest
from ranker.learning.learner import Learner, StepReport
from ranker.learning.rollback import go_back, void_after
from ranker.snapshots.snapshot import Snapshot, SnapshotError, list_snapshots
from ranker.updates.image import NotApplicable
from ranker.updates.log import TrainerLog
from streams.config.recipe import Recipe, TrainingConfig
from streams.config.settings import Settings
from streams.errors import Refused, StreamError, start_errors
from streams.kafka.dead_letters import bury
from streams.kafka.loop import BaseWorker, Pace, run
from streams.kafka.outbox import Offsets, Outbox
from streams.kafka.seen import SeenIds
from streams.kafka.topic_ids import TopicIds
from streams.kafka.update_reader import UpdateReader
from streams.runtime import metrics as metric
from streams.runtime.laps import Laps
from streams.runtime.outage import RedisOutage
from streams.runtime.redis_client import check, connect
from streams.runtime.service import Heartbeat
from streams.wire.codec import decode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import TrainingExample
from streams.wire.record import Place, Record, next_offsets
from streams.wire.topics import EXAMPLES, GROUPS, TOPICS, UPDATES
from streams.workers.train.counterparts import Counterparts
from streams.workers.train.examples import labelled_requests, once, windows_closed_ms
from streams.workers.train.gatekeeper import Gatekeeper
from streams.workers.train.join_hold import JoinHold
from streams.workers.train.snapshot_schedule import SnapshotSchedule, take_up
from streams.workers.train.update_writer import UpdateWriter, now_ms

log = logging.getLogger(__name__)

GROUP = GROUPS["train"]
_HELD_STEPS = 16
"""So many full steps may wait for the join's windows."""

_SETTLE_S = 10.0
"""How long a trainer that ends waits until the log holds its last update."""


class TrainWorker(BaseWorker):
    """Gathers examples for a moment, then grades, learns and publishes, all in one step."""

    def __init__(
        self,
        *,
        learner: Learner,
        writer: UpdateWriter,
        gate: Gatekeeper,
        offsets: dict[str, int],
        user_log: UserLog,
        log_length: int,
        config: TrainingConfig,
        snapshots: str,
        schedule: SnapshotSchedule,
        join_hold: JoinHold,
        counterparts: Counterparts,
        outbox: Outbox,
        stop: threading.Event,
        heartbeat: Heartbeat,
        laps: Laps,
    ) -> None:
        self._learner = learner
        self._writer = writer
        self._gate = gate
        self._offsets = offsets
        self._user_log = user_log
        self._log_length = log_length
        self._config = config
        self._snapshots = snapshots
        self._schedule = schedule
        self._outbox = outbox
        self._stop = stop
        self._heartbeat = heartbeat
        self._laps = laps
        self._outage = RedisOutage("train", "training pauses")
        self._clock = EventClock()
        """Event time of the labels that were read: how far the world is known."""
        self._closed = EventClock()
        """Event time of the join: up to when all labels are there."""
        self._seen = SeenIds()
        self._waiting: list[TrainingExample] = []
        self._waiting_offsets: Offsets = {}
        self._join_hold = join_hold
        self._counterparts = counterparts
        self._read_ms = 0
        """The newest broker time of an example."""
        self._step_due = 0.0
        self._begun_ms = 0
        self._quarantine_from = dict(offsets) if gate.closed else None
        self._learned = 0
        self._frozen = False

    def handle(self, records: Sequence[Record]) -> None:
        metric.TRAINING_BEHIND_SECONDS.set(max(0, now_ms() - records[-1].timestamp_ms) / 1000)
        oldest_ms = now_ms() - 1000 * self._config.behind_max_s
        for record in records:
            try:
                example: TrainingExample = decode(TOPICS[EXAMPLES], record.value, record.header(CONTENT_TYPE))
            except Refused as refused:
                metric.REFUSED.labels("train").inc()
                bury(self._outbox, record, str(refused), worker="train")
                continue
            self._clock.observe(record.topic, record.partition, example.label_ms, bound_ms=record.timestamp_ms)
            closed_ms = min(windows_closed_ms(record, example), record.timestamp_ms)
            self._closed.observe(record.topic, record.partition, closed_ms, bound_ms=closed_ms)
            self._join_hold.read(example, record.timestamp_ms, closed_ms)
            self._read_ms = max(self._read_ms, record.timestamp_ms)
            if record.timestamp_ms < oldest_ms:
                metric.SKIPPED.labels("behind").inc()
            else:
                self._waiting.append(example)
        self._waiting_offsets |= next_offsets(records)

    def tick(self) -> None:
        self._heartbeat.beat()
        self._writer.follow()
        self._laps.lap("follow")
        full = len(self._waiting) >= self._config.batch_max
        if self._waiting_offsets and (full or time.monotonic() >= self._step_due) and not self._one_sided():
            self._step()
        self._schedule.tick(self._writer, self._learner, self._gate)

    def _one_sided(self) -> bool:
        """Whether what waits is to wait on, for what was not clicked meanwhile."""
        many = len(self._waiting) >= _HELD_STEPS * self._config.batch_max
        return self._join_hold.holds(self._closed.now_ms()) and not many

    def at_end(self, topic: str, partition: int, offset: int) -> None:
        for clock in (self._clock, self._closed):
            clock.at_end(topic, partition)

    def assigned(self, consumer: Consumer, partitions: Sequence[Place]) -> dict[Place, int]:
        """Returns where to read from: where the weights stand, not what the group has committed, as the weights must
        agree."""
        for place in partitions:
            for clock in (self._clock, self._closed):
                clock.add(*place)
        return {place: self._offsets.get(str(place[1]), OFFSET_BEGINNING) for place in partitions}

    def revoked(self, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            for clock in (self._clock, self._closed):
                clock.drop(partition.topic, partition.partition)

    def _step(self) -> None:
        began, self._begun_ms = time.perf_counter(), now_ms()
        self._step_due = time.monotonic() + self._config.step_s
        examples = once(self._waiting, self._seen)
        offsets, self._waiting, self._waiting_offsets = self._waiting_offsets, [], {}
        self._offsets |= {str(partition): offset for (_, partition), offset in offsets.items()}
        if self._gate.closed:
            metric.QUARANTINED.inc(len(examples))
            self._gate.judge_labels(self._with_logs(examples), self._closed.now_ms())
        else:
            self._learn(examples)
        self._outbox.seal(offsets)
        metric.STEP_SECONDS.observe(time.perf_counter() - began)
        self._freeze_when_due()

    def _learn(self, examples: list[TrainingExample]) -> None:
        """Learns, publishes and judges. All are judged, whether or not they can be learned."""
        examples, alone = self._counterparts.split(examples, self._read_ms)
        requests = self._with_logs(examples)
        judged = requests + self._with_logs(alone)
        report = self._learner.learn(self._gate.split(requests))
        self._learned += len(examples)
        metric.LEARNED.inc(len(examples))
        metric.LEARNED_RESPONSES.inc(len(requests))
        metric.STEPS.labels(str(report.applied).lower()).inc()
        if not report.applied and report.loss:  # 0: all are held out, teach nothing or cannot be read any more
            log.warning("a step of %d examples was not applied: loss %s", len(examples), report.loss)
        counts = {"examples": len(examples), "responses": len(requests), "learned": self._learned}
        clicks_ms = [e.trigger_ms for e in examples if e.kind == "click" and e.label > 0 and e.trigger_ms]
        breach = self._publish(report, counts, clicks_ms) or self._gate.judge_labels(judged, self._closed.now_ms())
        self._laps.lap("gate")
        if breach is not None:
            self._roll_back(breach)

    def _with_logs(self, examples: list[TrainingExample]) -> list[LabelledRequest]:
        """Adds the users' logs. Waits for Redis: an example must not be lost because the log could not be read for a
        while."""
        while True:
            try:
                requests = labelled_requests(examples, self._user_log, self._log_length) if examples else []
            except RedisError as error:
                self._heartbeat.beat()
                if self._stop.wait(self._outage.failed_of(error)):
                    raise StreamError("asked to stop while Redis was away; the open step was not committed") from error
            else:
                self._outage.worked()
                self._laps.lap("redis")
                return requests

    def _publish(self, report: StepReport, counts: Mapping[str, int], clicks_ms: Sequence[int]) -> Breach | None:
        breach = self._gate.judge_weights()
        if breach is not None:
            return breach
        try:
            records = self._writer.prepare(
                self._learner,
                offsets=self._offsets,
                watermark_ms=self._watermark_ms,
                grades=_grades(report, counts),
                quarantined=self._quarantined,
                begun_ms=self._begun_ms,
                clicks_ms=clicks_ms,
            )
        except NotApplicable as error:
            return Breach("finite", str(error))
        breach = self._gate.judge_update()
        if breach is not None:
            return breach
        if self._quarantine_from is not None:
            self._quarantine_from = None
            self._schedule.soon()  # the newest snapshot says that the gate is closed
        self._gate.published()
        metric.UPDATE_BYTES.inc(self._writer.send(records))
        self._laps.lap("publish")
        for kind, sums in (("click", report.click), ("conversion", report.conversion)):
            metric.PREDICTED.labels(kind).inc(sums.predicted)
            metric.POSITIVES.labels(kind).inc(sums.positives)
            if (entropy := sums.normalized_entropy) is not None:
                metric.NORMALIZED_ENTROPY.labels(kind).set(entropy)
        return None

    def _roll_back(self, breach: Breach) -> None:
        """Replicas and this trainer go back to what is good; what was learned since is quarantined."""
        began, digest = time.perf_counter(), self._learner.config.digest
        metric.GATE_BREACHES.labels(breach.test).inc()
        hopeless = self._gate.hopeless(breach)
        self._schedule.abandon()  # it may be newer than what is good
        snapshot = self._good_snapshot(breach)
        good = snapshot.manifest.position
        log.error("the gate: %s. Going back to epoch %d, update %d", breach.reason, good.epoch, good.number)
        try:
            go_back(snapshot, self._learner, self._writer.image)
        except SnapshotError as error:
            raise StreamError(f"the gate: {breach.reason}. The snapshot to go back to is damaged: {error}") from error
        void_after(self._snapshots, digest, good)
        dirty = self._writer.reopen(digest, good)
        self._learner.mark_dirty(dirty)
        self._quarantine_from = dict(snapshot.manifest.offsets)
        self._writer.write(
            self._learner,
            offsets=self._offsets,
            watermark_ms=self._watermark_ms,
            grades={},
            quarantined=self._quarantined,
        )
        if hopeless:
            self._writer.settled_position(wait_s=_SETTLE_S)
            raise StreamError(
                f"the gate: {breach.reason}; soon after a rollback, so going on would not help. Replicas are back at "
                f"epoch {good.epoch}, update {good.number}: mend the cause (a learning rate?) and start again"
            )
        self._quarantine_from = dict(self._offsets)
        self._gate.close(breach, self._watermark_ms)
        self._schedule.soon()
        log.warning("the gate is closed; replicas are sent back within %.0f ms", 1000 * (time.perf_counter() - began))

    def _good_snapshot(self, breach: Breach) -> Snapshot:
        """Returns the newest one that the gate trusts, and that is no older than its reference."""
        reference = self._gate.reference_at
        # What the log changed before, the writer does not know.
        oldest = reference.place if reference is not None else (self._writer.first_epoch, 0)
        newest = max(oldest, self._gate.trusted(breach, (self._writer.epoch, self._writer.number)))
        snapshots = list_snapshots(self._snapshots, self._learner.config.digest)
        good = [s for s in snapshots if oldest <= s.manifest.position.place <= newest]
        if not good:
            raise StreamError(
                f"the gate: {breach.reason}. Nothing of this step was published, and there is no snapshot in "
                f"{self._snapshots} to go back to: mend the cause and start again"
            )
        return good[-1]

    @property
    def _watermark_ms(self) -> int:
        """Event time of what was read. After a start the clock stands still until every partition has been heard of."""
        return max(self._clock.now_ms(), self._writer.image.watermark_ms)

    @property
    def _quarantined(self) -> dict[str, tuple[int, int]]:
        """Offsets of examples, by partition, that no update has told of yet."""
        start = self._quarantine_from
        if start is None:
            return {}
        return {p: (start.get(p, 0), end) for p, end in self._offsets.items() if end > start.get(p, 0)}

    def _freeze_when_due(self) -> None:
        after = self._config.freeze_after
        if after is not None and not self._frozen and self._learned >= after:
            self._frozen = True
            self._learner.freeze()
            log.info("froze a copy of the model after %d examples", self._learned)


def _grades(report: StepReport, counts: Mapping[str, int]) -> dict[str, float]:
    """Returns the grades of one step: its counts; sums of losses and of what was predicted, by label kind and
    predictor."""
    grades = {name: float(count) for name, count in counts.items()}
    for kind, sums in (("click", report.click), ("conversion", report.conversion)):
        grades |= {f"{kind}.{name}": float(value) for name, value in asdict(sums).items() if value is not None}
    return grades


def _windows_ms(recipe: Recipe) -> dict[str, int]:
    return {"click": recipe.join.click_window_ms, "conversion": recipe.join.attribution_window_ms}


def run_train(settings: Settings, stop: threading.Event, heartbeat: Heartbeat) -> None:
    """Runs the trainer until `stop`.

    Raises StartError where the broker or Redis does not answer or the model cannot be built here, and StreamError when
    another trainer has taken over.
    """
    torch.set_num_threads(1)
    recipe, kafka = settings.recipe, settings.kafka
    metric.begin("train")
    kafka.check()
    redis = connect(settings.redis_url)
    check(redis, settings.redis_url)
    compress = bind(choose_impl(torch.device("cpu")))
    with start_errors():
        learner = Learner(recipe.model, recipe.training.learner, compress)
        published = Engine(recipe.model, compress)
    laps = Laps()
    learner.lap = laps.lap
    image = published.image
    taken_up = take_up(settings.snapshots, learner, image)
    since = taken_up.position if taken_up is not None else None
    gate = Gatekeeper(recipe.training.gate, learner, published, _windows_ms(recipe))
    if taken_up is not None:
        gate.start_at(taken_up.position, closed=taken_up.gate_closed)
    trainer = f"{settings.instance}-{uuid.uuid4().hex[:12]}"
    trainer_log = TrainerLog(recipe.model.digest, trainer, since)
    outbox = Outbox(kafka.producer(linger_ms=1.0), commit_every_s=1.0, signer=kafka.signer)
    reader = UpdateReader(kafka, start=since.offset if since is not None else 0)
    writer = UpdateWriter(image, trainer_log, reader, outbox, trainer)
    writer.open(new_model=settings.new_model)
    learner.mark_dirty(trainer_log.dirty)
    offsets = dict(image.offsets)
    # Replicas get a whole model, or what the log changed since the snapshot, before the first example is learned.
    writer.write(learner, offsets=offsets, watermark_ms=image.watermark_ms, grades={})
    outbox.seal({})
    schedule = SnapshotSchedule(settings.snapshots, digest=recipe.model.digest, config=recipe.training)
    worker = TrainWorker(
        learner=learner,
        writer=writer,
        gate=gate,
        offsets=offsets,
        user_log=UserLog(redis, recipe.log),
        log_length=recipe.model.max_log_length,
        config=recipe.training,
        snapshots=settings.snapshots,
        schedule=schedule,
        join_hold=JoinHold(live=recipe.wall_lag_ms is not None),
        counterparts=Counterparts(learner.policies, resumed=since is not None),
        outbox=outbox,
        stop=stop,
        heartbeat=heartbeat,
        laps=laps,
    )
    ids = TopicIds(kafka, [EXAMPLES, UPDATES])
    pace = Pace(batch_max=recipe.training.batch_max, idle_s=0.02, rest_s=0.1)
    consumer = kafka.group_consumer(GROUP, ids.member_name(settings.instance))
    with schedule:
        run(consumer, [EXAMPLES], worker, outbox, pace, check_topics=ids.check, stop=stop, laps=laps)
