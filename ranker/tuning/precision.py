"""Which layers a machine serves faster in low precision, and what that costs in quality: measured, never assumed.

Each layer is timed alone on inputs that sampled requests give it; where a low precision saves time, the loss of
normalized entropy is measured on labelled traffic with this layer alone changed. Layers are taken by saving per loss
within a budget, and judged again together. Where nothing is gained the set is empty.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np
import torch
from fsspec.core import url_to_fs
from torch import nn

from ranker.arrays import F32, F64
from ranker.config import ModelConfig, TierConfig
from ranker.engine import predict
from ranker.inputs.features import Featurizer, KeyedBatch
from ranker.inputs.requests import ScoringRequest
from ranker.inputs.tables import PlainTables
from ranker.model.low_precision import KINDS, Kind, candidates, convert, layer_at, refresh_all
from ranker.model.tier import Tier
from ranker.tuning.cost import cpu_times
from ranker.tuning.held_out import Change, HeldOut, compare

FILE = "precision.json"
TOP_K = 20
_TIMED = 4
"""Requests that are scored while the clock runs, and whose inputs layers are timed on."""
_INNER_S = 2e-4
"""Seconds of work between two looks at the clock, at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """The chosen set, and where it holds."""

    digest: str
    """Digest of the model's configuration."""
    cpu: str
    features: tuple[str, ...]
    """Features of the CPU."""
    torch: str
    max_loss: float
    layers: dict[str, dict[str, Kind]]
    """Precision of each chosen layer, by tier and path."""

    def refusal(self, *, digest: str, cpu: str, features: Sequence[str]) -> str | None:
        """Why it must not be used here; None where it may."""
        if self.digest != digest:
            return f"it was measured with model {self.digest}, this is {digest}"
        if (self.cpu, self.features) != (cpu, tuple(features)):
            return f"it was measured on {self.cpu} {list(self.features)}, this is {cpu} {list(features)}"
        return None


@dataclass(frozen=True, slots=True)
class LayerResult:
    path: str
    kind: Kind
    full_us: float
    low_us: float
    """Median CPU time of the layer per request, in float32 and in this precision."""
    saves: bool
    """Whether it saves time: in three of four pairs of repeats at least."""
    change: Change | None
    """Change of the loss, with this layer alone changed; None where no time is saved."""


@dataclass(frozen=True, slots=True)
class TierResult:
    tier: str
    layers: list[LayerResult]
    chosen: dict[str, Kind]
    change: Change
    """Change of the loss, with all that is chosen together."""
    entropy: float
    """Normalized, in float32."""
    full_ms: float
    low_ms: float
    """Median CPU time of a request, in float32 and with all that is chosen."""
    refresh_ms: float
    """CPU time that an update of the weights costs more."""
    overlap: float
    """Share of a request's TOP_K candidates by click probability that stay, on average."""
    dropped: list[dict[str, Kind]] = field(default_factory=list)
    """Larger sets that lost too much together, or saved nothing."""


def measure_precision(
    config: ModelConfig,
    tier: Tier,
    tables: PlainTables,
    held_out: HeldOut,
    requests: Sequence[ScoringRequest],
    *,
    max_loss: float,
    repeats: int = 15,
) -> TierResult:
    """The tier itself is left as it is. Raises ValueError without requests."""
    if not requests:
        raise ValueError("precision is timed on requests: sample at least one")
    full = copy.deepcopy(tier).requires_grad_(False).eval()
    scoring = _Scoring(config, tables, full.config, requests)
    before = held_out.losses(full)
    layers = [
        result if not result.saves else replace(result, change=_alone(full, result, held_out, before))
        for result in time_layers(full, scoring.timed, scoring.timed_requests, repeats=repeats)
    ]
    chosen, dropped = choose(layers, max_loss), list[dict[str, Kind]]()
    while True:
        low = copy.deepcopy(full)
        made = convert(low, chosen)
        change = compare(before, held_out.losses(low))
        times = cpu_times({"full": partial(scoring.timed, full), "low": partial(scoring.timed, low)}, repeats)
        full_ms, low_ms = (1000 * float(np.median(seconds)) / scoring.timed_requests for seconds in times.values())
        if not chosen or (change.loss <= max_loss and _saves(times["full"], times["low"])):
            break
        dropped.append(chosen)
        chosen = dict(list(chosen.items())[:-1])
    refresh = cpu_times({"refresh": partial(refresh_all, made)}, repeats)["refresh"]
    return TierResult(
        tier=full.config.name,
        layers=layers,
        chosen=chosen,
        change=change,
        entropy=held_out.normalized_entropy(before),
        full_ms=full_ms,
        low_ms=low_ms,
        refresh_ms=1000 * float(np.median(refresh)),
        overlap=_overlap(scoring.all(full), scoring.all(low)),
        dropped=dropped,
    )


def choose(layers: Sequence[LayerResult], max_loss: float) -> dict[str, Kind]:
    """Chooses by saving per loss, best first, while the losses add up to the budget; a layer has one precision.

    A loss below a hundredth of the budget counts as that: it is noise, and no reason to prefer a layer.
    """

    def worth(result: LayerResult) -> float:
        return (result.full_us - result.low_us) / _counted(result, max_loss)

    chosen: dict[str, Kind] = {}
    spent = 0.0
    for result in sorted((r for r in layers if r.saves and r.change is not None), key=worth, reverse=True):
        loss = _counted(result, max_loss)
        if result.path not in chosen and spent + loss <= max_loss:
            chosen[result.path] = result.kind
            spent += loss
    return chosen


