"""The trainer's snapshots: when one is taken, and that no failure ends the training."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from ranker.config import GateConfig
from ranker.engine import Engine
from ranker.snapshots.snapshot import list_snapshots, survey
from ranker.snapshots.writer import SnapshotWriter
from ranker.updates.log import Position
from streams.config.recipe import TrainingConfig
from streams.errors import StreamError
from streams.runtime import metrics as metric
from streams.workers.train.gatekeeper import Gatekeeper
from streams.workers.train.snapshot_schedule import SnapshotSchedule
from streams.workers.train.update_writer import UpdateWriter
from tests.ranker.samples import COMPRESS, at, tiny_learner, tiny_model, traffic, update_of

MODEL = tiny_model(rows=12)


class Trainer:
    """A learner, its published image and its gate, without a broker: what the log confirms is said by the test."""

    def __init__(self, root: Path, period_s: float = 0.01) -> None:
        self.learner = tiny_learner(MODEL)
        published = Engine(MODEL, COMPRESS)
        self.image = published.image
        self.gate = Gatekeeper(GateConfig(), self.learner, published, {"click": 1, "conversion": 1})
        self.schedule = SnapshotSchedule(
            str(root), digest=MODEL.digest, config=TrainingConfig(snapshot_s=period_s, snapshots_kept=9)
        )
        self.epoch = 1
        self.torn: int | None = None
        self.forgotten = 0
        self.confirmed = True
        self._root = str(root)
        self._number = 0
        self._traffic = iter(traffic(0, 50))

    def step(self) -> None:
        self._number += 1
        self.learner.learn(next(self._traffic))
        self.image.apply(update_of(self.learner, self._number), at(self._number))
        self.image.watermark_ms = 10_000 * self._number

    def settled_position(self, wait_s: float) -> Position | None:
        return self.image.position if self.confirmed else None

    def snapshot_begun(self, position: Position) -> None:
        assert position == self.image.position

    def forget_before(self, position: Position) -> None:
        self.forgotten = position.number

    def tick(self) -> None:
        self.schedule.tick(cast("UpdateWriter", self), self.learner, self.gate)

    def tick_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not done():
            assert time.monotonic() < deadline
            self.tick()
            time.sleep(0.002)

    @property
    def written(self) -> list[int]:
        return [s.manifest.position.number for s in list_snapshots(self._root, MODEL.digest)]


def count(counter: object) -> float:
    return float(counter._value.get())  # type: ignore[attr-defined]


def test_one_is_taken_when_it_is_due_and_something_was_learned(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.step()
    trainer.confirmed = False
    for _ in range(5):
        trainer.tick()
    assert trainer.written == []  # the log does not hold the update yet
    trainer.confirmed = True
    trainer.tick_until(lambda: trainer.written == [1])
    stamp = (tmp_path / "e00000001-n000000000001/manifest.json").stat().st_mtime_ns
    for _ in range(20):
        trainer.tick()
        time.sleep(0.005)
    assert (tmp_path / "e00000001-n000000000001/manifest.json").stat().st_mtime_ns == stamp
    trainer.step()
    trainer.tick_until(lambda: trainer.written == [1, 2])


@pytest.mark.parametrize("closed", [False, True])
def test_a_snapshot_says_whether_the_gate_was_closed(tmp_path: Path, closed: bool) -> None:
    trainer = Trainer(tmp_path)
    trainer.step()
    trainer.gate.closed = closed
    trainer.tick_until(lambda: trainer.written == [1])
    assert [s.manifest.gate_closed for s in list_snapshots(str(tmp_path), MODEL.digest)] == [closed]


def test_the_gate_goes_back_to_what_is_written_not_to_what_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tmp_path)
    trainer.step()
    trainer.tick_until(lambda: trainer.written == [1])
    trainer.step()
    trainer.tick_until(lambda: trainer.gate.reference_at == at(1))
    assert trainer.forgotten == 1
    go, go_on = threading.Event(), SnapshotWriter._go_on
    monkeypatch.setattr(SnapshotWriter, "_go_on", lambda self: (go.wait(30), go_on(self))[1])
    trainer.step()
    time.sleep(0.02)
    for _ in range(5):
        trainer.tick()
    assert (trainer.written, trainer.gate.reference_at) == ([1, 2], at(1))
    go.set()
    trainer.tick_until(lambda: trainer.gate.reference_at == at(2))


def test_a_failure_is_counted_and_told_and_the_next_one_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    root.write_text("a file where the folder should be")
    trainer, before = Trainer(root), count(metric.SNAPSHOTS_FAILED)
    trainer.step()
    trainer.tick_until(lambda: count(metric.SNAPSHOTS_FAILED) > before)
    assert "snapshot of update 1 was not written: NotADirectoryError" in caplog.text
    root.unlink()
    trainer.tick_until(lambda: trainer.written == [1])


def test_replicas_that_wait_need_not_wait_for_the_period(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, period_s=3_600)
    trainer.step()
    trainer.tick_until(lambda: trainer.written == [1])
    trainer.step()
    for _ in range(10):
        trainer.tick()
        time.sleep(0.005)
    assert trainer.written == [1]
    trainer.torn = 2
    trainer.tick()
    assert trainer.written == [1]  # replicas have not got 2, so a snapshot of it would not help them
    trainer.step()
    trainer.tick_until(lambda: trainer.written == [1, 3])


class TestTheEnd:
    @pytest.fixture
    def held(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Trainer, threading.Event]]:
        """A trainer whose snapshot is under way until the event is set."""
        reached, go, go_on = threading.Event(), threading.Event(), SnapshotWriter._go_on

        def hold(writer: SnapshotWriter) -> None:
            reached.set()
            go.wait(30)
            go_on(writer)

        monkeypatch.setattr(SnapshotWriter, "_go_on", hold)
        trainer = Trainer(tmp_path)
        trainer.step()
        trainer.tick()
        assert reached.wait(30)
        yield trainer, go
        go.set()

    def test_finishes_what_is_under_way(self, held: tuple[Trainer, threading.Event]) -> None:
        trainer, go = held
        threading.Timer(0.1, go.set).start()
        with trainer.schedule:
            pass
        assert trainer.written == [1]

    def test_an_error_abandons_it(self, held: tuple[Trainer, threading.Event], tmp_path: Path) -> None:
        trainer, go = held
        threading.Timer(0.1, go.set).start()
        with pytest.raises(StreamError, match="newer epoch"), trainer.schedule:
            raise StreamError("another trainer has opened a newer epoch")
        assert survey(str(tmp_path)) == []

    def test_a_rollback_takes_it_back(self, held: tuple[Trainer, threading.Event], tmp_path: Path) -> None:
        trainer, go = held
        threading.Timer(0.1, go.set).start()
        trainer.schedule.abandon()
        assert survey(str(tmp_path)) == []
        trainer.schedule.soon()
        trainer.tick_until(lambda: trainer.written == [1])

    def test_a_rollback_does_not_go_on_while_the_store_hangs(
        self, held: tuple[Trainer, threading.Event], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("ranker.snapshots.writer.END_S", 0.05)
        with caplog.at_level(logging.WARNING), pytest.raises(StreamError, match="cannot be taken back"):
            held[0].schedule.abandon()
