"""What it costs to score: processor time and operations of a tier, on one request with a full log."""

import statistics
import time

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from kernels.linear_compress import bind
from ranker.config import ModelConfig
from ranker.inputs.batch import Batch
from ranker.inputs.features import Featurizer
from ranker.inputs.hashing import hash64
from ranker.inputs.requests import LOG_DTYPE, ScoringRequest
from ranker.inputs.tables import PlainTables
from ranker.model.tier import Tier
from ranker.updates.image import build_tiers


def score_ms(model: ModelConfig, name: str, *, candidates: int, repeats: int = 15) -> float:
    """Median processor milliseconds of the forward alone, from rows to logits."""
    tier, tables, batch = _ready(model, name, candidates)
    times = []
    for _ in range(repeats + 2):
        started = time.process_time()
        tier(batch, tables, None)
        times.append(time.process_time() - started)
    return 1000 * statistics.median(times[2:])


def operations(model: ModelConfig, name: str) -> tuple[float, float]:
    """Counts the operations of a request and of each candidate: intercept and slope of floating point operations over
    candidates."""
    counts = []
    for candidates in (10, 110):
        tier, tables, batch = _ready(model, name, candidates)
        with FlopCounterMode(display=False) as counter:
            tier(batch, tables, None)
        counts.append(float(counter.get_total_flops()))
    slope = (counts[1] - counts[0]) / 100
    return counts[0] - 10 * slope, slope


def _ready(model: ModelConfig, name: str, candidates: int) -> tuple[Tier, PlainTables, Batch]:
    tier = build_tiers(model, bind("decomposed"))[name].eval().requires_grad_(False)
    tables = PlainTables(model)
    length = model.tier(name).log_length
    log = np.zeros(length, LOG_DTYPE)
    log["item"], log["action"], log["time_s"] = [hash64(f"i{n % 500}") for n in range(length)], 1, np.arange(length)
    request = ScoringRequest(
        user="u",
        event_ms=3_600_000,
        items=[f"i{n}" for n in range(candidates)],
        item_features=[{} for _ in range(candidates)],
        log=log,
    )
    featurizer = Featurizer(model)
    return tier, tables, featurizer.batch(featurizer.keys([request], length), tables)
