"""What a tier costs: parameters and operations counted by running it, and the time of a request.

An operation is one multiplication or addition of a matrix product: 2·m·k·n for [m, k] times [k, n], attention's
products among them. Elementwise work is in the time alone.
"""

# N candidates of one request.

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from kernels.linear_compress import Compress
from ranker.config import ModelConfig
from ranker.engine import predict
from ranker.inputs.batch import Batch, Embedder
from ranker.inputs.features import Featurizer
from ranker.inputs.hashing import hash64
from ranker.inputs.requests import LOG_DTYPE, ScoringRequest
from ranker.inputs.tables import PlainTables
from ranker.model.tier import Tier, count_parameters
from ranker.updates.image import Tiers, build_tiers

_COUNTED_AT = (10, 20)
"""Operations are linear in the candidates, so two counts tell them all."""
_EVENT_MS = 1_700_000_000_000


@dataclass(frozen=True, slots=True)
class Operations:
    """Operations of scoring one request: those done once, and those done for each candidate."""

    request: float
    candidate: float

    @property
    def model_equivalent(self) -> float:
        """Operations of a request with one candidate: of the whole model that a candidate is scored by."""
        return self.request + self.candidate

    def executed(self, candidates: int) -> float:
        """Operations per candidate, where this many share the request's part."""
        return self.request / candidates + self.candidate


@dataclass(frozen=True, slots=True)
class TierCost:
    tier: str
    parameters: int
    """Dense parameters: embeddings are shared."""
    operations: Operations
    median_ms: float
    p90_ms: float
    """Median and 90th percentile of the scoring thread's CPU time: what it waits for a core is not the tier's cost."""


def table_bytes(tables: PlainTables) -> int:
    """Returns the bytes of embeddings and catalogue as they are served, shared by all tiers."""
    return sum(weights.nbytes for weights in tables.weights.values()) + tables.catalogue.entry_RS.nbytes


def made_up_request(candidates: int, log_length: int) -> ScoringRequest:
    """A request of this size, its log an event a minute; what its ids are does not change its cost."""
    log = np.zeros(log_length, LOG_DTYPE)
    log["item"] = [hash64(str(i)) for i in range(log_length)]
    log["time_s"] = _EVENT_MS // 1000 - 60 * np.arange(log_length, 0, -1)
    return ScoringRequest(
        user="u",
        event_ms=_EVENT_MS,
        items=[str(i) for i in range(candidates)],
        item_features=[{}] * candidates,
        log=log,
    )


def measure_tiers(
    config: ModelConfig, compress: Compress, *, candidates: int, log_length: int | None = None, repeats: int = 20
) -> list[TierCost]:
    """Measures each tier of the configuration, cheapest first, with fresh weights on the CPU.

    log_length: events in the log of the request; None: as many as the tier reads. Times are of requests in turn, so
    that a busy moment of the machine meets all tiers alike.
    """
    if candidates < 1 or repeats < 1:
        raise ValueError(f"candidates and repeats must be >= 1, got {candidates} and {repeats}")
    tiers, tables, featurizer = build_tiers(config, compress), PlainTables(config), Featurizer(config)
    for tier in tiers.values():
        tier.requires_grad_(False).eval()
    events = {name: t.config.log_length if log_length is None else log_length for name, t in tiers.items()}
    runs = {name: _scoring(featurizer, tiers, tables, name, candidates, events[name]) for name in tiers}
    times = cpu_times(runs, repeats)
    costs = []
    for name, tier in tiers.items():
        median_ms, p90_ms = (1000 * float(q) for q in np.quantile(times[name], [0.5, 0.9]))
        operations = count_operations(config, tier, tables, log_length=events[name])
        costs.append(TierCost(name, count_parameters(tier), operations, median_ms, p90_ms))
    return costs


def count_operations(config: ModelConfig, tier: Tier, tables: PlainTables, *, log_length: int) -> Operations:
    """Counts the operations of a request with this many events in its log (of which the tier reads the newest)."""
    few, many = _COUNTED_AT
    counts = []
    for candidates in _COUNTED_AT:
        batch = made_up_batch(config, tier, tables, candidates, log_length)
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            tier(batch, tables, None)
        counts.append(counter.get_total_flops())
    candidate = (counts[1] - counts[0]) / (many - few)
    return Operations(request=counts[0] - few * candidate, candidate=candidate)


def linear_operations(tier: Tier, batch: Batch, embedder: Embedder) -> dict[str, int]:
    """Operations of each weight's products with activations, by the parameter's name; of this batch.

    What is left out are products of activations: attention, and X·Xᵀ·Y without its Y.
    """
    with torch.inference_mode(), _WeightProducts(tier) as products:
        tier(batch, embedder, None)
    return dict(products.operations)


def made_up_batch(
    config: ModelConfig, tier: Tier, tables: PlainTables, candidates: int, log_length: int | None = None
) -> Batch:
    """One request of this size; its log as long as the tier reads where log_length is not given."""
    featurizer = Featurizer(config)
    events = tier.config.log_length if log_length is None else log_length
    keyed = featurizer.keys([made_up_request(candidates, events)], events)
    return featurizer.batch(keyed, tables)


def cpu_times(runs: Mapping[str, Callable[[], object]], repeats: int, *, inner: int = 1) -> dict[str, list[float]]:
    """Seconds of this thread's CPU time a call, of each in turn, after a call that is not counted.

    inner: calls between two looks at the clock, for what takes microseconds.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.thread_time()
            for _ in range(inner):
                run()
            times[name].append((time.thread_time() - began) / inner)
    return times


def _scoring(
    featurizer: Featurizer, tiers: Tiers, tables: PlainTables, tier: str, candidates: int, events: int
) -> Callable[[], object]:
    request, length = made_up_request(candidates, events), tiers[tier].config.log_length
    return lambda: predict(featurizer, tiers, tables, tier, featurizer.keys([request], length))


class _WeightProducts(TorchFunctionMode):
    """Counts F.linear and matmul with a parameter of the module, by the parameter's name."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self._names = {id(parameter): name for name, parameter in module.named_parameters()}

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            for weight in args[:2]:
                if id(weight) in self._names:  # [K, I] in both: I is what the product sums over
                    self.operations[self._names[id(weight)]] += 2 * out.numel() * weight.shape[1]
        return out


_PRODUCTS = {torch.nn.functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__}
