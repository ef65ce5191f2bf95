"""What is scored and what is learned from, as plain values. Knows no torch and no wire format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ranker.arrays import F32
from ranker.delayed.policies import final_emissions

FeatureValue = str | float | Sequence[str]
Features = Mapping[str, FeatureValue]

LOG_DTYPE = np.dtype([("time_s", "<u4"), ("item", "<u8"), ("action", "u1"), ("surface", "u1"), ("value", "<f2")])
"""One event of a user's log; `item` is hash64 of the item's id, `action` and `surface` are below 32."""


def _empty_log() -> npt.NDArray[np.void]:
    return np.empty(0, LOG_DTYPE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringRequest:
    """One user, one moment, some candidates."""

    user: str
    event_ms: int
    items: Sequence[str]
    item_features: Sequence[Features]
    """One mapping for each item."""
    features: Features = field(default_factory=dict)
    """Features of the user."""
    context: Features = field(default_factory=dict)
    surface: str = "default"
    log: npt.NDArray[np.void] = field(default_factory=_empty_log)
    """LOG_DTYPE, oldest first."""

    def __post_init__(self) -> None:
        if len(self.items) != len(self.item_features):
            raise ValueError(
                f"each item needs its features: got {len(self.items)} items, {len(self.item_features)} mappings; "
                "send an empty mapping for an item without features"
            )
        if self.log.dtype != LOG_DTYPE or self.log.ndim != 1:
            raise ValueError(f"log must be 1-D of LOG_DTYPE, got {self.log.ndim}-D of {self.log.dtype}")

    def subset(self, indices: Sequence[int]) -> "ScoringRequest":
        """The same request with only these candidates, in this order: what a cascade's next tier scores."""
        return replace(
            self, items=[self.items[i] for i in indices], item_features=[self.item_features[i] for i in indices]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledRequest:
    """The labelled impressions of one response: its user side is computed once in training too.

    Arrays are float32 [N] (positions int64 [N]), N the request's items. nan in click_N or conversion_N: no example of
    that kind for this item.
    """

    request: ScoringRequest
    response_id: str
    tier: str
    """Tier that served it."""
    click_N: F32
    conversion_N: F32
    position_N: npt.NDArray[np.int64]
    pctr_N: F32
    pcvr_N: F32
    """pctr_N and pcvr_N as served: what the labels grade."""
    value_N: F32
    served_by: tuple[int, int] | None = None
    """Epoch and number of the weights that scored it; None: those of the newest."""
    shown_ms_N: npt.NDArray[np.int64] | None = None
    """Event time at which each was looked at, in Unix milliseconds; None: when it was asked for."""
    click_emission_N: npt.NDArray[np.int64] | None = None
    """Emission (ranker.delayed.policies) of each click example; a provisional one has click_N nan: it is learned from,
    and no label to grade by. None: every label is final and nothing was said before."""
    emission_N: npt.NDArray[np.int64] | None = None
    """As click_emission_N, for the conversion examples."""

    def __post_init__(self) -> None:
        n = len(self.request.items)
        for name in ("click_N", "conversion_N", "position_N", "pctr_N", "pcvr_N", "value_N"):
            if getattr(self, name).shape != (n,):
                raise ValueError(f"{name} must be [{n}], one for each item, got {getattr(self, name).shape}")
        for name in ("shown_ms_N", "click_emission_N", "emission_N"):
            array = getattr(self, name)
            if array is not None and array.shape != (n,):
                raise ValueError(f"{name} must be [{n}], one for each item, or None, got {array.shape}")
        for name in ("click_N", "conversion_N"):
            labels = getattr(self, name)
            if not np.all(np.isnan(labels) | ((labels >= 0) & (labels <= 1))):
                raise ValueError(f"{name} must be labels in [0, 1], or nan where there is none, got {labels}")
        if n and self.position_N.min() < 0:
            raise ValueError(f"position_N must be >= 0, got {self.position_N}")

    @property
    def is_final(self) -> bool:
        """Whether any of its labels is final, so that predictions can be judged by it."""
        return not bool(np.isnan(self.click_N).all() and np.isnan(self.conversion_N).all())

    def emissions(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Returns emissions of the click and of the conversion examples: int64 [N] each, Emission or NO_EMISSION."""
        clicks = final_emissions(self.click_N) if self.click_emission_N is None else self.click_emission_N
        conversions = final_emissions(self.conversion_N) if self.emission_N is None else self.emission_N
        return clicks, conversions
