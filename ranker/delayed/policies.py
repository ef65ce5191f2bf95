"""Which examples are made of an impression, or a clicked one, and which of them a policy learns from. Knows no torch.

An impression's label is final only at its click or when its window closes, a click's at its conversion or when its
attribution window does. A policy may have the stream say "negative" earlier and take it back when the click, or the
conversion, comes; it then weighs what it learns so that the expected loss is that of the true labels
(ranker/delayed/weights.py). Final labels come under every policy: predictions are graded by them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from ranker.arrays import I64

PolicyName = Literal["wait", "naive", "fake_negative", "es_dfm", "defer"]
ClickPolicyName = Literal["wait", "es_dfm"]
"""Policies for clicks: those for which one share of late clicks, the same for all impressions, will do."""


class Emission(IntEnum):
    PROVISIONAL = 0
    """Negative before that is certain: once the elapsed time passed, or, of a conversion, at the click."""
    CONVERTED = 1
    """Positive, and nothing was said before."""
    CORRECTED = 2
    """Positive, after a provisional example said otherwise."""
    CLOSED = 3
    """Negative: the window closed."""


NO_EMISSION: Final = -1
"""Stands where there is no example."""


@dataclass(frozen=True, slots=True)
class Policy:
    provisional: Literal["none", "click", "elapsed"]
    """What the stream must say early: the join's setting of this name."""
    times: tuple[int, int, int, int]
    """How often each Emission counts, in its order."""
    learns_late: bool = False
    """Needs the head that learns which conversions come late: the model's setting of this name."""

    def learns(self, emission_N: I64) -> npt.NDArray[np.bool_]:
        """Whether each counts at all; where there is no example: no."""
        learned: npt.NDArray[np.bool_] = np.array((*self.times, 0))[emission_N] > 0
        return learned


POLICIES: Final[Mapping[PolicyName, Policy]] = MappingProxyType(
    {
        # An example once its label is certain: its negatives are a window old.
        "wait": Policy("none", times=(0, 1, 1, 1)),
        # "Vanilla": p / (1 + p) is learned in place of p.
        "naive": Policy("click", times=(1, 1, 1, 0)),
        "fake_negative": Policy("click", times=(1, 1, 1, 0)),
        "es_dfm": Policy("elapsed", times=(1, 1, 1, 0), learns_late=True),
        # Every click twice: as it looked and as it turned out. An early conversion's second copy is taken at once.
        "defer": Policy("elapsed", times=(1, 2, 1, 1), learns_late=True),
    }
)


def final_emissions(label_N: npt.NDArray[np.float32]) -> I64:
    """Returns the emissions where every label is final and nothing was said before; a nan label is no example."""
    emission_N = np.where(label_N > 0, Emission.CONVERTED, Emission.CLOSED)
    return np.where(np.isnan(label_N), NO_EMISSION, emission_N).astype(np.int64)