def _counted(result: LayerResult, max_loss: float) -> float:
    assert result.change is not None
    return max(result.change.loss, max_loss / 100, 1e-12)


class _Scoring:
    """Sampled requests as variants of a tier score them, one at a time."""

    def __init__(
        self, config: ModelConfig, tables: PlainTables, tier: TierConfig, requests: Sequence[ScoringRequest]
    ) -> None:
        self._featurizer, self._tables, self._name = Featurizer(config), tables, tier.name
        self._keyed = [self._featurizer.keys([request], tier.log_length) for request in requests]
        self.timed_requests = min(_TIMED, len(requests))

    def all(self, variant: Tier) -> list[F32]:
        """Click probabilities of each request's candidates."""
        return [self._score(variant, keyed) for keyed in self._keyed]

    def timed(self, variant: Tier) -> None:
        for keyed in self._keyed[: self.timed_requests]:
            self._score(variant, keyed)

    def _score(self, variant: Tier, keyed: KeyedBatch) -> F32:
        return predict(self._featurizer, {self._name: variant}, self._tables, self._name, keyed)[0]


def time_layers(tier: Tier, score: Callable[[Tier], object], requests: int, *, repeats: int) -> list[LayerResult]:
    """Times each layer on what it is given while `score` scores that many requests, in turn with itself in low
    precision."""
    possible = candidates(tier)
    inputs = _inputs(tier, list(possible), score)
    low = {kind: copy.deepcopy(tier) for kind in KINDS}
    for kind, variant in low.items():
        convert(variant, {path: kind for path, kinds in possible.items() if kind in kinds})
    results = []
    for path, kinds in possible.items():
        runs = {"full": partial(_run, layer_at(tier, path), inputs[path])}
        runs |= {kind: partial(_run, layer_at(low[kind], path), inputs[path]) for kind in kinds}
        (once,) = cpu_times({"full": runs["full"]}, 1)["full"]
        with torch.inference_mode():
            times = cpu_times(runs, repeats, inner=max(1, round(_INNER_S / max(once, 1e-7))))
        for kind in kinds:
            pair = times["full"], times[kind]
            full_us, low_us = (1e6 * float(np.median(seconds)) / requests for seconds in pair)
            results.append(LayerResult(path, kind, full_us, low_us, _saves(*pair), None))
    return results


def _saves(full: Sequence[float], low: Sequence[float]) -> bool:
    """Whether time is saved in three of four pairs at least: a busy machine must not decide."""
    return float(np.quantile(np.subtract(full, low), 0.25)) > 0


def _inputs(tier: Tier, paths: Sequence[str], score: Callable[[Tier], object]) -> dict[str, list[tuple[Any, ...]]]:
    watched = copy.deepcopy(tier)
    inputs: dict[str, list[tuple[Any, ...]]] = {path: [] for path in paths}
    for path, kept in inputs.items():
        parent, _, name = path.rpartition(".")
        layer = layer_at(watched, path)
        if isinstance(layer, nn.Module):
            layer.register_forward_pre_hook(partial(_keep, kept))
        else:
            setattr(watched.get_submodule(parent), name, partial(_call_and_keep, kept, layer))
    score(watched)
    return inputs


def _keep(kept: list[tuple[Any, ...]], module: nn.Module, args: tuple[Any, ...]) -> None:
    kept.append(args)


def _call_and_keep(kept: list[tuple[Any, ...]], layer: Callable[..., Any], *args: Any) -> Any:
    kept.append(args)
    return layer(*args)


def _run(layer: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> None:
    for args in inputs:
        layer(*args)


def _alone(tier: Tier, result: LayerResult, held_out: HeldOut, before: F64) -> Change:
    variant = copy.deepcopy(tier)
    convert(variant, {result.path: result.kind})
    return compare(before, held_out.losses(variant))


def _overlap(full: Sequence[F32], low: Sequence[F32]) -> float:
    """Returns the mean share over requests with more than TOP_K candidates; 1 where there are none."""
    shares = [
        len(np.intersect1d(np.argsort(-a)[:TOP_K], np.argsort(-b)[:TOP_K])) / TOP_K
        for a, b in zip(full, low, strict=True)
        if len(a) > TOP_K
    ]
    return float(np.mean(shares)) if shares else 1.0


def write_precision(root: str, precision: Precision) -> str:
    """Write it beside the snapshots at `root`, which may be any fsspec URL; returns where."""
    fs, path = url_to_fs(root)
    fs.makedirs(path, exist_ok=True)
    fs.pipe_file(f"{path}/{FILE}", msgspec.json.format(msgspec.json.encode(precision)))
    return f"{root.rstrip('/')}/{FILE}"


def read_precision(root: str) -> Precision | None:
    """None where there is none. Raises ValueError for a file that is not one."""
    fs, path = url_to_fs(root)
    try:
        return msgspec.json.decode(fs.cat_file(f"{path.rstrip('/')}/{FILE}"), type=Precision)
    except FileNotFoundError:
        return None
