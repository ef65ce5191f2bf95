"""Odd messages to each worker's own hands: none falls over, and each is taken in or dead-lettered.

A few thousand of each topic; ten thousand with TIDERANK_LONG_TESTS=1. `benchmarks.fuzz` sends them to whole processes.
"""

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from ranker.learning.learner import Learner
from router_bandit.budget import BudgetOptions
from router_bandit.value_model import ValueOptions
from streams.config.builtin import default
from streams.config.recipe import EventKinds
from streams.errors import Refused
from streams.kafka.connection import Kafka
from streams.kafka.ends import EndsQuestion
from streams.kafka.loop import Worker
from streams.kafka.open_transactions import OpenTransactions
from streams.kafka.outbox import Headers, Outbox
from streams.local.stack import LocalStack, local_stack
from streams.runtime.laps import Laps
from streams.runtime.redis_client import ReconnectGuard, connect
from streams.runtime.service import Heartbeat
from streams.wire.codec import decode
from streams.wire.record import Record
from streams.wire.topics import (
    CONVERSIONS,
    DEAD_LETTERS,
    DECISIONS,
    EXAMPLES,
    IMPRESSIONS,
    REQUESTS,
    RESPONSES,
    REWARDS,
    ROUTER_MODEL,
    SERVED,
    TOPICS,
    UPDATES,
)
from streams.workers.ingest.worker import IngestWorker
from streams.workers.rank.intake import Intake
from streams.workers.rank.ranking import Ranking
from streams.workers.rank.replica import Replica
from streams.workers.rank.routing import Router, RouterModelSource
from streams.workers.rank.worker import RankWorker
from streams.workers.router.learn import LearnWorker, resume
from tests.ranker.samples import COMPRESS, tiny_model
from tests.streams.workers.train.training import new_trainer, new_writer

pytestmark = pytest.mark.e2e

MESSAGES = 10_000 if os.environ.get("TIDERANK_LONG_TESTS") == "1" else 2_000
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


def check_kinds(sent: Sequence[Fuzzed], letters: Mapping[tuple[str, int], Headers]) -> None:
    """Checks that some of the mutations are refused or taken in, as they must be."""
    counts: Counter[tuple[str, str]] = Counter()
    for offset, one in enumerate(sent):
        counts[one.kind, "refused" if (one.topic, offset) in letters else "taken"] += 1
    assert counts["tombstone", "taken"] == counts["noise", "taken"] == counts["cut", "taken"] == 0
    assert min(counts["fields", "taken"], counts["fields", "refused"], counts["times", "taken"]) > MESSAGES // 50


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
        forget_old_places=lambda: None,
        ids_tell=True,
        ends=EndsQuestion(kafka.admin()),
        transactions=OpenTransactions(kafka.admin()),
        kinds=EventKinds(),
        times=default().times,
        wall_lag_ms=0,
        outbox=outbox,
        stop=threading.Event(),
        heartbeat=Heartbeat(None),
    )
    sent, letters = fuzz(worker, outbox, [SERVED, IMPRESSIONS, CONVERSIONS])
    check_kinds(sent, letters)
    while closed := joiner.sweep(now_ms() + 10**6, 1_000):
        worker._send([label for one in closed for label in one.labels])
        joiner.settle(closed)
    assert outbox.sent[EXAMPLES] > MESSAGES // 50


def test_learn(kafka: Kafka) -> None:
    values = ValueOptions(bits=10)
    knowledge = resume([], values, BudgetOptions())
    outbox = Kept(kafka)
    worker = LearnWorker(knowledge, outbox, publish_s=0.5, heartbeat=Heartbeat(None))
    sent, letters = fuzz(worker, outbox, [REWARDS], values)
    check_kinds(sent, letters)
    assert knowledge.learned > MESSAGES // 10
    plans = ["light", "heavy"]
    assert all(map(math.isfinite, knowledge.model.predict({"surface": "feed", "load": 0.5}, plans).values()))
    assert math.isfinite(knowledge.prices.price)


def test_router_models() -> None:
    """A learner that starts goes on from what is good of them, and a ranking process keeps routing."""
    values, recipe = ValueOptions(bits=10), default()
    fuzzer = Fuzzer(7, Samples(now_ms, values).samplers(), now_ms)
    plans, exploration = recipe.routing.router_plans(), recipe.routing.exploration
    router = Router(plans, exploration=exploration, values=values, initial_price=0.001, seed=0)
    taken = 0
    for number in range(MESSAGES // 4):
        one = fuzzer.record(ROUTER_MODEL)
        try:
            message = decode(TOPICS[ROUTER_MODEL], one.value)
        except Refused:
            continue
        resume([message], values, BudgetOptions()).to_message()
        router.number = -1  # as if it were the newest
        taken += router.take(message)
        routed = router.route(
            str(number), surface="s", event_ms=0, candidates=3, log_length=5, load=0.1, device="d", time_left_ms=100.0
        )
        assert sum(routed.choice.probabilities.values()) == pytest.approx(1)
    assert taken > MESSAGES // 100


def test_rank(stack: LocalStack, kafka: Kafka, tmp_path: Path) -> None:
    recipe = default()
    model = tiny_model()
    learner, engine = Learner(model, recipe.training.learner, COMPRESS), Engine(model, COMPRESS)
    outbox = Kept(kafka)
    writer = new_writer(engine, kafka, outbox)
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
            times=default().times),
        ranking=Ranking(engine=engine, user_log=UserLog(connect(stack.redis_url), recipe.log), router=router,
            value="bid*pctr", log_length=8, replica="test"),
        replica=Replica(engine, kafka, str(tmp_path)),
        router=router,
        router_models=RouterModelSource(kafka),
        outbox=outbox,
        heartbeat=Heartbeat(None),
        laps=Laps(),
        name="test",
    )  # fmt: skip
    sent, letters = fuzz(worker, outbox, [REQUESTS])
    check_kinds(sent, letters)
    assert min(outbox.sent[topic] for topic in (RESPONSES, SERVED, DECISIONS)) > MESSAGES // 10


def test_train(stack: LocalStack, kafka: Kafka, tmp_path: Path) -> None:
    outbox = Kept(kafka)
    worker, _, schedule = new_trainer(tiny_model(seed=1), stack, kafka, outbox, tmp_path)
    with schedule:
        sent, letters = fuzz(worker, outbox, [EXAMPLES])
    check_kinds(sent, letters)
    assert outbox.sent[UPDATES] > 5
