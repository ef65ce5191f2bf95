"""What a tier reads of requests that all tiers share is what it would read if they were made for it alone."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ranker.config import ModelConfig
from ranker.inputs.batch import Batch, PastBatch, SlotValues
from ranker.inputs.evidence import COUNTS
from ranker.inputs.features import Featurizer
from ranker.inputs.requests import ScoringRequest
from ranker.learning.lessons import past_draws
from ranker.learning.tier_batches import PastDraws, TierBatch, tier_batches
from tests.ranker.inputs.test_evidence import CONFIG, drawn, tables
from tests.ranker.samples import EVENT_MS

LIGHT, HEAVY = CONFIG.tiers
LONG = 60
"""Events of a log, more than any tier counts."""


def three_tiers() -> ModelConfig:
    """With log lengths that do not ascend, and one of none."""
    tiers = (
        replace(LIGHT, name="light", log_length=20),
        replace(HEAVY, name="heavy", log_length=40),
        replace(LIGHT, name="blind", log_length=0, read_length=0),
    )
    return replace(CONFIG, tiers=tiers)


def asked(rng: np.random.Generator) -> list[ScoringRequest]:
    """Requests with logs of all lengths, some without any candidate, and users with several interests or none."""
    found = []
    for n, (events, candidates) in enumerate([(LONG, 3), (0, 2), (30, 0), (41, 4), (7, 1)]):
        request = replace(drawn(rng, events, candidates), event_ms=EVENT_MS + 1000 * n)
        found.append(replace(request, user=f"u{n}", features={"interests": ["x", "y", "z"][: n % 4], "age": float(n)}))
    return found


def read_together(config: ModelConfig, requests: list[ScoringRequest], learners: list[list[int]]) -> list[TierBatch]:
    featurizer = Featurizer(config)
    event_ms_B = np.array([r.event_ms for r in requests], np.int64)
    draws = PastDraws(event_ms_B, EVENT_MS, past_draws([f"r{r.user}" for r in requests], 3))
    keyed = featurizer.keys(requests, LONG)
    return tier_batches(config, featurizer, tables(), keyed, list(zip(config.tiers, learners, strict=True)), draws)


def tensors_of(batch: Batch | PastBatch) -> dict[str, Tensor | int]:
    found: dict[str, Tensor | int] = {}
    slots = batch.slots if isinstance(batch, Batch) else {"crosses": batch.crosses}
    for name, values in slots.items():
        if isinstance(values, SlotValues):
            found[f"{name}/rows"] = values.rows_T
            if values.lengths is not None:
                found[f"{name}/lengths"] = values.lengths
    others = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name not in ("slots", "crosses")}
    return found | {name: value for name, value in others.items() if value is not None}


def assert_alike(found: Batch | PastBatch, wanted: Batch | PastBatch) -> None:
    one, other = tensors_of(found), tensors_of(wanted)
    assert one.keys() == other.keys()
    for name, value in other.items():
        if isinstance(value, int):
            assert one[name] == value, name
        else:
            torch.testing.assert_close(one[name], value, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_a_part_is_what_would_be_made_alone(seed: int) -> None:
    config, rng = three_tiers(), np.random.default_rng(seed)
    requests, featurizer = asked(rng), Featurizer(config)
    learners = [[0, 1, 2, 3, 4], [0, 3], [1, 2, 4]]
    for tier, indices, read in zip(config.tiers, learners, read_together(config, requests, learners), strict=True):
        keyed = featurizer.keys([requests[i] for i in indices], tier.log_length)
        for name, slot in keyed.slots.items():
            assert read.keyed.slots[name].keys_T.tolist() == slot.keys_T.tolist(), name
        assert_alike(read.batch, featurizer.batch(keyed, tables()))


@pytest.mark.parametrize("seed", range(3))
def test_so_are_past_pages(seed: int) -> None:
    config, rng = three_tiers(), np.random.default_rng(10 + seed)
    requests = asked(rng)
    learners = [[0, 1, 2, 3, 4], [0, 3], [1, 2, 4]]
    light, heavy, blind = read_together(config, requests, learners)
    assert blind.past is None
    for n, (read, indices) in enumerate(((light, learners[0]), (heavy, learners[1]))):
        alone = replace(config, tiers=(config.tiers[n],))
        [wanted] = read_together(alone, [requests[i] for i in indices], [list(range(len(indices)))])
        assert read.past is not None
        assert wanted.past is not None
        assert len(wanted.past.click_M)
        assert (wanted.past.evidence_MSC[..., :COUNTS] > 0).any()
        assert_alike(read.past, wanted.past)
