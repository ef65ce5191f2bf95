"""The gate: whether what was learned may be published, and whether the labels that come are to be learned from.

Two stages. Before an update is published its weights must be finite, no tensor may have moved further than training
ever does, and responses that are held out of training must not be explained much worse than by what replicas hold.
After it, sequential tests (ranker/detector.py) compare the labels of what was served with a reference: the model as it
was at the snapshot before the newest one, which is what a rollback goes back to.
"""

# N candidates, n labels.

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ranker.config import GateConfig
from ranker.detector import F64, PATIENT, QUICK, Detector, strange, worse
from ranker.grades import Compared
from ranker.hashing import hash64
from ranker.image import Image, Tiers, dense_tensors


@dataclass(frozen=True, slots=True)
class Breach:
    test: str
    """finite, change, held_out, worse or strange."""
    reason: str
    """For people: what must hold, and what came."""
    since_ms: int | None = None
    """Event time at which it began, or earlier; None where it is not known."""


def held_out(response_id: str, share: float) -> bool:
    """Whether a response is never trained on: the same answer for every trainer."""
    return hash64(f"held-out/{response_id}") < share * 2**64


def check_weights(config: GateConfig, tiers: Tiers, tables: Mapping[str, Tensor], published: Image) -> Breach | None:
    """What the next update would carry. Compares the dense tensors with what replicas hold."""
    for name, tensor in dense_tensors(tiers).items():
        moved = torch.linalg.vector_norm(tensor - published.dense[name]) / max(tensor.numel(), 1) ** 0.5
        if not torch.isfinite(moved):
            return Breach("finite", f"{name} must be finite, and is not")
        if float(moved) > config.max_change:
            return Breach("change", f"a weight of {name} may move by {config.max_change} an update, on average, "
                          f"and moved by {float(moved):.3g}")  # fmt: skip
    for name, weights in tables.items():
        largest = float(weights.abs().max())
        if not largest <= config.max_row_value:
            return Breach("finite", f"rows of {name!r} must be within ±{config.max_row_value}, got {largest:.3g}")
    return None


@dataclass
class _Cohort:
    """Labels of one kind, kept until all labels of their time are there: clicks come before what was not clicked."""

    window_ms: int
    parts: list[Compared] = field(default_factory=list)

    def take(self, watermark_ms: int, after_ms: int) -> Compared:
        """Those of events after `after_ms` whose window has closed, in order of time."""
        fields = [np.concatenate([getattr(p, f) for p in self.parts] or [np.empty(0)]) for f in _FIELDS]
        closed = fields[-1] <= watermark_ms - self.window_ms
        self.parts = [Compared(*(f[~closed] for f in fields))]
        closed &= fields[-1] > after_ms
        order = np.argsort(fields[-1][closed], kind="stable")
        label_n, served_n, reference_n, event_ms_n = (f[closed][order] for f in fields)
        return Compared(label_n, served_n, reference_n, event_ms_n.astype(np.int64))


_FIELDS = ("label_n", "served_n", "reference_n", "event_ms_n")


class LabelTests:
    """The tests after publishing: of each kind of label, whether the model is worse or the labels strange."""

    def __init__(self, config: GateConfig, windows_ms: Mapping[str, int]) -> None:
        """windows_ms: by kind of label, from the request's event time: how long a label may take to be closed."""
        self.labels = 0
        """Tested since the start."""
        self._config = config
        self._after_ms = 0
        self._cohorts = {kind: _Cohort(window_ms) for kind, window_ms in windows_ms.items()}
        self._detectors = {
            (kind, test): Detector(config.labels_between_false_alarms) for kind in windows_ms for test in _TESTS
        }

    @property
    def suspicious(self) -> bool:
        return any(detector.suspicious for detector in self._detectors.values())

    @property
    def quiet(self) -> bool:
        """All is as expected: every detector has come back to a tenth of where it speaks."""
        return all(d.level < d.threshold / 10 for d in self._detectors.values())

    def levels(self) -> dict[str, float]:
        """Of each test, as a share of where it speaks."""
        return {f"{kind}/{test}": d.level / d.threshold for (kind, test), d in self._detectors.items()}

    def restart(self, after_ms: int) -> None:
        """Forget all; from here on only labels of requests after this event time count."""
        self._after_ms = after_ms
        self.labels = 0
        for cohort in self._cohorts.values():
            cohort.parts = []
        for detector in self._detectors.values():
            detector.reset()

    def observe(self, compared: Mapping[str, Compared], watermark_ms: int) -> Breach | None:
        """Takes labels in; tests those whose window has closed by the watermark."""
        found = None
        for kind, cohort in self._cohorts.items():
            if kind in compared:
                cohort.parts.append(compared[kind])
            labels = cohort.take(watermark_ms, self._after_ms)
            self.labels += len(labels.label_n)
            for test, addends in _TESTS.items():
                detector = self._detectors[kind, test]
                if detector.add(addends(self._config, labels), labels.event_ms_n) and found is None:
                    found = Breach(test.split()[-1], _WORDS[test.split()[-1]].format(kind=kind), detector.since_ms)
        return found


_WORDS = {
    "worse": "served {kind} predictions must not be worse than the reference's, and are",
    "strange": "{kind} labels must be such as the reference predicts, but for drift, and are not",
}


def _worse(config: GateConfig, x: Compared) -> F64:
    return worse(x.label_n, x.served_n, x.reference_n, config.worse_tolerance)


def _strange(temper: float) -> Callable[[GateConfig, Compared], F64]:
    return lambda config, x: strange(x.label_n, x.reference_n, config.strange_tolerance, temper)


_TESTS: dict[str, Callable[[GateConfig, Compared], F64]] = {
    "worse": _worse,
    "quick strange": _strange(QUICK),
    "patient strange": _strange(PATIENT),
}
