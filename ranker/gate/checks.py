"""The gate: whether what was learned may be published, and whether the labels that come are to be learned from.

Two stages. Before an update is published its weights must be finite, no tensor may have moved further than training
ever does, and responses that are held out of training must not be explained much worse than by what replicas hold.
After it, sequential tests (ranker/gate/detector.py) compare the labels of what was served with a reference: the model
as it was at an earlier snapshot, which is what a rollback goes back to.
"""

# N candidates, n labels.

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor

from ranker.arrays import F64
from ranker.config import STATISTICS, GateConfig
from ranker.gate.detector import PATIENT, QUICK, Detector, strange, worse
from ranker.grades import Compared
from ranker.inputs.hashing import hash64
from ranker.updates.encoding import SMALL
from ranker.updates.image import Image, Tensors


@dataclass(frozen=True, slots=True)
class Breach:
    test: str
    """finite, change, held_out, worse or strange; or reference: the reference itself is wrong."""
    reason: str
    """For people: what must hold, and what came."""
    since_ms: int | None = None
    """Event time at which it began, or earlier; None where it is not known."""


WEIGHTS = frozenset({"finite", "change", "held_out"})
"""Tests of what was learned; the others are of labels."""

_AGREES = 0.5
"""Share of a test's threshold that it must reach by the older reference too, on the labels for which it speaks:
where it does not, the newer reference is wrong."""


def held_out(response_id: str, share: float) -> bool:
    """Whether a response is never trained on: the same answer for every trainer."""
    return hash64(f"held-out/{response_id}") < share * 2**64


def check_weights(config: GateConfig, dense: Tensors, rows: Mapping[str, Tensor], published: Image) -> Breach | None:
    """Checks what the next update would carry: dense tensors against what replicas hold, and the rows, by table."""
    steps = torch._foreach_sub(list(dense.values()), [published.dense[name] for name in dense])
    norms = torch.stack(torch._foreach_norm(steps)).tolist()  # of all at once: there are hundreds, most of them small
    for (name, tensor), norm in zip(dense.items(), norms, strict=True):
        moved = norm / max(tensor.numel(), 1) ** 0.5
        if not math.isfinite(moved):
            return Breach("finite", f"{name} must be finite, and is not")
        # Small ones may jump: a head's bias starts at the base rate.
        if moved > config.max_change and tensor.numel() > SMALL:
            return Breach("change", f"a weight of {name} may move by {config.max_change} an update, on average, "
                          f"and moved by {moved:.3g}")  # fmt: skip
    for name, values in rows.items():
        if name == STATISTICS and not ((values >= 0) & (values <= 1)).all():
            return Breach("finite", f"counts are shares, 0 to 1, got {values.min():.3g} to {values.max():.3g}")
        if name == STATISTICS and (values[:, 1::2] > values[:, 0::2]).any():
            return Breach("finite", "no more can be clicked than was shown, and is by a row of statistics")
        largest = float(values.abs().max()) if len(values) else 0.0
        if not largest <= config.max_row_value:
            return Breach("finite", f"rows of {name!r} must be within ±{config.max_row_value}, got {largest:.3g}")
    return None


