"""A replica between the log and the snapshots, on a broker: what it applies when, and what it does after a fault."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer

from ranker.config import LearnerConfig, UpdateConfig
from ranker.engine import Engine
from ranker.learning.learner import Learner
from ranker.learning.state import training_state
from ranker.snapshots.snapshot import write_snapshot
from ranker.updates.log import Position
from ranker.updates.record import Open, Update, UpdateHeader, encode_open, encode_update
from streams.kafka.connection import Kafka
from streams.local.memory_broker import memory_server
from streams.wire.topics import UPDATES
from streams.workers.rank import replica as replica_module
from streams.workers.rank.replica import Replica
from tests.ranker.samples import COMPRESS, tiny_model, traffic

TRAINER = "t"


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Kafka]:
    server = memory_server(tmp_path / "broker")
    server.start()
    try:
        made = Kafka(server.address, {})
        made.create_topics()
        yield made
    finally:
        server.stop()


class Trainer:
    """Learns a step for each update, and keeps the published image as a trainer does."""

    def __init__(self, kafka: Kafka) -> None:
        self.learner = Learner(tiny_model(), LearnerConfig(updates=UpdateConfig(moved=0.0)), COMPRESS)
        self.published = Engine(self.learner.config, COMPRESS)
        self._producer: Producer = kafka.producer()
        self._number, self._offset = 0, 1
        opening = Open(epoch=1, digest=self.learner.config.digest, trainer=TRAINER, created_ms=0)
        self._producer.produce(UPDATES, encode_open(opening), partition=0)

    def publish(self, *, lost: int = 0, max_bytes: int = 900_000) -> None:
        """The next update; the last `lost` of its records do not reach the log."""
        self._number += 1
        self.learner.learn(traffic(self._number, 1)[0])
        header = UpdateHeader(
            epoch=1,
            number=self._number,
            previous=self._number - 1,
            digest=self.learner.config.digest,
            trainer=TRAINER,
            reset=self._number == 1,
            watermark_ms=self._number,
            clicks_ms=[1_000 * self._number],
        )
        update = Update(header, self.learner.take_changes())
        records = encode_update(update, max_bytes)
        assert len(records) > lost
        for record in records[: len(records) - lost]:
            self._producer.produce(UPDATES, record, partition=0)
        self._producer.flush()
        self._offset += len(records) - lost
        self.published.apply(update, self.position)

    @property
    def position(self) -> Position:
        return Position(epoch=1, number=self._number, trainer=TRAINER, offset=self._offset)

    def snapshot(self, root: str) -> None:
        write_snapshot(
            root,
            self.published.image,
            training_state(self.learner),
            digest=self.learner.config.digest,
            created_ms=self._number,
        )


def follow(replica: Replica, engine: Engine, number: int) -> None:
    for _ in range(2_000):
        replica.apply_waiting()
        if engine.position is not None and engine.position.number >= number:
            return
        time.sleep(0.005)
    raise AssertionError(f"stands at {engine.position}, fault {replica.fault}")


def await_fault(replica: Replica) -> None:
    for _ in range(2_000):
        replica.apply_waiting()
        if replica.fault is not None:
            return
    raise AssertionError("it has not seen the fault")


def stands_at(engine: Engine) -> int:
    assert engine.position is not None
    return engine.position.number


def assert_equal(one: Engine, other: Engine) -> None:
    mine, theirs = one.image.tensors(), other.image.tensors()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert np.array_equal(tensor.numpy(), theirs[name].numpy()), name


def test_one_gap_takes_no_more_than_its_time_and_one_record(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, engine = Trainer(kafka), Engine(tiny_model(), COMPRESS)
    for _ in range(12):
        trainer.publish()
    replica = Replica(engine, kafka, str(tmp_path / "none"))
    monkeypatch.setattr(replica_module, "GAP_S", 0.0)
    follow(replica, engine, 1)
    numbers: list[int] = []
    while not numbers or numbers[-1] < 6:
        assert replica.apply_waiting() <= 1
        numbers.append(stands_at(engine))
    assert set(numbers) >= {2, 3, 4, 5}
    monkeypatch.setattr(replica_module, "GAP_S", 60.0)
    assert replica.apply_waiting() == 12 - numbers[-1]
    assert_equal(engine, trainer.published)
    replica.close()


def test_a_torn_update_stops_it_until_the_snapshot_past_the_fault(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path / "snapshots")
    trainer, engine = Trainer(kafka), Engine(tiny_model(), COMPRESS)
    trainer.publish()
    trainer.publish()
    replica = Replica(engine, kafka, root)
    follow(replica, engine, 2)
    held = {name: tensor.clone() for name, tensor in engine.image.tensors().items()}
    trainer.publish(lost=1, max_bytes=6_000)
    trainer.publish()
    await_fault(replica)
    assert stands_at(engine) == 2, "it must serve its last good version on"
    assert all(np.array_equal(held[n].numpy(), t.numpy()) for n, t in engine.image.tensors().items())
    trainer.snapshot(root)
    trainer.publish()
    monkeypatch.setattr(replica_module, "LOOK_AGAIN_S", 0.0)
    follow(replica, engine, 5)
    assert replica.fault is None
    assert_equal(engine, trainer.published)
    replica.close()


def test_clicks_are_told_once_to_each_tier_and_only_of_what_came_while_it_followed(
    kafka: Kafka, tmp_path: Path
) -> None:
    trainer, engine = Trainer(kafka), Engine(tiny_model(), COMPRESS)
    trainer.publish()
    replica = Replica(engine, kafka, str(tmp_path / "none"))
    follow(replica, engine, 1)
    while not replica.caught_up:
        replica.apply_waiting()
    assert replica.clicks_ms("light") == []
    trainer.publish()
    follow(replica, engine, 2)
    assert replica.clicks_ms("light") == [2_000]
    trainer.publish()
    follow(replica, engine, 3)
    assert replica.clicks_ms("light") == [3_000]
    assert replica.clicks_ms("heavy") == [2_000, 3_000]
    assert replica.clicks_ms("heavy") == []
    replica.close()


@pytest.mark.parametrize("gap_s", [replica_module.GAP_S, 0.0], ids=["at once", "in single records"])
def test_it_says_when_the_log_is_of_another_model(
    kafka: Kafka, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, gap_s: float
) -> None:
    """However the records fall into calls: the end of the log may be seen in a call that reads none of them."""
    monkeypatch.setattr(replica_module, "GAP_S", gap_s)
    Trainer(kafka).publish()
    engine = Engine(tiny_model(seed=1), COMPRESS)
    replica, deadline = Replica(engine, kafka, str(tmp_path)), time.monotonic() + 20
    while "of other models" not in caplog.text and time.monotonic() < deadline:
        replica.apply_waiting()
    assert engine.position is None
    assert caplog.text, f"caught up: {replica.caught_up}"
    assert f"2 records of other models and none of {engine.config.digest}, 'tiny'" in caplog.text
    assert "one recipe" in caplog.text
