"""What a trainer writes after what the log holds already: without a broker, on a log that is a list."""

from typing import Any, cast

import pytest
import torch

from ranker.config import LearnerConfig
from ranker.engine import Engine
from ranker.learning.learner import Learner
from ranker.learning.state import restore, training_state
from ranker.updates.log import Position, TrainerLog, UpdateFollower
from streams.errors import StartError
from streams.kafka.outbox import Outbox
from streams.kafka.update_reader import UpdateReader
from streams.wire.record import Record
from streams.wire.topics import UPDATES
from streams.workers.train.update_writer import UpdateWriter
from tests.ranker.samples import COMPRESS, tiny_model, traffic

MODEL = tiny_model()
State = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Position]


class Log:
    """Outbox and reader of one trainer, on records that all share. What is sent can be read after so many polls."""

    def __init__(self, records: list[bytes], start: int, delay: int = 0) -> None:
        self.newest: dict[str, int] = {}
        self._records, self._read, self._delay, self._polls = records, start, delay, 0
        self.at_end = False

    def send(self, topic: str, value: bytes) -> None:
        self._records.append(value)
        self.newest[UPDATES] = len(self._records) - 1
        self._polls = 0

    def poll(self, count: int = 0, timeout_s: float = 0.0) -> list[Record]:
        self._polls += 1
        if count == 0 or self._polls <= self._delay:
            return []
        found = [Record(UPDATES, 0, o, 0, None, v, ()) for o, v in enumerate(self._records) if o >= self._read]
        self._read, self.at_end = len(self._records), True
        return found


class Trainer:
    def __init__(
        self, records: list[bytes], name: str, state: State | None = None, *, new_model: bool = True, delay: int = 0
    ) -> None:
        self.learner, engine = Learner(MODEL, LearnerConfig(), COMPRESS), Engine(MODEL, COMPRESS)
        since = None
        if state is not None:
            training, image, since = state
            restore(self.learner, training)
            engine.image.load(image, since, watermark_ms=0, offsets={})
        log: Any = Log(records, since.offset if since is not None else 0, delay)
        self.log = TrainerLog(MODEL.digest, name, since)
        self.writer = UpdateWriter(engine.image, self.log, cast(UpdateReader, log), cast(Outbox, log), name)
        self.writer.open(new_model=new_model)
        self.learner.mark_dirty(self.log.dirty)
        self.write()

    def write(self) -> None:
        self.writer.write(self.learner, offsets={}, watermark_ms=0, grades={})

    def learn(self, seed: int, steps: int) -> None:
        for examples in traffic(seed, steps):
            self.learner.learn(examples)
            self.write()

    def state(self) -> State:
        position = self.writer.settled_position(wait_s=5.0)
        assert position is not None
        return training_state(self.learner), self.writer.image.tensors(), position


def assert_follows(records: list[bytes], trainer: Trainer) -> None:
    """A replica that reads the whole log holds what the trainer published, bit for bit."""
    replica, follower = Engine(MODEL, COMPRESS), UpdateFollower(MODEL.digest)
    for offset, value in enumerate(records):
        update = follower.feed(value, offset)
        if update is not None:
            assert follower.position is not None
            replica.apply(update, follower.position)
    assert follower.fault is None
    ours, published = replica.image.tensors(), trainer.writer.image.tensors()
    assert ours.keys() == published.keys()
    assert all(torch.equal(ours[name], published[name]) for name in published)


def test_after_an_epoch_that_built_on_nothing_an_older_snapshot_is_sent_whole() -> None:
    """A trainer began anew; then its store, and what was learned before, was there again."""
    records: list[bytes] = []
    first = Trainer(records, "first")
    first.learn(0, 20)
    state = first.state()
    Trainer(records, "anew").learn(1, 1)
    back = Trainer(records, "back", state)
    assert back.log.reset
    back.learn(2, 3)
    assert_follows(records, back)


def test_after_epochs_that_built_on_the_snapshot_only_what_they_changed_is_sent() -> None:
    records: list[bytes] = []
    first = Trainer(records, "first")
    first.learn(0, 20)
    state = first.state()
    Trainer(records, "second", state).learn(1, 2)
    third = Trainer(records, "third", state)
    assert not third.log.reset
    third.learn(2, 3)
    assert_follows(records, third)


@pytest.mark.parametrize("built_on_a_snapshot", [True, False])
def test_it_does_not_begin_anew_by_itself_where_a_trained_model_is_known(built_on_a_snapshot: bool) -> None:
    records: list[bytes] = []
    first = Trainer(records, "first")
    first.learn(0, 3 if built_on_a_snapshot else 320)
    if built_on_a_snapshot:
        Trainer(records, "second", first.state())
    written = len(records)
    with pytest.raises(StartError, match=r"no snapshot of it was found.*TIDERANK_NEW_MODEL=1"):
        Trainer(records, "third", new_model=False)
    assert len(records) == written
    assert_follows(records, Trainer(records, "third", new_model=True))


def test_a_trainer_that_died_before_its_first_snapshot_begins_anew() -> None:
    records: list[bytes] = []
    Trainer(records, "first").learn(0, 20)
    assert_follows(records, Trainer(records, "second", new_model=False))


def test_where_it_stands_is_waited_for() -> None:
    """In a loop that makes a step each time round, the log never holds the newest update at once."""
    trainer = Trainer([], "first", delay=3)
    trainer.learn(0, 2)
    assert trainer.writer.settled_position() is None
    position = trainer.writer.settled_position(wait_s=5.0)
    assert position is not None
    assert position.number == trainer.writer.number
