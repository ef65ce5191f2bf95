"""Weights that went wrong bit by bit: what a rollback goes back to, and the trainer for which one is not enough."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ranker.snapshots.snapshot import list_snapshots
from ranker.updates.record import Open, UpdateHeader, peek_header
from streams.errors import StreamError
from streams.kafka.connection import Kafka
from streams.kafka.outbox import Outbox
from streams.kafka.scan import read_topic
from streams.local.stack import LocalStack, local_stack
from streams.wire.topics import UPDATES
from streams.workers.train import gatekeeper
from tests.ranker.samples import tiny_model
from tests.streams.workers.train.test_restart_while_closed import examples_at
from tests.streams.workers.train.training import new_trainer

MODEL = tiny_model()
TRUSTED_AFTER = 5


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("stack"), broker="memory") as stack:
        Kafka(stack.bootstrap, {}).create_topics()
        yield stack


class Trained:
    """A trainer in the test's hands, step by step."""

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        self.kafka = Kafka(stack.bootstrap, {})
        self._folder, self._outbox, self._offset = folder, Outbox(self.kafka.producer()), 0
        self.worker, self._learner, self.schedule = new_trainer(MODEL, stack, self.kafka, self._outbox, folder)

    def snapshots(self) -> list[tuple[int, int]]:
        return [s.manifest.position.place for s in list_snapshots(str(self._folder), MODEL.digest)]

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.worker.handle(examples_at(self._offset, 8))
            self._offset += 8
            before = dict(self.worker._offsets)
            self._tick_until(lambda before=before: self.worker._offsets != before)  # type: ignore[misc]

    def snapshot(self) -> tuple[int, int]:
        known = self.snapshots()
        self.schedule.soon()
        self._tick_until(lambda: self.snapshots() != known)
        return self.snapshots()[-1]

    def spoil(self) -> None:
        with torch.no_grad():
            max(self._learner.dense.values(), key=torch.Tensor.numel).add_(100.0)

    def _tick_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not done():
            assert time.monotonic() < deadline
            self._outbox.poll()
            self.worker.tick()
            time.sleep(0.002)


@pytest.mark.e2e
def test_it_goes_back_to_what_is_old_enough_and_ends_when_that_was_not_enough(
    stack: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gatekeeper, "_SOON", TRUSTED_AFTER)
    trained = Trained(stack, tmp_path)
    with trained.schedule:
        trained.step(2)
        old = trained.snapshot()
        trained.step(TRUSTED_AFTER - 1)
        young = trained.snapshot()
        assert young > old
        trained.step()  # `old` is now old enough, and `young` is not
        trained.spoil()
        trained.step()
        assert trained.worker._gate.closed
        assert old in trained.snapshots()
        assert young not in trained.snapshots()
        trained.worker._gate.closed = False  # as enough good labels would
        trained.step()
        learned = trained.snapshot()
        trained.spoil()
        with pytest.raises(StreamError, match=f"soon after a rollback.*back at epoch {old[0]}, update {old[1]}"):
            trained.step()
        assert learned not in trained.snapshots()
        assert trained.snapshots()[-1] == old

    headers = [peek_header(record.value or b"") for record in read_topic(trained.kafka, UPDATES)]
    *_, opened, sent_back = headers
    assert isinstance(opened, Open)
    assert opened.base == old
    assert isinstance(sent_back, UpdateHeader)
    assert (sent_back.epoch, sent_back.number) == (opened.epoch, 1)
