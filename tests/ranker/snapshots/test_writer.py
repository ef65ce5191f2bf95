"""Snapshots written beside a training that goes on: of the moment they were taken, or not at all."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ranker.inputs.copies import Copies
from ranker.learning.state import copied_state, training_state
from ranker.snapshots.reader import ShardReader
from ranker.snapshots.retention import Retention
from ranker.snapshots.snapshot import Snapshot, State, list_snapshots, load_image, load_training_state, survey
from ranker.snapshots.writer import Failure, SnapshotWriter
from ranker.updates.image import new_image
from tests.ranker.samples import COMPRESS, at, tiny_learner, tiny_model, traffic, update_of
from tests.ranker.snapshots.stores import state

SMALL = tiny_model(rows=12)


def outcome(writer: SnapshotWriter) -> Snapshot | Failure:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (found := writer.outcome()) is not None:
            return found
        time.sleep(0.005)
    raise AssertionError("the writer did not end")


class Gate:
    """Holds the writing thread at its n-th piece until opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pieces: int = 3) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self._left = pieces
        self._go_on = SnapshotWriter._go_on
        monkeypatch.setattr(SnapshotWriter, "_go_on", self._hold())

    def _hold(self) -> Callable[[SnapshotWriter], None]:
        def hold(writer: SnapshotWriter) -> None:
            self._left -= 1
            if self._left == 0:
                self.reached.set()
                assert self.open.wait(30)
            self._go_on(writer)

        return hold


def test_it_holds_the_moment_it_was_taken_whatever_is_learned_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, image = tiny_learner(SMALL), new_image(SMALL, COMPRESS)
    batches = iter(list(enumerate(traffic(0, 20), 1)))

    def step() -> None:
        number, examples = next(batches)
        learner.learn(examples)
        image.apply(update_of(learner, number), at(number))

    for _ in range(5):
        step()
    gate, writer = Gate(monkeypatch), SnapshotWriter(str(tmp_path), digest=SMALL.digest)
    copies = Copies()
    taken = State.of(image, copied_state(learner, copies), copies)
    expected_image = {name: t.clone() for name, t in image.tensors().items()}
    expected_training = {name: t.clone() for name, t in training_state(learner).items()}
    writer.start(taken, created_ms=9)
    assert gate.reached.wait(30)
    for _ in range(15):
        step()
    assert writer.busy
    assert list_snapshots(str(tmp_path), SMALL.digest) == []  # not yet
    gate.open.set()
    written = outcome(writer)
    assert isinstance(written, Snapshot)
    assert written.manifest.position == at(5)
    assert written.manifest.offsets == {"0": 50}
    assert list_snapshots(str(tmp_path), SMALL.digest) == [written]
    loaded = new_image(SMALL, COMPRESS)
    load_image(written, loaded)
    state = load_training_state(written)
    for expected, found in ((expected_image, loaded.tensors()), (expected_training, state)):
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_next_copy_lies_where_the_last_one_did_and_is_of_its_own_moment() -> None:
    learner, image, copies = tiny_learner(SMALL), new_image(SMALL, COMPRESS), Copies()
    addresses = []
    for number, examples in enumerate(traffic(0, 3), 1):
        learner.learn(examples)
        image.apply(update_of(learner, number), at(number))
        taken = State.of(image, copied_state(learner, copies), copies)
        for held, expected in ((taken.image(), image.tensors()), (taken.training(), training_state(learner))):
            assert held.keys() == expected.keys()
            assert all(torch.equal(held[name], expected[name]) for name in expected)
        addresses.append(copies.tensor("image/items/weights", image.tables.weights["items"]).data_ptr())
    assert len(set(addresses)) == 1


def test_a_failure_is_an_outcome_and_the_next_one_is_written(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.write_text("a file where the folder should be")
    writer = SnapshotWriter(str(root), digest="d")
    writer.start(state(1), created_ms=0)
    failure = outcome(writer)
    assert isinstance(failure, Failure)
    assert (failure.number, isinstance(failure.error, OSError)) == (1, True)
    root.unlink()
    writer.start(state(2), created_ms=0)
    assert isinstance(outcome(writer), Snapshot)
    assert not writer.busy


def test_what_fails_half_way_leaves_no_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ranker.snapshots.snapshot.write_whole", full)
    writer = SnapshotWriter(str(tmp_path), digest="d")
    writer.start(state(1), created_ms=0)
    assert isinstance(outcome(writer), Failure)
    assert list(tmp_path.iterdir()) == []


def test_closing_waits_for_one_that_is_nearly_done(tmp_path: Path) -> None:
    writer = SnapshotWriter(str(tmp_path), digest="d")
    writer.start(state(1), created_ms=0)
    writer.close(timeout_s=30)
    (written,) = list_snapshots(str(tmp_path), "d")
    assert writer.outcome() == written
    assert ShardReader().verify(written.url, written.manifest.shards) == []


def test_closing_abandons_one_that_would_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, writer = Gate(monkeypatch), SnapshotWriter(str(tmp_path), digest="d")
    writer.start(state(1), created_ms=0)
    assert gate.reached.wait(30)
    threading.Timer(0.2, gate.open.set).start()
    writer.close(timeout_s=0.01)
    failure = outcome(writer)
    assert isinstance(failure, Failure)
    assert "abandoned" in str(failure.error)
    assert survey(str(tmp_path)) == []


def test_a_store_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ranker.snapshots.writer.END_S", 0.05)
    gate, writer = Gate(monkeypatch), SnapshotWriter(str(tmp_path), digest="d")
    writer.start(state(1), created_ms=0)
    assert gate.reached.wait(30)
    writer.close(timeout_s=0.01)
    assert "does not answer" in caplog.text
    assert list_snapshots(str(tmp_path), "d") == []
    gate.open.set()
    assert isinstance(outcome(writer), Failure)


def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, writer = Gate(monkeypatch), SnapshotWriter(str(tmp_path), digest="d")
    writer.start(state(1), created_ms=0)
    with pytest.raises(AssertionError, match="one snapshot at a time"):
        writer.start(state(2), created_ms=0)
    gate.open.set()
    assert isinstance(outcome(writer), Snapshot)


def test_what_one_may_have_to_go_back_to_is_not_removed(tmp_path: Path) -> None:
    writer = SnapshotWriter(str(tmp_path), digest="d", keep=Retention(newest=2))
    for number in range(1, 6):
        writer.start(state(number), created_ms=number, needed={at(1), at(9)})
        assert isinstance(outcome(writer), Snapshot)
    assert [s.manifest.position.number for s in list_snapshots(str(tmp_path), "d")] == [1, 4, 5]
