"""Weights that went wrong bit by bit: what a rollback goes back to, and the trainer for which one is not enough."""

import logging
import time
from collections.abc import Iterator
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


@pytest.mark.e2e
def test_it_goes_back_to_what_is_old_enough_and_ends_when_that_was_not_enough(
    stack: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gatekeeper, "_SOON", TRUSTED_AFTER)
    caplog.set_level(logging.INFO)
    kafka = Kafka(stack.bootstrap, {})
    outbox = Outbox(kafka.producer())
    worker, learner, schedule = new_trainer(MODEL, stack, kafka, outbox, tmp_path)
    offset = 0

    def snapshots() -> list[tuple[int, int]]:
        return [s.manifest.position.place for s in list_snapshots(str(tmp_path), MODEL.digest)]

    def step(times: int) -> None:
        nonlocal offset
        for _ in range(times):
            worker.handle(examples_at(offset, 8))
            offset += 8
            before, deadline = dict(worker._offsets), time.monotonic() + 30
            while worker._offsets == before:
                assert time.monotonic() < deadline
                outbox.poll()
                worker.tick()

    def snapshot() -> tuple[int, int]:
        known, deadline = snapshots(), time.monotonic() + 30
        schedule.soon()
        while snapshots() == known:
            assert time.monotonic() < deadline
            outbox.poll()
            worker.tick()
            time.sleep(0.01)
        return snapshots()[-1]

    def spoil() -> None:
        with torch.no_grad():
            max(learner.dense.values(), key=torch.Tensor.numel).add_(100.0)

    with schedule:
        step(2)
        old = snapshot()
        step(TRUSTED_AFTER - 1)
        young = snapshot()
        assert young > old
        step(1)  # `old` is now old enough, and `young` is not
        spoil()
        step(1)
        assert worker._gate.closed
        assert old in snapshots()
        assert young not in snapshots()
        worker._gate.closed = False  # as enough good labels would
        step(1)
        learned = snapshot()
        spoil()
        with pytest.raises(StreamError, match=f"soon after a rollback.*back at epoch {old[0]}, update {old[1]}"):
            step(1)
        assert learned not in snapshots()
        assert snapshots()[-1] == old

    headers = [peek_header(record.value or b"") for record in read_topic(kafka, UPDATES)]
    *_, opened, sent_back = headers
    assert isinstance(opened, Open)
    assert opened.base == old
    assert isinstance(sent_back, UpdateHeader)
    assert (sent_back.epoch, sent_back.number) == (opened.epoch, 1)
