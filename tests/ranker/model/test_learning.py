"""Tiers learn: from a candidate's and a user's identity, and from the content of the log alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.linear_compress import bind
from ranker.config import LOG, ModelConfig, Slot, TableConfig, TierConfig
from ranker.inputs.batch import Batch, SlotValues
from ranker.model.tier import Tier
from tests.ranker.model.cases import PlainEmbedder, make_batch

ITEMS, TOPICS = 40, 4
TIER = TierConfig(name="learner", log_length=16, read_length=16, hidden=32)
EXACT = replace(TIER, name="exact", form="exact")
GATED = replace(TIER, name="gated", encoder="gated")
MODEL = ModelConfig(
    name="learning",
    slots=(Slot(name="user", side="user", table="users"), Slot(name="item", side="candidate", table="items")),
    tables=(TableConfig(name="items"), TableConfig(name="users")),
    tiers=(TIER,),
    click_prior=1 / TOPICS,
)


def requests(count: int, *, seed: int, signal: str) -> tuple[Batch, Tensor]:
    """Requests of 4 candidates, and the clicks: a user likes one topic, and clicks the items of it.

    Signal "identity": the user's id tells the topic and the log is noise. "log": the id tells nothing, and the log
    holds six items of the topic.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = make_batch([4] * count, [6] * count, seed=seed, model=MODEL, rows=ITEMS)
    user_B, item_N = batch.slots["user"].rows_T, batch.slots["item"].rows_T
    topic_B = user_B % TOPICS if signal == "identity" else torch.randint(TOPICS, (count,), generator=generator)
    if signal == "log":
        liked_E = topic_B.repeat_interleave(6) + TOPICS * torch.randint(
            ITEMS // TOPICS, (6 * count,), generator=generator
        )
        slots = {"user": SlotValues(torch.zeros_like(user_B), None), LOG: replace(batch.slots[LOG], rows_T=liked_E)}
        batch = replace(batch, slots=batch.slots | slots)
    return batch, (item_N % TOPICS == topic_B[batch.request_of_N]).float()


def train(signal: str, *, steps: int, config: TierConfig = TIER) -> tuple[float, float]:
    """Click log loss on fresh requests, before and after."""
    tier, embedder = Tier(MODEL, config, compress=bind("decomposed")), PlainEmbedder(MODEL, ITEMS)
    # Rows meet few of the examples: they learn at a higher rate, as they do in the learner.
    rates: list[dict[str, Any]] = [{"params": embedder.parameters(), "lr": 2e-2}, {"params": tier.parameters()}]
    optimizer = torch.optim.Adam(rates, lr=1e-3)
    held_out, held_out_clicks = requests(200, seed=10_000, signal=signal)

    def loss_of(batch: Batch, clicks: Tensor) -> Tensor:
        logits = tier(batch, embedder, torch.zeros_like(batch.request_of_N))
        return F.binary_cross_entropy_with_logits(logits.click_N, clicks)

    before = loss_of(held_out, held_out_clicks).item()
    for seed in range(steps):
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss_of(*requests(16, seed=seed, signal=signal)))
        optimizer.step()
    return before, loss_of(held_out, held_out_clicks).item()


@pytest.mark.parametrize("config", [TIER, EXACT, GATED], ids=lambda c: c.name)
@pytest.mark.parametrize("signal", ["identity", "log"])
def test_a_tier_learns(signal: str, config: TierConfig) -> None:
    before, after = train(signal, steps=300, config=config)
    assert before == pytest.approx(0.56, abs=0.06)  # the base rate of 1 in 4
    assert after < 0.25
