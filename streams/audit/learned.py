"""What the log of weight updates says was learned: offsets, epochs and gaps. Knows the headers of updates alone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ranker.updates.record import MalformedRecord, Open, UpdateHeader, peek_header
from streams.audit.report import Section
from streams.wire.record import Record


@dataclass(slots=True)
class _Epoch:
    epoch: int
    trainer: str
    number: int = 0
    """Number of its last update; 0 while it has none."""
    offsets: dict[str, int] = field(default_factory=dict)
    """Next offset of training.examples by partition, after its last update."""


class Learned:
    """Feed it the records of model.updates in order."""

    def __init__(self, digest: str) -> None:
        """digest: of the model that is audited; others may share the topic."""
        self._digest = digest
        self._live: _Epoch | None = None
        self._before: _Epoch | None = None
        self._counts: Counter[str] = Counter()
        self._gaps: list[str] = []
        self._left_out: list[str] = []

    @property
    def begun(self) -> bool:
        """Whether a trainer has ever written weights of this model."""
        return self._learned_last is not None

    @property
    def _learned_last(self) -> _Epoch | None:
        """The newest epoch that has an update: one without has learned nothing, and replicas serve the one before."""
        return self._live if self._live is not None and self._live.number else self._before

    @property
    def kept_out(self) -> bool:
        """Whether the gate is closed, as far as this log tells: the trainer has opened its epoch anew, to send replicas
        back, and has published nothing since. Then it reads examples and learns none, and its next update says so."""
        live, before = self._live, self._before
        return live is not None and before is not None and live.number == 1 and live.trainer == before.trainer

    def behind(self, wanted: Mapping[int, int]) -> dict[int, int]:
        """By partition, how far the weights are behind these offsets of training.examples; none at 0."""
        offsets = self._learned_last.offsets if self._learned_last is not None else {}
        behind = {partition: offset - offsets.get(str(partition), 0) for partition, offset in wanted.items()}
        return {partition: count for partition, count in behind.items() if count > 0}

    def add(self, record: Record) -> None:
        try:
            header = peek_header(record.value or b"")
        except MalformedRecord:
            self._counts["malformed"] += 1
            return
        if header.digest != self._digest:
            self._counts["of_other_models"] += 1
        elif isinstance(header, Open):
            self._open(header)
        elif header.part == 0:
            self._update(header, record)

    def _open(self, header: Open) -> None:
        if self._live is not None and header.epoch <= self._live.epoch:
            self._counts["void"] += 1
            return
        self._counts["epochs"] += 1
        if self._live is None or self._live.number:  # an epoch without an update has learned nothing
            self._before = self._live
        self._live = _Epoch(header.epoch, header.trainer)

    def _update(self, header: UpdateHeader, record: Record) -> None:
        if self._live is None:  # the log begins inside an epoch
            self._live = _Epoch(header.epoch, header.trainer, header.previous)
        live = self._live
        if (header.epoch, header.trainer) != (live.epoch, live.trainer):
            self._counts["void"] += 1
            return
        if header.previous != live.number:
            self._gaps.append(f"{record}: {header.number} after {live.number} in epoch {header.epoch}")
        if live.number == 0 and self._before is not None:
            self._take_over(self._before.offsets, header, record)
        self._counts["examples_quarantined"] += sum(end - start for start, end in header.quarantined.values())
        self._counts["updates"] += 1
        live.number, live.offsets = header.number, dict(header.offsets)

    def _take_over(self, ended: Mapping[str, int], header: UpdateHeader, record: Record) -> None:
        for partition in ended.keys() | header.offsets.keys():
            left, begun = ended.get(partition, 0), header.offsets.get(partition, 0)
            step = begun - left
            self._counts["examples_learned_again"] += max(0, -step)
            kept_out = header.quarantined.get(partition, (begun, begun))
            if step > 0 and not kept_out[0] <= left < begun <= kept_out[1]:
                self._left_out.append(f"{record}: {step} examples of partition {partition}")

    def section(self, ends: Mapping[int, int], *, updates_whole: bool) -> Section:
        """ends: next offset of each partition of training.examples, read after the updates."""
        section = Section("learned")
        for name in ("epochs", "updates", "void", "malformed", "of_other_models"):
            section.count(name, self._counts[name])
        offsets = self._learned_last.offsets if self._learned_last is not None else {}
        learned = {partition: offsets.get(str(partition), 0) for partition in ends}
        section.count("examples", sum(learned.values()))
        for name in ("examples_learned_again", "examples_quarantined"):
            section.count(name, self._counts[name])
        section.fault("gaps", self._gaps, verifiable=updates_whole)
        section.fault("never_learned", self._left_out, verifiable=updates_whole)
        beyond = [f"partition {p}: {learned[p]} of {end}" for p, end in ends.items() if learned[p] > end]
        section.fault("learned_beyond_the_end", beyond)
        return section

    def add_not_learned(self, section: Section, wanted: Mapping[int, int], *, held: bool) -> None:
        """Adds what is not learned, however long that was waited for, to the section made at the cut.

        wanted: by partition of training.examples, the offset behind the last record before the cut. held: as in joins,
        which a trainer waits for.
        """
        behind = self.behind(wanted)
        count = sum(behind.values())
        if not self.begun or self.kept_out:
            section.count("kept_out_so_far" if self.kept_out else "not_yet_learned", count)
            return
        names = [f"partition {p}: {n} before {wanted[p]}" for p, n in behind.items()]
        section.waits("not_learned", names, number=count, held=held)
