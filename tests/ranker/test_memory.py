"""Models that no machine holds are refused before anything is allocated; the estimate is of the right size."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from kernels.linear_compress import bind
from ranker.config import LearnerConfig, ModelConfig, TableConfig, TierConfig
from ranker.engine import Engine
from ranker.image import build_tiers, new_image
from ranker.learner import Learner
from ranker.memory import tier_weights
from ranker.model.tier import count_parameters
from ranker.recipes import demo_model, three_tiers

COMPRESS = bind("decomposed")
TABLES = replace(demo_model(), tables=(TableConfig(name="items", rows=2**34), TableConfig(name="shared")))
DENSE = replace(
    demo_model(), tiers=(TierConfig(name="vast", layers=200, fm_tokens=4_000, fm_rank=4_000, hidden=2**17),)
)


@pytest.mark.parametrize("build", [Engine, new_image, lambda config, _: Learner(config, LearnerConfig(), COMPRESS)])
@pytest.mark.parametrize(("config", "part"), [(TABLES, "table 'items'"), (DENSE, "tier 'vast'")], ids=["rows", "dense"])
def test_what_does_not_fit_is_refused(
    config: ModelConfig, part: str, build: Callable[[ModelConfig, object], object]
) -> None:
    with pytest.raises(ValueError, match=f"must fit into this machine's .* GiB of them for {part}"):
        build(config, COMPRESS)


@pytest.mark.parametrize("model", [demo_model(), three_tiers()], ids=lambda m: m.name)
def test_a_tiers_weights_are_told_within_a_factor_of_two(model: ModelConfig) -> None:
    for name, tier in build_tiers(model, COMPRESS).items():
        assert 0.5 < tier_weights(model.tier(name), model.width) / count_parameters(tier) < 2
