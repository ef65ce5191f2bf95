"""Scoring: requests in, calibrated probabilities out, from weights that change in place between two calls.

Imports no TorchRec. One thread calls it; how many threads torch uses is the worker's choice.
"""

# N candidates over all requests.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from kernels.linear_compress import Compress
from ranker.arrays import F32
from ranker.compiled.graph import TierGraph
from ranker.compiled.load import CompiledTier
from ranker.config import ITEM, STATISTICS, ModelConfig
from ranker.inputs.features import Featurizer, KeyedBatch
from ranker.inputs.laps import Lap, no_lap
from ranker.inputs.requests import ScoringRequest
from ranker.inputs.statistics import MEMORIES, SHOWN
from ranker.inputs.tables import PlainTables
from ranker.model.low_precision import Kind, LowPrecisionLinear, convert, refresh_all
from ranker.updates.image import Image, Tiers, build_tiers, dense_tensors
from ranker.updates.log import Position
from ranker.updates.record import Update


class NotReady(Exception):
    """The engine has no weights yet: load an image, or apply the log from a new model's first update on."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Probabilities of one request's candidates, in its order; float32 [n]."""

    pctr: F32
    pcvr: F32
    shown: F32 | None = None
    """Impressions of each candidate's item that are counted; None where the model counts none."""


class Engine:
    """One replica's weights and how they score.

    A candidate's scores do not depend on what was sent with it; but for the last bits, where compiled graphs know some
    requests of a batch and not all.
    """

    def __init__(self, config: ModelConfig, compress: Compress, device: torch.device | None = None) -> None:
        """device: of the weights and of the scoring, the CPU where not given; `compress` must run there."""
        self.config = config
        self._featurizer = Featurizer(config)
        self._tiers = build_tiers(config, compress)
        for tier in self._tiers.values():
            tier.to(device).requires_grad_(False).eval()
        self.image = Image(config, dense_tensors(self._tiers))
        self._compiled: dict[str, CompiledTier] = {}
        self._low_precision: list[LowPrecisionLinear] = []
        self.precision: dict[str, Mapping[str, Kind]] = {}
        """The layers in low precision, by tier and path."""
        self.image.after_change = partial(refresh_all, self._low_precision)
        self.lap: Lap = no_lap
        """Told of each phase of scoring when it ends: "keys", "batch", "forward"."""

    def use_precision(self, layers: Mapping[str, Mapping[str, Kind]]) -> None:
        """Score with these layers, by tier and path, in low precision. Once, and before weights are there or after.

        Raises ValueError, for the first tier that has no such layers.
        """
        for tier, chosen in layers.items():
            self.config.tier(tier)
            self.precision[tier] = chosen
            self._low_precision += convert(self._tiers[tier], chosen)

    def graph(self, tier: str) -> TierGraph:
        """What there is to compile of a tier, over this engine's weights; of its layers in the precision they have."""
        return TierGraph(self.config, self._tiers[tier], self.image.tables)

    def use_compiled(self, tier: str, compiled: CompiledTier) -> None:
        """Score a request of this tier by the graph, compiled from `graph`, wherever it knows such a request."""
        self._compiled[tier] = compiled

    @property
    def position(self) -> Position | None:
        """Where in the log the weights stand: epoch and number are the model version of a response."""
        return self.image.position

    @property
    def watermark_ms(self) -> int:
        """All events up to here, of every active partition, are in the weights."""
        return self.image.watermark_ms

    def apply(self, update: Update, position: Position) -> None:
        """See Image.apply. Between two calls of score, never inside one: no response mixes versions."""
        self.image.apply(update, position)

    def score(self, tier: str, requests: Sequence[ScoringRequest]) -> list[Scores]:
        """Score all candidates of all requests in one batch, the user side of each request once.

        Raises NotReady without weights, ValueError for a tier that is not configured.
        """
        self.config.tier(tier)
        if self.image.position is None:
            raise NotReady("no weights yet: load an image, or apply a new model's first update")
        if not requests:
            return []
        compiled = self._compiled.get(tier)
        if compiled is not None:
            fits = [compiled.graph.fits(request) for request in requests]
            if any(fits) and not all(fits):  # one that the graph does not take is not to keep it from the others
                parts = [[r for r, fit in zip(requests, fits, strict=True) if fit is which] for which in (True, False)]
                scored = [iter(self.score(tier, part)) for part in parts]
                return [next(scored[not fit]) for fit in fits]
        keyed = self._featurizer.keys(requests, self.config.tier(tier).log_length, crossed=compiled is None)
        self.lap("keys")
        found_KN = compiled.predict(keyed) if compiled is not None else None
        if found_KN is None:
            found_KN = self._predict(tier, keyed if compiled is None else self._featurizer.crossed(keyed))
        self.lap("forward")
        ends = np.cumsum([len(r.items) for r in requests])[:-1]
        return [Scores(*of_request_Kn) for of_request_Kn in np.split(found_KN, ends, axis=1)]

    def predict(self, tier: str, keyed: KeyedBatch) -> tuple[F32, F32]:
        """pCTR and pCVR [N] of requests whose keys are known already, by operators."""
        return predict(self._featurizer, self._tiers, self.image.tables, tier, keyed, self.lap)

    def _predict(self, tier: str, keyed: KeyedBatch) -> F32:
        """Fields of Scores [2 or 3, N]."""
        shown_N = impressions(self._featurizer, self.image.tables, self.config, keyed)
        return np.stack([*self.predict(tier, keyed), *([] if shown_N is None else [shown_N])])

    def warm_up(self) -> None:
        """Score one made-up request with every tier, so that the first real one does not pay for first calls."""
        request = ScoringRequest(user="", event_ms=0, items=["", ""], item_features=[{}, {}])
        keyed = self._featurizer.keys([request], 1)
        for tier in self._tiers:
            self.predict(tier, keyed)


def predict(
    featurizer: Featurizer,
    tiers: Tiers,
    tables: PlainTables,
    tier: str,
    keyed: KeyedBatch,
    lap: Lap = no_lap,
) -> tuple[F32, F32]:
    """pCTR and pCVR [N] as serving predicts them: calibrated, at an average position.

    lap: as in Engine.
    """
    if len(keyed.request_of_N) == 0:
        return np.empty(0, np.float32), np.empty(0, np.float32)
    with torch.inference_mode():
        batch = featurizer.batch(keyed, tables)
        lap("batch")
        device = next(iter(tables.weights.values())).device
        logits = tiers[tier](batch.to(device), tables, None)
        pctr_N = torch.sigmoid(logits.click_N).cpu().numpy()
        pcvr_N = torch.sigmoid(logits.conversion_N).cpu().numpy()
    return pctr_N, pcvr_N


def impressions(featurizer: Featurizer, tables: PlainTables, config: ModelConfig, keyed: KeyedBatch) -> F32 | None:
    """[N]: impressions of each candidate's item, as the longer memory counts them; None where items are not counted."""
    if (ITEM,) not in config.statistics:
        return None
    keys_N = keyed.slots[STATISTICS].keys_T[config.statistics.index((ITEM,)) :: len(config.statistics)]
    counts = tables.weights[STATISTICS]
    rows_N = torch.from_numpy(featurizer.tail(STATISTICS, keys_N)).to(counts.device)
    longer = len(MEMORIES) - 1
    shown_N: F32 = (MEMORIES[longer] * counts[rows_N, 2 * longer + SHOWN]).cpu().numpy()
    return shown_N
