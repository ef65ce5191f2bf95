"""Which tier learns from which responses, and the batch it learns from."""

# B requests, N candidates.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ranker.arrays import I64, U64
from ranker.config import ModelConfig
from ranker.inputs.batch import Batch, PastBatch
from ranker.inputs.features import Featurizer, KeyedBatch, Lookup
from ranker.inputs.hashing import hash64
from ranker.inputs.requests import LabelledRequest
from ranker.learning.tier_batches import PastDraws, TierBatch, tier_batches


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one tier learns from in one step."""

    tier: str
    examples: list[int]
    """Ascending indices into what was given."""
    keyed: KeyedBatch
    batch: Batch
    position_N: Tensor
    click_N: Tensor
    conversion_N: Tensor
    click_emission_N: Tensor
    emission_N: Tensor
    """Both int64, of Emission, of the click and of the conversion examples; NO_EMISSION where there is none."""
    shown_ms_N: I64
    """Event time at which each was looked at, in Unix milliseconds."""
    past: PastBatch | None = None
    """Past pages of the logs, where there are any to learn from."""


def assign_tiers(config: ModelConfig, example: LabelledRequest, dearer_share: float) -> list[str]:
    """The tiers that learn from a response, cheapest first.

    The tier that served it, the cheaper ones (what they cost is small beside it, and without it a tier that the
    router neglects would never recover), and each dearer one for a share of the responses, chosen by hash. A tier that
    is no longer configured counts as the cheapest.
    """
    names = [tier.name for tier in config.tiers]
    served = names.index(example.tier) if example.tier in names else 0
    return names[: served + 1] + [
        name for name in names[served + 1 :] if hash64(f"{name}/{example.response_id}") < dearer_share * 2**64
    ]


def shown_ms(example: LabelledRequest) -> I64:
    """[N]: when each of a response's impressions was looked at, in Unix milliseconds."""
    if example.shown_ms_N is not None:
        return example.shown_ms_N
    return np.full(len(example.click_N), example.request.event_ms)


def past_draws(responses: Sequence[str], pages: int) -> U64:
    """[B, pages]: which past pages each response's log is to give; the same for the same response."""
    drawn = [[hash64(f"past/{page}/{response}") for page in range(pages)] for response in responses]
    return np.array(drawn, np.uint64).reshape(len(responses), pages)


def make_lessons(
    config: ModelConfig,
    featurizer: Featurizer,
    tables: Lookup,
    examples: Sequence[LabelledRequest],
    dearer_share: float,
    past_pages: int = 0,
    began_ms: int = 0,
) -> list[Lesson]:
    """One lesson for each tier that has any example, cheapest first; with past pages from before `began_ms`."""
    names = [assign_tiers(config, example, dearer_share) for example in examples]
    learners = [(tier, [i for i, of in enumerate(names) if tier.name in of]) for tier in config.tiers]
    learners = [(tier, indices) for tier, indices in learners if indices]
    if not learners:
        return []
    draws, log_length = None, max(tier.log_length for tier, _ in learners)
    if past_pages:
        log_length = config.max_log_length  # pages are drawn from all of the log
        draws_BP = past_draws([e.response_id for e in examples], past_pages)
        draws = PastDraws(np.array([e.request.event_ms for e in examples], np.int64), began_ms, draws_BP)
    keyed = featurizer.keys([e.request for e in examples], log_length)
    batches = tier_batches(config, featurizer, tables, keyed, learners, draws)
    return [
        _lesson(tier.name, indices, read, [examples[i] for i in indices])
        for (tier, indices), read in zip(learners, batches, strict=True)
    ]


def served_keys(
    config: ModelConfig, featurizer: Featurizer, examples: Sequence[LabelledRequest]
) -> list[tuple[str, list[int], KeyedBatch]]:
    """Each tier that served any of the examples, which, and their keys. What a tier served that is no longer
    configured counts as the cheapest's."""
    names = [tier.name for tier in config.tiers]
    by_tier: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        by_tier.setdefault(example.tier if example.tier in names else names[0], []).append(i)
    return [
        (tier, indices, featurizer.keys([examples[i].request for i in indices], config.tier(tier).log_length))
        for tier, indices in by_tier.items()
    ]


def _lesson(tier: str, indices: list[int], read: TierBatch, chosen: list[LabelledRequest]) -> Lesson:
    emissions = [e.emissions() for e in chosen]
    return Lesson(
        tier=tier,
        examples=indices,
        keyed=read.keyed,
        batch=read.batch,
        position_N=torch.from_numpy(np.concatenate([e.position_N for e in chosen])),
        click_N=torch.from_numpy(np.concatenate([e.click_N for e in chosen])),
        conversion_N=torch.from_numpy(np.concatenate([e.conversion_N for e in chosen])),
        click_emission_N=torch.from_numpy(np.concatenate([clicks for clicks, _ in emissions])),
        emission_N=torch.from_numpy(np.concatenate([conversions for _, conversions in emissions])),
        shown_ms_N=np.concatenate([shown_ms(e) for e in chosen]),
        past=read.past,
    )
