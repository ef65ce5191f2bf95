"""A trainer in a test's own hands: all of it but its consumer."""

import threading
from dataclasses import replace
from pathlib import Path

from feature_store.log import UserLog
from ranker.config import ModelConfig
from ranker.engine import Engine
from ranker.learning.learner import Learner
from ranker.updates.log import TrainerLog
from streams.config.builtin import default
from streams.config.recipe import TrainingConfig
from streams.kafka.connection import Kafka
from streams.kafka.outbox import Outbox
from streams.kafka.update_reader import UpdateReader
from streams.local.stack import LocalStack
from streams.runtime.laps import Laps
from streams.runtime.redis_client import connect
from streams.runtime.service import Heartbeat
from streams.workers.train.counterparts import Counterparts
from streams.workers.train.gatekeeper import Gatekeeper
from streams.workers.train.join_hold import JoinHold
from streams.workers.train.snapshot_schedule import SnapshotSchedule
from streams.workers.train.update_writer import UpdateWriter
from streams.workers.train.worker import TrainWorker
from tests.ranker.samples import COMPRESS, at


def new_writer(engine: Engine, kafka: Kafka, outbox: Outbox) -> UpdateWriter:
    reader = UpdateReader(kafka, start=0)
    writer = UpdateWriter(engine.image, TrainerLog(engine.config.digest, "test", None), reader, outbox, "test")
    writer.open()
    return writer


def new_trainer(
    model: ModelConfig,
    stack: LocalStack,
    kafka: Kafka,
    outbox: Outbox,
    snapshots: Path,
    *,
    closed_at: dict[str, int] | None = None,
) -> tuple[TrainWorker, Learner, SnapshotSchedule]:
    """Makes a trainer of an untrained model, whose first update is out; it steps at every tick.

    closed_at: it takes up a snapshot of these offsets, taken while the gate was closed.
    """
    recipe = default()
    learner, engine = Learner(model, recipe.training.learner, COMPRESS), Engine(model, COMPRESS)
    writer = new_writer(engine, kafka, outbox)
    writer.write(learner, offsets={}, watermark_ms=0, grades={})
    config = replace(TrainingConfig(), step_s=1e-6, snapshot_s=1e6)
    schedule = SnapshotSchedule(str(snapshots), digest=model.digest, config=config)
    gate = Gatekeeper(config.gate, learner, engine, {"click": 100, "conversion": 200})
    if closed_at is not None:
        gate.start_at(at(1), closed=True)
    worker = TrainWorker(
        learner=learner,
        writer=writer,
        gate=gate,
        offsets=dict(closed_at or {}),
        user_log=UserLog(connect(stack.redis_url), recipe.log),
        log_length=8,
        config=config,
        snapshots=str(snapshots),
        schedule=schedule,
        join_hold=JoinHold(live=False),
        counterparts=Counterparts(learner.policies, resumed=False),
        outbox=outbox,
        stop=threading.Event(),
        heartbeat=Heartbeat(None),
        laps=Laps(),
    )
    return worker, learner, schedule
