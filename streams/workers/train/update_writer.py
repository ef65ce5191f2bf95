"""The trainer's side of model.updates: opens its epoch, numbers and writes its updates, keeps the published image."""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ranker.learning.learner import Learner
from ranker.updates.image import Image
from ranker.updates.log import Dirty, Position, TrainerLog
from ranker.updates.record import MAX_CLICKS, Update, UpdateHeader, encode_open, encode_update
from streams.config.settings import NEW_MODEL
from streams.errors import StartError, StreamError
from streams.kafka.outbox import Outbox
from streams.kafka.update_reader import UpdateReader
from streams.wire.topics import UPDATES

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 30.0


class UpdateWriter:
    """Our epoch of the update log: opens it, numbers and writes its updates, keeps the image of what was published."""

    def __init__(
        self, image: Image, trainer_log: TrainerLog, reader: UpdateReader, outbox: Outbox, trainer: str
    ) -> None:
        self.image = image
        self.number = 0
        self.first_epoch = 0
        """The first epoch opened here: what the log changed in older ones is not known."""
        self._written: deque[tuple[tuple[int, int], Dirty]] = deque()
        """What was changed, with the place in the log up to which it was."""
        self._last_snapshot = (0, 0)
        self._log = trainer_log
        self._reader = reader
        self._outbox = outbox
        self._trainer = trainer

    @property
    def epoch(self) -> int:
        return self._log.epoch

    @property
    def torn(self) -> int | None:
        """The newest of our updates that replicas cannot apply, because the log does not hold it whole."""
        return self._log.torn

    def open(self, *, new_model: bool = True) -> None:
        """Reads the log to its end, appends an open, and waits until the log says whose the epoch is.

        new_model: it may build on nothing although the log tells of a model that has long been trained. Raises
        StartError where it may not, and StreamError if another trainer was first or the snapshot cannot be built on.
        """
        while not self._reader.at_end:
            self.follow(timeout_s=0.1)
        if self._log.fault is not None:
            raise StreamError(f"{self._log.fault}; remove that snapshot and start again")
        if self._log.trained and not new_model:
            raise StartError(
                f"{UPDATES} tells of a trained model (epoch {self.epoch}), and no snapshot of it was found: make their "
                f"store readable, or set {NEW_MODEL}=1 once to have replicas begin anew with an untrained one"
            )
        self._outbox.send(UPDATES, encode_open(self._log.open(now_ms())))
        deadline = time.monotonic() + OPEN_TIMEOUT_S
        while self._log.status == "opening":
            self._outbox.poll()
            self.follow(timeout_s=0.05)
            if time.monotonic() > deadline:
                raise StreamError(
                    f"the open of epoch {self.epoch} did not appear on {UPDATES} in {OPEN_TIMEOUT_S:.0f} s"
                )
        self._check_ours()
        self.first_epoch = self.first_epoch or self.epoch
        log.info("opened epoch %d", self.epoch)

    def follow(self, timeout_s: float = 0.0) -> None:
        """Takes in what has come on the log. Raises StreamError once the epoch is another trainer's."""
        for record in self._reader.poll(64, timeout_s):
            self._log.feed(record.value or b"")
        self._check_ours()

    def reopen(self, digest: str, since: Position) -> Dirty:
        """Begins an epoch of ours that builds on `since` again; the image is to be put back there as well.

        Returns what the log has changed since. Raises StreamError if another trainer was first.
        """
        while not self._reader.at_end:
            self.follow(timeout_s=0.1)
        self._log = TrainerLog(digest, self._trainer, since, epoch=self.epoch)
        self.open()
        self.number = 0
        return Dirty.union([self._log.dirty, *(written for place, written in self._written if place > since.place)])

    def snapshot_begun(self, position: Position) -> None:
        """Notes a snapshot of all that is written. One goes back to snapshots alone: what came between two of them is
        kept as one."""
        since_last = []
        while self._written and self._written[-1][0] > self._last_snapshot:
            since_last.append(self._written.pop()[1])
        self._written.append((position.place, Dirty.union(since_last)))
        self._last_snapshot = position.place

    def forget_before(self, position: Position) -> None:
        """Forgets what was written up to there, which will not be asked for again."""
        while self._written and self._written[0][0] <= position.place:
            self._written.popleft()

    def write(self, learner: Learner, **header: Any) -> int:
        """Prepares an update and sends it; returns its bytes."""
        return self.send(self.prepare(learner, **header))

    def prepare(
        self,
        learner: Learner,
        *,
        offsets: dict[str, int],
        watermark_ms: int,
        grades: dict[str, float],
        quarantined: dict[str, tuple[int, int]] | None = None,
        begun_ms: int = 0,
        clicks_ms: Sequence[int] = (),
    ) -> list[bytes]:
        """What changed since the last update (see UpdateConfig) as records of the next number, not sent yet.

        The image is what replicas will hold after it. Raises NotApplicable if it does not fit them.
        """
        self.number += 1
        reset = self.image.position is None or (self._log.reset and self.number == 1)
        if reset:
            learner.mark_all()
        header = UpdateHeader(
            epoch=self.epoch,
            number=self.number,
            previous=self.number - 1,
            digest=learner.config.digest,
            trainer=self._trainer,
            reset=reset,
            offsets=offsets,
            watermark_ms=watermark_ms,
            begun_ms=begun_ms,
            created_ms=now_ms(),
            clicks_ms=list(clicks_ms[:MAX_CLICKS]),
            grades=grades,
            quarantined=quarantined or {},
        )
        full = header.reset or (self.number - 1) % learner.updates.full_every == 0
        update = Update(header, learner.take_changes(None if full else self.image))
        records = encode_update(update)
        # Its place in the log is known when it is acknowledged; see `settled_position`.
        position = Position(epoch=self.epoch, number=self.number, trainer=self._trainer, offset=0)
        self.image.apply(update, position)
        self._written.append(((self.epoch, self.number), Dirty.of(update.changes)))
        return records

    def send(self, records: list[bytes]) -> int:
        """Sends the records; returns how many bytes they have."""
        for record in records:
            self._outbox.send(UPDATES, record)
        return sum(map(len, records))

    def settled_position(self, wait_s: float = 0.0) -> Position | None:
        """Returns where the image stands, once the log is known to hold it before any newer epoch's open; None before.

        Waits at most wait_s for that: where one step follows another, it would never be known of the newest.
        """
        position, deadline = self.image.position, time.monotonic() + wait_s
        while position is not None and self._log.confirmed < position.number and time.monotonic() < deadline:
            self._outbox.poll()
            self.follow(timeout_s=0.005)
        if position is None or self._log.confirmed < position.number or UPDATES not in self._outbox.newest:
            return None
        return replace(position, offset=self._outbox.newest[UPDATES] + 1)

    def _check_ours(self) -> None:
        if self._log.status == "lost":
            raise StreamError("another trainer has opened a newer epoch: this one stops, and has changed nothing since")


def now_ms() -> int:
    return int(time.time() * 1000)
