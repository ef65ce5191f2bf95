"""When the trainer takes a snapshot, and what became of it."""

import logging
import time

from ranker.learner import Learner
from ranker.learner_state import copied_state
from ranker.retention import Retention
from ranker.snapshot import State
from ranker.snapshot_writer import Failure, SnapshotWriter
from streams import metric_names as metric
from streams.recipe import TrainingConfig
from streams.update_writer import UpdateWriter, now_ms

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""After a failure, where replicas wait for one."""
CLOSE_S = 5.0


class SnapshotSchedule:
    """One every `snapshot_s`, if anything was learned, and at once where replicas stopped before a torn update.

    The loop pauses for the copy alone; hashing and writing are a thread's. A failure is logged and counted, and the
    next one that is due tries again.
    """

    def __init__(self, root: str, *, digest: str, config: TrainingConfig) -> None:
        keep = Retention(newest=config.snapshots_kept, hourly=config.snapshots_hourly, daily=config.snapshots_daily)
        self._writer = SnapshotWriter(root, digest=digest, keep=keep)
        self._period_s = config.snapshot_s
        self._due = self._retry = self._began = time.monotonic()
        self._number = 0
        """The newest that is written, of this epoch."""

    def tick(self, updates: UpdateWriter, learner: Learner) -> None:
        """Between two steps, when what was learned is published and the image stands at it."""
        self._take_outcome()
        now = time.monotonic()
        waited_for = updates.torn is not None and updates.torn > self._number
        if self._writer.busy or now < self._retry or not (waited_for or now >= self._due):
            return
        position = updates.settled_position()
        if position is None or position.number == updates.torn:
            return  # a moment later the log will have confirmed it, or hold another update
        if position.number == self._number:
            self._due = now + self._period_s  # nothing came since
            return
        updates.image.position = position
        state = State.of(updates.image, copied_state(learner))
        self._began = time.monotonic()
        self._writer.start(state, created_ms=now_ms())
        metric.SNAPSHOT_PAUSE_SECONDS.observe(self._began - now)
        log.info("snapshot of update %d: copied in %.0f ms", position.number, 1000 * (self._began - now))

    def close(self) -> None:
        """Finishes the one that is being written if a few seconds do, and abandons it otherwise."""
        self._writer.close(CLOSE_S)
        self._take_outcome()

    def _take_outcome(self) -> None:
        outcome = self._writer.outcome()
        if outcome is None:
            return
        now = time.monotonic()
        self._due = now + self._period_s
        if isinstance(outcome, Failure):
            metric.SNAPSHOTS_FAILED.inc()
            self._retry = now + min(RETRY_S, self._period_s)
            log.error(
                "snapshot of update %d was not written: %s; the next one is tried in at most %.0f s",
                outcome.number,
                repr(outcome.error),
                self._period_s,
            )
            return
        metric.SNAPSHOTS.inc()
        self._number = outcome.manifest.position.number
        log.info("snapshot of update %d: written in %.1f s beside the training", self._number, now - self._began)
