"""A compute budget for this machine: a figure in milliseconds that is scarce on one is plenty on the next."""

import time
from collections.abc import Mapping
from statistics import median

import numpy as np
import torch

from feature_store.events import EVENT_DTYPE
from kernels.linear_compress import bind, choose_impl
from ranker.engine import Engine
from ranker.inputs.requests import ScoringRequest
from ranker.updates.log import Position
from streams.config.recipe import Recipe

CANDIDATES = 100
RUNS = 15
CROWDED = 1.5
"""Compute of a request beside all other workers, over that of the same request alone: caches and clock rates are
shared."""
DEAR_SHARE = 0.3
"""Share of requests that the budget lets the dearest tier score, where the cheapest scores the others."""


def tier_ms(recipe: Recipe) -> dict[str, float]:
    """Median milliseconds of compute for one request of 100 candidates and a full log, by tier, scored here and now."""
    engine = Engine(recipe.model, bind(choose_impl(torch.device("cpu"))))
    # As it was made: what the weights say does not change how long they take.
    image = engine.image
    image.load(image.tensors(), Position(epoch=0, number=0, trainer="", offset=0), watermark_ms=0, offsets={})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the ranking worker does
    try:
        return {tier.name: _median_ms(engine, tier.name, tier.log_length) for tier in recipe.model.tiers}
    finally:
        torch.set_num_threads(threads)


def budget_ms(alone_ms: Mapping[str, float]) -> float:
    """Mean milliseconds a request may take, beside all other workers: of a mix of the cheapest and the dearest tier."""
    cheap, dear = min(alone_ms.values()), max(alone_ms.values())
    return round(CROWDED * (cheap + DEAR_SHARE * (dear - cheap)), 1)


def _median_ms(engine: Engine, tier: str, log_length: int) -> float:
    log = np.zeros(log_length, EVENT_DTYPE)
    log["item"], log["action"] = np.arange(log_length), 1
    items = [f"item-{i}" for i in range(CANDIDATES)]
    request = ScoringRequest(user="u", event_ms=0, items=items, item_features=[{} for _ in items], log=log)
    times = []
    for _ in range(RUNS):
        began = time.thread_time()
        engine.score(tier, [request])
        times.append(1000 * (time.thread_time() - began))
    return median(times)
