"""Models that no machine holds are refused before anything is allocated; the estimate is of the right size."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.linear_compress import bind
from ranker.config import LearnerConfig, ModelConfig, TableConfig, TierConfig
from ranker.engine import Engine
from ranker.inputs import memory
from ranker.inputs.memory import check_memory, group_limit, tier_weights
from ranker.learning.learner import Learner
from ranker.model.tier import count_parameters
from ranker.recipes import demo_model, three_tiers
from ranker.updates.image import build_tiers, new_image

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


def hierarchy(folder: Path, lines: str, limits: dict[str, str]) -> tuple[Path, Path]:
    """A process' own list of control groups, and their tree."""
    for name, limit in limits.items():
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tree" / name).write_text(limit + "\n")
    (folder / "cgroup").write_text(lines)
    return folder / "cgroup", folder / "tree"


@pytest.mark.parametrize(
    ("lines", "limits", "limit"),
    [
        ("0::/\n", {"memory.max": "1000"}, 1000),  # v2, as in a container
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "1000", "memory.max": "2000"}, 1000),
        ("0::/a/b\n", {"a/b/memory.max": "max"}, None),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "1000", "memory.max": "9"}, 9),
        ("4:memory:/host/a\n", {"memory/memory.limit_in_bytes": "1000"}, 1000),  # v1, as in a container
        ("5:cpu:/a\n", {"memory/memory.limit_in_bytes": "1000"}, None),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 9223372036854771712),
        ("nonsense\n0::/\n", {"memory.max": "soon"}, None),
    ],
)
def test_the_limit_of_a_control_group_is_known(
    tmp_path: Path, lines: str, limits: dict[str, str], limit: int | None
) -> None:
    assert group_limit(*hierarchy(tmp_path, lines, limits)) == limit


def test_what_does_not_fit_into_the_control_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_memory(demo_model())
    monkeypatch.setattr(memory, "group_limit", lambda: 2**20)
    with pytest.raises(
        ValueError, match=r"must fit into this machine's 0\.000977 GiB \(the limit of its control group\)"
    ):
        check_memory(demo_model())
