"""The newest responses that are never trained on: how well weights explain them, before and after a change."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from ranker.engine import Engine
from ranker.features import Featurizer, KeyedBatch
from ranker.grades import log_loss
from ranker.requests import F32, LabelledRequest


class HeldOutWindow:
    """Responses are looked up again only when some were added."""

    def __init__(self, engine: Engine, size: int) -> None:
        self._engine = engine
        self._featurizer = Featurizer(engine.config)
        self._responses: deque[LabelledRequest] = deque(maxlen=size)
        self._keyed: list[tuple[str, KeyedBatch, F32, F32]] = []

    def __len__(self) -> int:
        return len(self._responses)

    def add(self, responses: Sequence[LabelledRequest]) -> None:
        self._responses.extend(responses)
        if responses:
            self._keyed = [self._key(tier.name) for tier in self._engine.config.tiers]

    def clear(self) -> None:
        self._responses.clear()
        self._keyed = []

    def loss(self) -> float:
        """Sum over the labels of both kinds, each response by the tier that served it."""
        total = 0.0
        for tier, keyed, click_N, conversion_N in self._keyed:
            pctr_N, pcvr_N = self._engine.predict(tier, keyed)
            for label_N, p_N in ((click_N, pctr_N), (conversion_N, pcvr_N)):
                known_N = ~np.isnan(label_N)
                total += log_loss(label_N[known_N].astype(np.float64), p_N[known_N])
        return total

    def _key(self, tier: str) -> tuple[str, KeyedBatch, F32, F32]:
        names = [t.name for t in self._engine.config.tiers]
        # A tier that is no longer configured counts as the cheapest, as in training.
        own = [r for r in self._responses if r.tier == tier or (tier == names[0] and r.tier not in names)]
        keyed = self._featurizer.keys([r.request for r in own], self._engine.config.tier(tier).log_length)
        click_N, conversion_N = (
            np.concatenate([getattr(r, name) for r in own] or [np.empty(0, np.float32)])
            for name in ("click_N", "conversion_N")
        )
        return tier, keyed, click_N, conversion_N
