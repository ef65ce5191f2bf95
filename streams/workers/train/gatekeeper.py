"""The trainer's gate at work: what is held out, what is judged and when, what a rollback goes back to."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ranker.config import GateConfig
from ranker.engine import Engine
from ranker.gate.checks import WEIGHTS, Breach, LabelTests, check_weights, held_out
from ranker.gate.held_out_window import HeldOutWindow
from ranker.inputs.requests import LabelledRequest
from ranker.learning.learner import Learner
from ranker.learning.model_copy import ModelCopy
from ranker.updates.log import Position
from streams.runtime import metrics as metric
from streams.runtime.sparing import Sparing

log = logging.getLogger(__name__)


_SOON = 100
"""Updates over which weights may go wrong before a test of them says so: a rollback trusts none of them, and weights
that fail so soon after one are hopeless."""

_STEPS_JUDGED = 4
"""Training steps whose labels are judged together."""

_MODELS = 4
"""Most models kept: the reference, the one before it, the next one, and that of a snapshot being written."""

_UNDER_WAY_MS = 5_000
"""Time allowed between a page's request and its look, and between the clock of its windows and that of its trainer."""


class _Candidate(NamedTuple):
    """The model at a snapshot."""

    position: Position
    model: ModelCopy
    judged: frozenset[str]
    """Kinds of labels that it has learned enough of."""
    watermark_ms: int
    since_ms: int = 0
    """The event time at which it became the reference: labels of later pages are judged by it alone."""


