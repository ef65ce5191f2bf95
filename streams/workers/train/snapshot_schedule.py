"""When the trainer takes a snapshot, what became of it, and from which it starts."""

import logging
import time

from ranker.inputs.copies import Copies
from ranker.learning.learner import Learner
from ranker.learning.state import copied_state, restore
from ranker.snapshots.snapshot import Manifest, SnapshotError, State, list_snapshots, load_image, load_training_state
from ranker.snapshots.writer import Failure, SnapshotWriter
from ranker.updates.image import Image
from streams.config.recipe import TrainingConfig
from streams.config.snapshots import shard_reader
from streams.errors import StreamError
from streams.runtime import metrics as metric
from streams.workers.train.gatekeeper import Gatekeeper
from streams.workers.train.update_writer import UpdateWriter, now_ms

log = logging.getLogger(__name__)

SETTLE_S = 0.1
ASK_AGAIN_S = 0.5
"""Where the broker takes longer than that to confirm."""
RETRY_S = 5.0
"""After a failure, where replicas wait for one."""
CLOSE_S = 5.0


class SnapshotSchedule:
    """One every `snapshot_s`, if anything was learned, and at once where replicas stopped before a torn update.

    The loop pauses for the copy alone; hashing and writing are a thread's. A failure is logged and counted, and the
    next one that is due tries again.
    """

    def __init__(self, root: str, *, digest: str, config: TrainingConfig) -> None:
        self._writer = SnapshotWriter(root, digest=digest, keep=config.retention)
        self._copies = Copies()  # one snapshot at a time has need of them
        self._period_s = config.snapshot_s
        self._due = self._retry = self._began = time.monotonic()
        self._newest = (0, 0)
        """Epoch and number of the newest that is written."""

    def __enter__(self) -> "SnapshotSchedule":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """Finishes what is under way if a few seconds do; after an error (a newer epoch?) it is abandoned at once."""
        self._writer.close(CLOSE_S if kind is None else 0.0)
        self._written()

    def tick(self, updates: UpdateWriter, learner: Learner, gate: Gatekeeper) -> None:
        """Between two steps, when what was learned is published and the image stands at it."""
        if self._written():
            gate.snapshot_written()
            if gate.oldest is not None:
                updates.forget_before(gate.oldest)
        now = time.monotonic()
        waited_for = updates.torn is not None and (updates.epoch, updates.torn) > self._newest
        due = now >= self._due and not gate.suspicious
        if self._writer.busy or now < self._retry or not (waited_for or due):
            return
        position = updates.settled_position(SETTLE_S)
        if position is None or position.number == updates.torn:
            self._retry = now + ASK_AGAIN_S  # the log will have confirmed it, or hold another update
            return
        if position.place == self._newest:
            self._due = now + self._period_s  # nothing came since
            return
        updates.image.position = position
        state = State.of(updates.image, copied_state(learner, self._copies), self._copies, gate_closed=gate.closed)
        gate.snapshot_begun(position, updates.image.watermark_ms)
        updates.snapshot_begun(position)
        self._began = time.monotonic()
        self._due = self._began + self._period_s  # now: what asks for one while this one is written is not forgotten
        self._writer.start(state, created_ms=now_ms(), needed=gate.needed)
        metric.SNAPSHOT_PAUSE_SECONDS.observe(self._began - now)
        log.info("snapshot of update %d: copied in %.0f ms", position.number, 1000 * (self._began - now))

    def soon(self) -> None:
        """The next one is due now."""
        self._due = time.monotonic()

    def abandon(self) -> None:
        """What is under way: when this returns, no snapshot comes of it. Raises StreamError if the store hangs."""
        if not self._writer.close(0.0):
            raise StreamError("the snapshot under way cannot be taken back, its store does not answer; start again")
        self._writer.outcome()

    def _written(self) -> bool:
        """Whether one has been written since the last call. Counts and tells what became of it."""
        outcome = self._writer.outcome()
        if outcome is None:
            return False
        now = time.monotonic()
        if isinstance(outcome, Failure):
            metric.SNAPSHOTS_FAILED.inc()
            self._retry = now + min(RETRY_S, self._period_s)
            log.error(
                "snapshot of update %d was not written: %s; the next one is tried in at most %.0f s",
                outcome.number,
                repr(outcome.error),
                self._period_s,
            )
            return False
        metric.SNAPSHOTS.inc()
        position = outcome.manifest.position
        self._newest = position.place
        log.info("snapshot of update %d: written in %.1f s beside the training", position.number, now - self._began)
        return True


def take_up(snapshots: str, learner: Learner, image: Image) -> Manifest | None:
    """Loads the newest snapshot that is whole; None where there is none."""
    shards = shard_reader()
    for snapshot in reversed(list_snapshots(snapshots, learner.config.digest)):
        try:
            state = load_training_state(snapshot, shards)
            load_image(snapshot, image, shards)
        except SnapshotError as error:
            log.warning("snapshot: %s", error)
            continue
        restore(learner, state)
        position = snapshot.manifest.position
        log.info("from the snapshot of epoch %d, update %d", position.epoch, position.number)
        return snapshot.manifest
    return None