class _Cohorts:
    """Labels of one kind, kept until all labels of their time are there: clicks come before what was not clicked."""

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._width_ms = max(window_ms // _COHORTS, 250)
        self._by_time: defaultdict[int, list[Compared]] = defaultdict(list)

    def add(self, labels: Compared) -> None:
        cohort_n = labels.shown_ms_n // self._width_ms
        for cohort in np.unique(cohort_n).tolist():
            self._by_time[cohort].append(labels.take(cohort_n == cohort))

    def take(self, watermark_ms: int) -> list[Compared]:
        """The cohorts whose window has closed, in order of time. Within one its clicks still come first."""
        ended_ms = watermark_ms - self._window_ms
        closed = sorted(c for c in self._by_time if (c + 1) * self._width_ms <= ended_ms)
        return [Compared.of(self._by_time.pop(cohort)) for cohort in closed]

    def clear(self) -> None:
        self._by_time.clear()


_COHORTS = 256
"""Cohorts in a window; none is shorter than 250 ms."""


class LabelTests:
    """The tests after publishing: of each kind of label, whether the model is worse or the labels strange."""

    def __init__(self, config: GateConfig, windows_ms: Mapping[str, int]) -> None:
        """windows_ms: by kind of label, the time from the impression until the label is final."""
        self.labels = 0
        """Labels tested since the start, or since `restart`."""
        self._config = config
        self._after_ms = -1
        self._cohorts = {kind: _Cohorts(window_ms) for kind, window_ms in windows_ms.items()}
        self._detectors = {
            (kind, test): Detector(config.labels_between_false_alarms) for kind in windows_ms for test in _TESTS
        }

    @property
    def suspicious(self) -> bool:
        return any(detector.suspicious for detector in self._detectors.values())

    @property
    def quiet(self) -> bool:
        """All is as expected: every detector has come back to a tenth of its threshold."""
        return all(d.level < d.threshold / 10 for d in self._detectors.values())

    def levels(self) -> dict[str, float]:
        """Returns the level of each test, as a share of the threshold at which it speaks."""
        return {f"{kind}/{test}": d.level / d.threshold for (kind, test), d in self._detectors.items()}

    def restart(self, after_ms: int) -> None:
        """Forget all; from here on only labels of pages that were looked at after this event time count."""
        self._after_ms = after_ms
        self.labels = 0
        for cohort in self._cohorts.values():
            cohort.clear()
        self.begin_again()

    def begin_again(self) -> None:
        """Forget what was found; labels that wait for their windows to close still count."""
        for detector in self._detectors.values():
            detector.reset()

    def observe(self, compared: Mapping[str, Compared], watermark_ms: int) -> Breach | None:
        """Takes labels in; tests those whose window has closed by the watermark: no label of it is to come."""
        found = None
        for kind, cohort in self._cohorts.items():
            if kind in compared:
                cohort.add(compared[kind].take(compared[kind].shown_ms_n > self._after_ms))
            closed = [labels for labels in cohort.take(watermark_ms) if len(labels.label_n)]
            self.labels += sum(len(labels.label_n) for labels in closed)
            event_ms = np.array([labels.shown_ms_n[0] for labels in closed], np.int64)
            for test, addends in _TESTS.items():
                detector = self._detectors[kind, test]
                each = np.array([addends(self._config, labels).sum() for labels in closed])
                evidence = [(*_evidence(labels), _second_opinion(self._config, test, labels)) for labels in closed]
                spoke = detector.add(each, event_ms, np.array(evidence).reshape(-1, _COLUMNS))
                if spoke and found is None:
                    found = _breach(kind, test.split()[-1], detector)
        return found


_COLUMNS = 6


def _evidence(x: Compared) -> tuple[float, ...]:
    return float(len(x.label_n)), *(float(x_n.sum()) for x_n in (x.label_n, x.reference_n, x.elder_n, x.served_n))


def _second_opinion(config: GateConfig, test: str, x: Compared) -> float:
    """What the test would add with the older reference in the newer one's place. For "worse" the newer one stays:
    served predictions may well have become better than the older one's."""
    return float(_TESTS[test](config, x if test == "worse" else replace(x, reference_n=x.elder_n)).sum())


def _breach(kind: str, test: str, detector: Detector) -> Breach:
    count, positive, reference, elder, served, opinion = detector.evidence_k
    since = datetime.fromtimestamp(detector.since_ms / 1000, UTC).strftime("%H:%M:%S UTC")
    if opinion < _AGREES * detector.threshold:
        test = "reference"
    return Breach(
        test,
        f"{_MUST[test].format(kind=kind)} (of {count:.0f} labels since {since}, {positive:.0f} are positive; "
        f"{reference:.0f} the reference expects, {elder:.0f} the one before it, and {served:.0f} what was served)",
        detector.since_ms,
    )


_MUST = {
    "worse": "served {kind} predictions must not be worse than the reference's, and are",
    "strange": "{kind} labels must be such as the reference predicts, but for drift, and are not",
    "reference": "the reference must find {kind} labels no stranger than the one before it does, and does",
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
