"""Ten thousand odd messages to each worker's own hands: none falls over, and each is taken in or dead-lettered."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.fuzzing.mutations import Fuzzed, Fuzzer
from benchmarks.fuzzing.samples import Samples
from feature_store.clock import EventClock
from feature_store.config import JoinConfig, LogConfig
from feature_store.join import Joiner
from feature_store.log import UserLog
from feature_store.shared_clock import SharedClock
from ranker.engine import Engine
from ranker.learner import Learner
from ranker.update_log import TrainerLog
from router_bandit.budget import BudgetOptions
from router_bandit.value_model import ValueOptions
from streams.codec import decode
from streams.ends import EndsQuestion
from streams.events import EventKinds
from streams.gatekeeper import Gatekeeper
from streams.intake import Intake
from streams.kafka import Kafka
from streams.local.stack import LocalStack, local_stack
from streams.loop import Worker
from streams.outbox import Headers, Outbox
from streams.ranking import Ranking
from streams.recipe import TrainingConfig, default
from streams.record import Record
from streams.redis_client import ReconnectGuard, connect
from streams.replica import Replica
from streams.routing import Router, RouterModelSource
from streams.service import Heartbeat
from streams.snapshot_schedule import SnapshotSchedule
from streams.topics import (
    CONVERSIONS,
    DEAD_LETTERS,
    EXAMPLES,
    IMPRESSIONS,
    REQUESTS,
    REWARDS,
    SERVED,
    TOPICS,
)
from streams.update_writer import UpdateWriter
from streams.updates import UpdateReader
from streams.workers.ingest import IngestWorker
from streams.workers.learn import LearnWorker, resume
from streams.workers.rank import RankWorker
from streams.workers.train import TrainWorker
from tests.ranker.samples import COMPRESS, tiny_model

pytestmark = pytest.mark.e2e

MESSAGES = 10_000
BATCH = 250
JOIN = JoinConfig(click_window_ms=50, attribution_window_ms=200, early_ms=50)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("stack"), broker="memory") as stack:
        Kafka(stack.bootstrap, {}).create_topics()
        yield stack


@pytest.fixture
def kafka(stack: LocalStack) -> Kafka:
    return Kafka(stack.bootstrap, {})


class Kept(Outbox):
    """Remembers what it sends."""

    def __init__(self, kafka: Kafka) -> None:
        super().__init__(kafka.producer(linger_ms=5.0), max_batches=1_000)
        self.sent: Counter[str] = Counter()
        self.letters: dict[tuple[str, int], Headers] = {}
        """By topic and offset of what was refused."""

    def send(
        self,
        topic: str,
        value: bytes,
        *,
        key: str | bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        undelivered: Callable[[str], None] | None = None,
    ) -> None:
        super().send(topic, value, key=key, headers=headers, partition=partition, undelivered=undelivered)
        self.sent[topic] += 1
        if TOPICS.get(topic) is not None and TOPICS[topic].message is not None:
            decode(TOPICS[topic], value, str((headers or {}).get("content-type", "")) or None)
        if topic == DEAD_LETTERS:
            assert headers is not None
            self.letters[str(headers["topic"]), int(str(headers["offset"]))] = headers


def now_ms() -> int:
    return int(time.time() * 1000)


def fuzz(
    worker: Worker, outbox: Kept, topics: Sequence[str], values: ValueOptions | None = None
) -> tuple[list[Fuzzed], Mapping[tuple[str, int], Headers]]:
    """Hands the worker MESSAGES of each topic, mixed; returns them, and the letters by topic and offset."""
    fuzzer = Fuzzer(7, Samples(now_ms, values).samplers(), now_ms)
    sent: list[Fuzzed] = []
    while len(sent) < MESSAGES * len(topics):
        batch = [fuzzer.record(topics[(len(sent) + n) % len(topics)]) for n in range(BATCH)]
        worker.handle(
            [
                Record(one.topic, 0, len(sent) + n, now_ms(), one.key, one.value, one.headers)
                for n, one in enumerate(batch)
            ]
        )
        sent += batch
        worker.tick()
        outbox.poll()
    for headers in outbox.letters.values():
        assert headers["reason"]
        assert {"worker", "topic", "partition", "offset", "timestamp-ms"} <= headers.keys()
    return sent, outbox.letters


def refused(sent: Sequence[Fuzzed], letters: Mapping[tuple[str, int], Headers]) -> Counter[tuple[str, str]]:
    """By mutation, how many were refused and how many taken in; prints them."""
    counts: Counter[tuple[str, str]] = Counter()
    for offset, one in enumerate(sent):
        counts[one.kind, "refused" if (one.topic, offset) in letters else "taken"] += 1
    print(dict(counts))
    assert counts["tombstone", "taken"] == counts["noise", "taken"] == counts["cut", "taken"] == 0
    assert min(counts["fields", "taken"], counts["fields", "refused"], counts["times", "taken"]) > 100
    return counts


def test_ingest(stack: LocalStack, kafka: Kafka) -> None:
    redis = connect(stack.redis_url)
    redis.flushall()
    outbox = Kept(kafka)
    joiner = Joiner(redis, LogConfig(), JOIN)
    worker = IngestWorker(
        joiner=joiner,
        guard=ReconnectGuard(connect(stack.redis_url)),
        clock=EventClock(),
        shared_clock=SharedClock(redis, "test"),
        ends=EndsQuestion(kafka.admin()),
        kinds=EventKinds(),
        max_future_ms=60_000,
        wall_lag_ms=0,
        outbox=outbox,
        stop=threading.Event(),
        heartbeat=Heartbeat(None),
    )
    sent, letters = fuzz(worker, outbox, [SERVED, IMPRESSIONS, CONVERSIONS])
    refused(sent, letters)
    while closed := joiner.sweep(now_ms() + 10**6, 1_000):
        worker._send([label for one in closed for label in one.labels])
        joiner.settle(closed)
    print(outbox.sent)
    assert outbox.sent[EXAMPLES] > 1_000


def test_learn(kafka: Kafka) -> None:
    values = ValueOptions(bits=10)
    knowledge = resume([], values, BudgetOptions())
    outbox = Kept(kafka)
    worker = LearnWorker(knowledge, outbox, publish_s=0.5, heartbeat=Heartbeat(None))
    sent, letters = fuzz(worker, outbox, [REWARDS], values)
    refused(sent, letters)
    print(knowledge.learned, knowledge.prices.price, knowledge.prices.spent_ms)
    predicted = knowledge.model.predict({"surface": "feed", "hour": "7", "load": 0.5}, ["light", "heavy"])
    print(predicted)


def test_rank(stack: LocalStack, kafka: Kafka, tmp_path: Path) -> None:
    recipe = default()
    model = tiny_model()
    learner, engine = Learner(model, recipe.training.learner, COMPRESS), Engine(model, COMPRESS)
    outbox = Kept(kafka)
    writer = _writer(engine, kafka, outbox)
    writer.write(learner, offsets={}, watermark_ms=0, grades={})
    router = Router(
        recipe.routing.router_plans(),
        exploration=recipe.routing.exploration,
        values=recipe.routing.values,
        initial_price=0.001,
        seed=0,
    )
    worker = RankWorker(
        intake=Intake(topic_exists=lambda name: False, reply_prefix="ranking.responses", default_deadline_ms=10**6,
            max_future_ms=60_000),
        ranking=Ranking(engine=engine, user_log=UserLog(connect(stack.redis_url), recipe.log), router=router,
            value="bid*pctr", log_length=8, replica="test"),
        replica=Replica(engine, kafka, str(tmp_path)),
        router=router,
        router_models=RouterModelSource(kafka),
        outbox=outbox,
        heartbeat=Heartbeat(None),
        name="test",
    )  # fmt: skip
    sent, letters = fuzz(worker, outbox, [REQUESTS])
    refused(sent, letters)
    print(outbox.sent)


def _writer(engine: Engine, kafka: Kafka, outbox: Outbox) -> UpdateWriter:
    reader = UpdateReader(kafka, start=0)
    writer = UpdateWriter(engine.image, TrainerLog(engine.config.digest, "test", None), reader, outbox, "test")
    writer.open()
    return writer


def test_train(stack: LocalStack, kafka: Kafka, tmp_path: Path) -> None:
    recipe, model = default(), tiny_model(seed=1)
    learner, engine = Learner(model, recipe.training.learner, COMPRESS), Engine(model, COMPRESS)
    outbox = Kept(kafka)
    writer = _writer(engine, kafka, outbox)
    writer.write(learner, offsets={}, watermark_ms=0, grades={})
    config = replace(TrainingConfig(), step_s=0.01, snapshot_s=1e6)
    schedule = SnapshotSchedule(str(tmp_path), digest=model.digest, config=config)
    worker = TrainWorker(
        learner=learner,
        writer=writer,
        gate=Gatekeeper(config.gate, learner, engine, {"click": 100, "conversion": 200}),
        offsets={},
        user_log=UserLog(connect(stack.redis_url), recipe.log),
        log_length=8,
        config=config,
        snapshots=str(tmp_path),
        schedule=schedule,
        outbox=outbox,
        stop=threading.Event(),
        heartbeat=Heartbeat(None),
    )
    with schedule:
        sent, letters = fuzz(worker, outbox, [EXAMPLES])
    refused(sent, letters)
    print(outbox.sent)
