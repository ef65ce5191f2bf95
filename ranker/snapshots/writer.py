"""Writes snapshots in a thread of its own, one at a time, while the training goes on."""

import logging
import threading
from collections.abc import Collection
from typing import NamedTuple

from ranker.snapshots.retention import DEFAULT_RETENTION, Retention
from ranker.snapshots.snapshot import Snapshot, State, write_state
from ranker.updates.log import Position

log = logging.getLogger(__name__)

END_S = 2.0


class Failure(NamedTuple):
    """The snapshot of update `number` was not written, and nothing of it is left."""

    number: int
    error: Exception


class _Abandoned(Exception):
    """Asked to stop."""


class SnapshotWriter:
    """The thread works on copies alone and gives the interpreter away: it hashes and writes pieces of a few megabytes.

    While it works, memory holds the copies beside the weights.
    """

    def __init__(self, root: str, *, digest: str, keep: Retention = DEFAULT_RETENTION) -> None:
        self._root = root
        self._digest = digest
        self._keep = keep
        self._thread: threading.Thread | None = None
        self._outcome: Snapshot | Failure | None = None
        self._stop = threading.Event()
        """Stop signal of the thread that is there."""

    @property
    def busy(self) -> bool:
        """Whether a snapshot was started whose outcome has not been taken yet."""
        return self._thread is not None

    def start(self, state: State, *, created_ms: int, needed: Collection[Position] = ()) -> None:
        """Begins to write it. Call it when not busy. needed: positions whose snapshots stay, whatever their age."""
        assert self._thread is None, "one snapshot at a time: take the outcome of the last"
        # A daemon: a store that hangs must not keep a stopped process alive. What it leaves then has no manifest.
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._write, args=(state, created_ms, needed), name="snapshot", daemon=True
        )
        self._thread.start()

    def outcome(self) -> Snapshot | Failure | None:
        """Returns the outcome of the snapshot that was started: once, as soon as it is there; None before and after."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread, outcome = None, self._outcome
        return outcome

    def close(self, timeout_s: float) -> bool:
        """Waits up to `timeout_s` for a snapshot that is being written, then abandons it, with nothing left of it.

        Returns whether the thread has ended: not if the store hangs.
        """
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        self._stop.set()
        self._thread.join(END_S)
        if self._thread.is_alive():
            log.warning("%s does not answer: the snapshot under way is left without a manifest", self._root)
        return not self._thread.is_alive()

    def _write(self, state: State, created_ms: int, needed: Collection[Position]) -> None:
        try:
            self._outcome = write_state(
                self._root,
                state,
                digest=self._digest,
                created_ms=created_ms,
                keep=self._keep,
                needed=needed,
                go_on=self._go_on,
            )
        except Exception as error:
            self._outcome = Failure(state.position.number, error)

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise _Abandoned("abandoned: the trainer stops")
