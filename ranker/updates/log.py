"""What the records of model.updates mean, read in the order of the log: for a replica, and for a trainer.

Pure state machines: they are fed records and say what to do; who reads and writes Kafka is not their business.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ranker.arrays import I64, U64
from ranker.updates.changes import Changes
from ranker.updates.record import (
    DamagedRecord,
    Header,
    MalformedRecord,
    Open,
    Record,
    SealedRecord,
    Update,
    UpdateError,
    UpdateHeader,
    assemble,
    read_header,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where in the log some weights stand: update `number` of `epoch` is the last in them."""

    epoch: int
    number: int
    trainer: str
    """Trainer whose epoch it is."""
    offset: int
    """Offset of the record after that update: where to read on."""

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and number: what is newer is greater."""
        return self.epoch, self.number


class _Fault(Exception):
    """The live epoch cannot be followed."""


class UpdateFollower:
    """Decides which updates a replica applies.

    Feed it the log from `position.offset` on (from the start, for a replica that holds nothing), and apply what it
    hands out. Skipped records are counted in `skipped`, by reason. Once `fault` is set nothing more is handed out until
    an epoch opens that mends it; the replica goes on serving what it has, or makes a new follower from a newer image.
    """

    def __init__(self, digest: str, position: Position | None = None) -> None:
        self.position = position
        self.skipped: Counter[str] = Counter()
        self.fault: str | None = None
        self._digest = digest
        self._epoch = position.epoch if position is not None else 0
        self._trainer = position.trainer if position is not None else None
        self._number = position.number if position is not None else 0
        self._parts: list[Record] = []

    def feed(self, data: bytes, offset: int) -> Update | None:
        """Takes the record at `offset`. Returns the update that it completes, if any: `position` is then after it."""
        try:
            record = read_header(data)
        except MalformedRecord:
            self.skipped["malformed"] += 1
            return None
        header = record.header
        reason = self._reason_to_skip(header)
        if reason is not None:
            self.skipped[reason] += 1
            return None
        try:
            if isinstance(header, Open):
                record.unpack()  # for its faults
                self._open(header)
                return None
            return self._take_part(header, record, offset)
        except (UpdateError, _Fault) as exc:
            self.fault = self.fault or f"epoch {header.epoch} at offset {offset}: {exc}"
            self._parts = []
            return None

    def _reason_to_skip(self, header: Header) -> str | None:
        if header.digest != self._digest:
            return "other_model"
        if header.epoch < self._epoch:
            return "old_epoch"
        if header.epoch > self._epoch:
            return None
        if header.trainer != self._trainer:
            return "lost_open"
        if isinstance(header, Open) or header.number <= self._number:
            return "known"
        if self.fault is not None:
            return "after_fault"
        return "known" if header.number == self._number + 1 and header.part < len(self._parts) else None

    def _open(self, header: Open) -> None:
        held = (self._epoch, self._number)
        self._epoch, self._trainer, self._number, self._parts = header.epoch, header.trainer, 0, []
        # A base that this replica has passed mends a gap too: all that changed since is in the first update.
        self.fault = None
        if header.base is not None and (self.position is None or header.base > held):
            raise _Fault(f"the epoch builds on {header.base}, and this replica holds {held}: it needs an image")

    def _take_part(self, header: UpdateHeader, record: SealedRecord, offset: int) -> Update | None:
        if header.epoch > self._epoch:
            raise _Fault("the epoch was never opened here: this replica needs an image")
        if (header.number, header.previous) != (self._number + 1, self._number):
            raise _Fault(f"update {header.number} (after {header.previous}) follows {self._number}: a gap")
        if header.part != len(self._parts):
            raise _Fault(f"part {header.part} of update {header.number} follows {len(self._parts)} parts: a gap")
        self._parts.append(record.unpack())
        if header.part + 1 < header.parts:
            return None
        update = assemble(self._parts)
        self._number, self._parts = header.number, []
        self.position = Position(epoch=header.epoch, number=header.number, trainer=header.trainer, offset=offset + 1)
        return update


@dataclass(slots=True)
class Dirty:
    """What the log changed: keys and tail rows by table. (Dense tensors are in every update.)"""

    keys: dict[str, U64] = field(default_factory=dict)
    tails: dict[str, I64] = field(default_factory=dict)

    @classmethod
    def of(cls, changes: Changes) -> "Dirty":
        """All that the changes name."""
        return cls(
            keys={
                name: np.unique(np.concatenate([change.keys_K, change.evicted_V, change.catalogued_C]))
                for name, change in changes.tables.items()
            },
            tails={name: change.tails_W for name, change in changes.tables.items()},
        )

    @classmethod
    def union(cls, parts: "Sequence[Dirty]") -> "Dirty":
        """Merges all at once: one after another, what has been merged already would be sorted again and again."""
        keys, tails = defaultdict[str, list[U64]](list), defaultdict[str, list[I64]](list)
        for part in parts:
            for table, keys_K in part.keys.items():
                keys[table].append(keys_K)
            for table, tails_W in part.tails.items():
                tails[table].append(tails_W)
        return cls(
            keys={table: np.unique(np.concatenate(found)) for table, found in keys.items()},
            tails={table: np.unique(np.concatenate(found)) for table, found in tails.items()},
        )

    def add(self, update: Record) -> None:
        for name, tensor in update.tensors.items():
            kind, table, column = _parse(name)
            if kind in {"rows", "evicted", "catalogue"} and column == "keys":
                keys = self.keys.get(table, np.empty(0, np.uint64))
                self.keys[table] = np.union1d(keys, tensor.numpy())
            elif kind == "tails" and column == "rows":
                rows = self.tails.get(table, np.empty(0, np.int64))
                self.tails[table] = np.union1d(rows, tensor.numpy())


Status = Literal["reading", "opening", "live", "lost"]


class TrainerLog:
    """A trainer's view of the log: which epoch to open, whether it was won, what to send first, and when it is over.

    1. Feed it the log from the snapshot's offset (from the start, without a snapshot) to its end.
    2. Append `open()`, and go on feeding until `status` is "live" (train) or "lost" (end: another trainer was first).
    3. Mark `dirty` in the learner, so that the first update sends all of it.
    4. While training go on feeding. "lost": a newer trainer has opened, end at once.
    5. A snapshot at update n may be written once `confirmed` >= n: then the log is known to hold n before any newer
       open, so that what the snapshot holds is not void.
    6. `torn` is an update that the log does not hold whole: replicas stopped before it, so write a snapshot past it.

    A crash between any two of these leaves at most an open without updates, which the next trainer's open voids.
    """

    def __init__(self, digest: str, trainer: str, since: Position | None = None, *, epoch: int = 0) -> None:
        """since: the snapshot that is built on. epoch: the newest that the log is known to have, if that is newer."""
        self.status: Status = "reading"
        self.epoch = max(epoch, since.epoch if since is not None else 0)
        """The newest seen, and our own once live."""
        self.confirmed = 0
        self.offsets: dict[str, int] = {}
        """Next offset of training.examples by partition, of the newest update that was read before the open."""
        self.watermark_ms = 0
        """Watermark of that update."""
        self.torn: int | None = None
        """The newest of our own updates that the log holds damaged, or lacks."""
        self.dirty = Dirty()
        self.reset = False
        """Whether an epoch since the snapshot has built on nothing: the first update must be a whole model."""
        self.trained = False
        """There was no snapshot to build on, and yet the log tells of one, or of so many updates that there was one."""
        self._updates_read = 0
        self.skipped: Counter[str] = Counter()
        self.fault: str | None = None
        """Why the snapshot that the trainer started from cannot be built on: start from an older one, or from none."""
        self._digest = digest
        self._trainer = trainer
        self._since = since
        self._next = (1, 0)  # number and part of what we wrote next

    def open(self, created_ms: int) -> Open:
        """The record to append. Raises ValueError unless the log was read and found sound."""
        if self.status != "reading" or self.fault is not None:
            raise ValueError(f"open an epoch once, after reading a sound log; status {self.status}, fault {self.fault}")
        self.status = "opening"
        self.epoch += 1
        base = self._since.place if self._since is not None else None
        return Open(epoch=self.epoch, digest=self._digest, trainer=self._trainer, created_ms=created_ms, base=base)

    def feed(self, data: bytes) -> None:
        try:
            record = read_header(data)
            header = record.header
            if header.digest != self._digest:
                self.skipped["other_model"] += 1
                return
            if isinstance(header, Open):
                record.unpack()  # for its faults
                self._see_open(header)
            else:
                self._see_update(header, record)
        except MalformedRecord:
            self.skipped["malformed"] += 1
            return
        except DamagedRecord as error:
            self.skipped["damaged"] += 1
            if self.status == "live" and isinstance(error.header, UpdateHeader):
                self._see_own(error.header, whole=False)

    def _see_open(self, header: Open) -> None:
        if header.epoch < self.epoch:
            return
        if self.status == "reading":
            self.epoch = header.epoch
            self.trained = self.trained or (self._since is None and header.base is not None)
        elif header.trainer == self._trainer:
            self.status = "live" if self.status == "opening" else self.status
        elif header.epoch > self.epoch or self.status == "opening":
            self.status = "lost"

    def _see_update(self, header: UpdateHeader, record: SealedRecord) -> None:
        if self.status in {"reading", "opening"}:
            changes = record.unpack()
            if header.epoch > self.epoch and self._since is not None:
                self.fault = (
                    f"the log goes on with epoch {header.epoch}, opened before the snapshot of epoch "
                    f"{self._since.epoch} was written: the snapshot holds updates that were void"
                )
            self.epoch = max(self.epoch, header.epoch) if self.status == "reading" else self.epoch
            self.offsets, self.watermark_ms = dict(header.offsets), header.watermark_ms
            self._updates_read += 1
            if self._since is not None:
                self.dirty.add(changes)
                self.reset = self.reset or header.reset
            else:
                self.trained = self.trained or self._updates_read > _FIRST_UPDATES
        elif self.status == "live":
            record.check()
            self._see_own(header, whole=True)

    def _see_own(self, header: UpdateHeader, *, whole: bool) -> None:
        if (header.epoch, header.trainer) != (self.epoch, self._trainer):
            return
        if not whole or (header.number, header.part) > self._next:
            self.torn = header.number
        last = header.part + 1 == header.parts
        self._next = max(self._next, (header.number + 1, 0) if last else (header.number, header.part + 1))
        if whole and last and header.number != self.torn:
            self.confirmed = header.number


_FIRST_UPDATES = 300
"""Updates after which there must have been a snapshot: a trainer's first follows its first update, or is tried
again every few seconds."""


def _parse(name: str) -> tuple[str, str, str]:
    kind, _, rest = name.partition("/")
    table, _, column = rest.rpartition("/")
    return kind, table, column
