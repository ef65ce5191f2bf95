"""Operations are counted by running a tier: they add up by hand, and grow linearly with the candidates."""

from dataclasses import replace

import pytest
import torch

from kernels.linear_compress import bind
from ranker.config import ModelConfig, TierConfig
from ranker.inputs.tables import PlainTables
from ranker.model.mlp import Mlp
from ranker.model.tier import Tier
from ranker.tuning.cost import count_operations, linear_operations, made_up_batch, measure_tiers
from tests.ranker.samples import tiny_model

COMPRESS = bind("decomposed")
FORMS = [
    TierConfig(name="two", layers=2, read_length=64),
    TierConfig(name="exact", form="exact", layers=2, encoder="gated", read_length=64),
]


def built(config: TierConfig) -> tuple[ModelConfig, Tier, PlainTables]:
    model = replace(tiny_model(), tiers=(config,))
    return model, Tier(model, config, compress=COMPRESS).eval(), PlainTables(model)


@pytest.mark.parametrize("config", FORMS, ids=lambda c: c.name)
def test_operations_are_linear_in_the_candidates(config: TierConfig) -> None:
    model, tier, tables = built(config)
    batches = [made_up_batch(model, tier, tables, n, 30) for n in (7, 100)]
    linear = [sum(linear_operations(tier, batch, tables).values()) for batch in batches]
    operations = count_operations(model, tier, tables, log_length=30)
    assert operations.request > 0
    assert operations.candidate > 0
    # What weights do is a part of all that is done, on either side.
    slope = (linear[1] - linear[0]) / 93
    assert 0 < slope < operations.candidate
    assert 0 < linear[0] - 7 * slope < operations.request
    assert operations.executed(100) == pytest.approx(operations.request / 100 + operations.candidate)
    assert operations.model_equivalent == operations.executed(1)


def test_a_weight_counts_two_operations_for_each_row_it_meets() -> None:
    model, tier, tables = built(FORMS[0])
    counts = linear_operations(tier, made_up_batch(model, tier, tables, 9, 30), tables)
    for name, module in tier.named_modules():
        if isinstance(module, Mlp) and "item_layers" in name:
            assert counts[f"{name}.up.weight"] == 2 * 9 * module.up.weight.numel()
    assert counts["heads.item.weight"] == 2 * 9 * tier.heads.item.weight.numel()
    assert counts["heads.user.weight"] == 2 * tier.heads.user.weight.numel()
    assert counts["encoder.layers.0.qkv.weight"] == 2 * 31 * 3 * model.width**2  # 30 events and the request's token


def test_attention_is_counted() -> None:
    """Doubling the log more than doubles the encoder's part: scores grow with its square."""
    model, tier, tables = built(TierConfig(name="long", log_length=400, read_length=400))
    counts = [count_operations(model, tier, tables, log_length=n).request for n in (100, 200, 400)]
    assert counts[2] - counts[1] > 2.5 * (counts[1] - counts[0])


def test_a_dearer_tier_costs_more() -> None:
    torch.set_num_threads(1)
    light, heavy = measure_tiers(tiny_model(), COMPRESS, candidates=50, repeats=5)
    assert (light.tier, heavy.tier) == ("light", "heavy")
    assert light.operations.executed(50) < heavy.operations.executed(50)
    assert light.parameters < heavy.parameters
    assert 0 < light.median_ms <= light.p90_ms


def test_measuring_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="candidates and repeats must be >= 1, got 0"):
        measure_tiers(tiny_model(), COMPRESS, candidates=0)
