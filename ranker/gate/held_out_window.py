"""The newest responses that are never trained on: how well weights explain them, before and after a change."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from ranker.arrays import F32
from ranker.engine import Engine
from ranker.grades import log_loss
from ranker.inputs.features import Featurizer, KeyedBatch
from ranker.inputs.requests import LabelledRequest


class HeldOutWindow:
    """The newest `size` responses that each tier served. They are looked up again only when some were added."""

    def __init__(self, engine: Engine, size: int) -> None:
        self.size = size
        self._engine = engine
        self._featurizer = Featurizer(engine.config)
        self.tiers = [tier.name for tier in engine.config.tiers]
        self._responses: dict[str, deque[LabelledRequest]] = {name: deque(maxlen=size) for name in self.tiers}
        self._keyed: dict[str, tuple[KeyedBatch, F32, F32]] = {}

    def count(self, tier: str) -> int:
        return len(self._responses[tier])

    def add(self, responses: Sequence[LabelledRequest]) -> set[str]:
        """Returns the tiers whose responses are others now."""
        changed = set()
        for response in responses:
            # A tier that is no longer configured counts as the cheapest, as in training.
            tier = response.tier if response.tier in self._responses else self.tiers[0]
            self._responses[tier].append(response)
            changed.add(tier)
        for tier in changed:
            self._keyed[tier] = self._key(tier)
        return changed

    def loss(self, tier: str) -> float:
        """Log loss over the labels of both kinds, summed over the responses that this tier served."""
        if tier not in self._keyed:
            return 0.0
        keyed, click_N, conversion_N = self._keyed[tier]
        pctr_N, pcvr_N = self._engine.predict(tier, keyed)
        total = 0.0
        for label_N, p_N in ((click_N, pctr_N), (conversion_N, pcvr_N)):
            known_N = ~np.isnan(label_N)
            total += log_loss(label_N[known_N].astype(np.float64), p_N[known_N])
        return total

    def _key(self, tier: str) -> tuple[KeyedBatch, F32, F32]:
        own = self._responses[tier]
        keyed = self._featurizer.keys([r.request for r in own], self._engine.config.tier(tier).log_length)
        click_N, conversion_N = (
            np.concatenate([getattr(r, name) for r in own]) for name in ("click_N", "conversion_N")
        )
        return keyed, click_N, conversion_N