class Gatekeeper:
    """Open: all is learned and published, and judged. Closed, after a breach: labels are judged, and not learned from.

    The reference, which labels are judged by and a rollback goes back to, is the model at an earlier snapshot: one that
    is older than the labels that are judged now, so that it has learned nothing of them. A label counts if what was
    served is no older than the reference: else that one would know more of the world than what it is to judge.
    A reference whose moment was a bad one (a machine that stood still, clicks without what was not clicked) is known by
    the one before it, which takes its place.
    """

    def __init__(self, config: GateConfig, learner: Learner, published: Engine, windows_ms: Mapping[str, int]) -> None:
        """published: holds what replicas hold. windows_ms: by kind of label, as in LabelTests."""
        self.closed = False
        self._config = config
        self._learner, self._published = learner, published
        self._tests = LabelTests(config, windows_ms)
        self._held_out = HeldOutWindow(published, config.held_out_window)
        self._loss_before: dict[str, float] = {}
        """Loss, by tier, of its held-out responses by what replicas hold; what is not there is to be measured."""
        self._tier = 0
        """Number of the tier whose responses judge the next update."""
        self._unjudged: list[LabelledRequest] = []
        self._steps = 0
        """How many steps those labels are of."""
        self._watermark_ms = 0
        """Watermark when labels were judged last: what was then read of one partition has by now been read of all."""
        self._labels_unjudged = 0
        """Labels that came since the gate was closed, while the reference knows too little to judge any."""
        self._published_since_breach = _SOON
        self._window_ms = windows_ms["click"]
        self._elder: _Candidate | None = None
        """The reference before this one."""
        self._reference: _Candidate | None = None
        self._next: _Candidate | None = None
        """The next reference, once it is old enough."""
        self._begun: _Candidate | None = None
        """The one after it, while its snapshot is being written."""
        self._said = Sparing()
        self._spare = [learner.copy() for _ in range(_MODELS)]
        """Room for the next copies; there from the start, for fresh memory takes its time."""

    @property
    def suspicious(self) -> bool:
        """Whether the gate is not certain enough of the model for a snapshot."""
        return self._tests.suspicious

    @property
    def reference_at(self) -> Position | None:
        return self._reference.position if self._reference is not None else None

    @property
    def oldest(self) -> Position | None:
        """The oldest snapshot that may yet be gone back to."""
        oldest = self._elder or self._reference
        return oldest.position if oldest is not None else None

    def start_at(self, position: Position, *, closed: bool = False) -> None:
        """Makes the model as it is now, which is that of a snapshot, the first reference. closed: whether the gate was
        then."""
        self._refer_to(_Candidate(position, self._learner.copy(self._spare.pop()), self._learned(), 0), None)
        if closed:
            log.warning("the gate is still closed, as it was at the snapshot: labels are judged, and not learned from")
            self._set_closed(True)

    @property
    def needed(self) -> frozenset[Position]:
        """Positions whose snapshots a rollback may still need."""
        candidates = (self._elder, self._reference, self._next, self._begun)
        return frozenset(candidate.position for candidate in candidates if candidate is not None)

    def snapshot_begun(self, position: Position, watermark_ms: int) -> None:
        """Notes a snapshot of the model as it is now, whose labels are complete up to this event time. It counts once
        it is written."""
        self._drop(self._begun)  # which was not written
        self._begun = None
        old = self._next is None or watermark_ms - self._next.watermark_ms >= self._window_ms + _UNDER_WAY_MS
        if old and not self.closed:  # while the gate is closed, the model is the reference itself
            copied = self._learner.copy(self._spare.pop())
            self._begun = _Candidate(position, copied, self._learned(), watermark_ms)

    def snapshot_written(self) -> None:
        """Notes that the snapshot that was begun last is written."""
        if self._begun is None:
            return
        if self._next is not None:
            self._drop(self._elder)
            elder = self._reference
            if elder is not None and not self._next.judged <= elder.judged:  # it would find nothing strange
                self._drop(elder)
                elder = None
            self._refer_to(self._next._replace(since_ms=self._watermark_ms + _UNDER_WAY_MS), elder)
        self._next, self._begun = self._begun, None

    def split(self, requests: Sequence[LabelledRequest]) -> list[LabelledRequest]:
        """Returns those to learn from; the others are kept to judge updates by."""
        share = self._config.held_out
        kept = [r for r in requests if held_out(r.response_id, share)]
        for tier in self._held_out.add([r for r in kept if r.is_final]):
            self._loss_before.pop(tier, None)
        return [r for r in requests if not held_out(r.response_id, share)]

    def judge_labels(self, requests: Sequence[LabelledRequest], watermark_ms: int) -> Breach | None:
        """Judges the labels of a step, or of what would have been one. While closed, only to know when all is well
        again.

        Labels of _STEPS_JUDGED steps are judged at once, as what the reference would have served then costs much less.
        Call it when the step's update is out, which need not wait for it.
        """
        self._unjudged += requests
        self._steps += 1
        if self._steps < _STEPS_JUDGED:
            return None
        compared = self._learner.compare([r for r in self._unjudged if self._fair(r)])
        self._unjudged, self._steps = [], 0
        known = self._reference.judged if self._reference is not None else frozenset()
        judged = {kind: labels for kind, labels in compared.items() if kind in known}
        if not judged:
            self._labels_unjudged += sum(len(labels.label_n) for labels in compared.values())
        breach = self._tests.observe(judged, self._watermark_ms)
        self._watermark_ms = watermark_ms
        for test, level in self._tests.levels().items():
            metric.GATE_LEVEL.labels(test).set(level)
        if breach is not None and breach.test == "reference":
            self._doubt(breach, watermark_ms)
            return None
        if not self.closed:
            return breach
        if breach is not None:
            if self._said.due("closed"):
                log.warning("the gate stays closed: %s", breach.reason)
            self._tests.restart(watermark_ms)
        elif self._tests.labels + self._labels_unjudged >= self._config.reopen_labels and self._tests.quiet:
            self._open()
        return None

    def judge_weights(self) -> Breach | None:
        """Judges the weights, before an update is made of them."""
        tier = self._held_out.tiers[self._tier]
        if tier not in self._loss_before:
            self._loss_before[tier] = self._held_out.loss(tier)
        return check_weights(self._config, self._learner.dense, self._learner.pending.values(), self._published.image)

    def judge_update(self) -> Breach | None:
        """Judges an update, once the published image has been changed by it and before it is sent.

        One tier's held-out responses judge it, the next tier's the next time: a tier's loss is compared with what it
        was when that tier last judged.
        """
        window, tier = self._held_out, self._held_out.tiers[self._tier]
        self._tier = (self._tier + 1) % len(window.tiers)
        before, after = self._loss_before[tier], window.loss(tier)
        self._loss_before[tier] = after
        if window.count(tier) < window.size or "click" not in self._learned():
            return None  # a few labels' loss may jump, and so may any of a model that has just begun to learn
        if after <= before * (1 + self._config.held_out_jump) + self._config.held_out_nats:
            return None
        return Breach(
            "held_out",
            f"updates may raise the loss of {window.size} held-out responses of {tier} by "
            f"{self._config.held_out_jump:.0%} and {self._config.held_out_nats:g} nats, and would raise it from "
            f"{before:.2f} to {after:.2f}",
        )

    def hopeless(self, breach: Breach) -> bool:
        """Whether weights went wrong again soon after a rollback: going back once more would not help."""
        return breach.test in WEIGHTS and self._published_since_breach < _SOON

    def trusted(self, breach: Breach, newest: tuple[int, int]) -> tuple[int, int]:
        """Returns the newest place (epoch and number) whose weights a rollback may go back to; `newest` was published
        last.

        Labels may have been bad for as long as the reference is old. Weights are tested before they are published, but
        may have gone wrong bit by bit: those of the last _SOON updates are not trusted either.
        """
        if breach.test not in WEIGHTS and self.reference_at is not None:
            return self.reference_at.place
        epoch, number = newest
        return epoch, number - _SOON

    def published(self) -> None:
        """An update went out."""
        self._published_since_breach += 1

    def close(self, breach: Breach, now_ms: int) -> None:
        """Closes the gate, after a breach and the rollback."""
        self._set_closed(True)
        self._loss_before.clear()
        self._unjudged, self._steps, self._labels_unjudged = [], 0, 0
        if breach.test in WEIGHTS:
            self._published_since_breach = 0
        self._drop(self._next)
        self._drop(self._begun)
        self._next = self._begun = None
        self._tests.restart(now_ms)

    def _set_closed(self, closed: bool) -> None:
        self.closed = closed
        metric.GATE_CLOSED.set(int(closed))

    def _fair(self, request: LabelledRequest) -> bool:
        """Whether the reference may judge the request. While closed, it may judge all: what the replicas were taken
        back from served some."""
        at = self.reference_at
        return self.closed or at is None or request.served_by is None or request.served_by >= at.place

    def _refer_to(self, reference: "_Candidate | None", elder: "_Candidate | None") -> None:
        self._reference, self._elder = reference, elder
        self._learner.reference = reference.model if reference is not None else None
        self._learner.elder = elder.model if elder is not None else None

    def _doubt(self, breach: Breach, watermark_ms: int) -> None:
        """Doubts the reference: an older one finds nothing of the breach. Labels are compared as they come and tested
        when their window closes: of some that came before this reference was one, it is not known which of three models
        is wrong."""
        assert self._reference is not None
        if breach.since_ms is None or breach.since_ms <= self._reference.since_ms:
            log.warning("the gate: %s. It has changed meanwhile: that is not held against it", breach.reason)
            self._tests.begin_again()
            return
        metric.GATE_REFERENCES_DROPPED.inc()
        log.warning("the gate: %s. The one before it judges from here on; nothing else changes", breach.reason)
        self._drop(self._reference)
        self._refer_to(self._elder, None)
        self._tests.restart(watermark_ms)

    def _drop(self, candidate: "_Candidate | None") -> None:
        if candidate is not None:
            self._spare.append(candidate.model)

    def _learned(self) -> frozenset[str]:
        counts = {"click": self._learner.click_rate.count, "conversion": self._learner.conversion_rate.count}
        return frozenset(kind for kind, count in counts.items() if count > self._config.reference_labels)

    def _open(self) -> None:
        if self._tests.labels:
            log.warning("the gate is open again: %d labels were as the reference predicts", self._tests.labels)
        else:
            log.warning("the gate is open again: the reference knows too little to judge the labels that came since")
        self._set_closed(False)
