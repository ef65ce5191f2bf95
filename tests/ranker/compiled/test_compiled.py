"""A compiled graph beside the tier that it was compiled from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ranker.compiled import build as building
from ranker.compiled.build import build, compiler
from ranker.compiled.load import CompiledTier
from ranker.engine import Engine
from ranker.inputs.features import Featurizer
from tests.ranker.compiled.cases import CONFIG, crowd, engine_after, plain_request, updates
from tests.ranker.samples import COMPRESS, at, request

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler here: nothing can be compiled")

TIER = "heavy"


@pytest.fixture(scope="module")
def graph_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "heavy.pt2"
    engine = engine_after()
    build(engine.graph(TIER), inputs(engine, 9, 5), path)
    assert [p.name for p in path.parent.iterdir()] == ["heavy.pt2"], "nothing is left of the building"
    return path


def inputs(engine: Engine, candidates: int, events: int) -> tuple[Tensor, ...]:
    featurizer, graph = Featurizer(CONFIG), engine.graph(TIER)
    keyed = featurizer.keys([plain_request(candidates, events)], CONFIG.tier(TIER).log_length, crossed=False)
    found = graph.inputs(keyed)
    assert found is not None
    return found[0]


def both(path: Path) -> tuple[Engine, Engine]:
    """Two engines of the same weights, the second with the graph."""
    plain, compiled = engine_after(), engine_after()
    compiled.use_compiled(TIER, CompiledTier(compiled.graph(TIER), path))
    return plain, compiled


@pytest.mark.parametrize(("candidates", "events"), [(2, 2), (9, 5), (100, 8), (1000, 3), (1, 5), (9, 1), (9, 0)])
def test_scores_agree_at_any_size(graph_path: Path, candidates: int, events: int) -> None:
    plain, compiled = both(graph_path)
    scoring = plain_request(candidates, events)
    expected, got = plain.score(TIER, [scoring])[0], compiled.score(TIER, [scoring])[0]
    np.testing.assert_allclose(got.pctr, expected.pctr, rtol=0, atol=1e-6)
    np.testing.assert_allclose(got.pcvr, expected.pcvr, rtol=0, atol=1e-6)


def test_requests_of_a_batch_score_as_they_would_alone(graph_path: Path) -> None:
    plain, compiled = both(graph_path)
    requests = [plain_request(5, 4), request(items=["a", "b"], log=["c"]), plain_request(3, 0), plain_request(8, 8)]
    alone = [compiled.score(TIER, [scoring])[0].pctr for scoring in requests]
    for together, expected, one in zip(compiled.score(TIER, requests), plain.score(TIER, requests), alone, strict=True):
        np.testing.assert_array_equal(together.pctr, one)
        np.testing.assert_allclose(together.pctr, expected.pctr, rtol=0, atol=1e-6)


def test_every_weight_is_live(graph_path: Path) -> None:
    """Each weight that the graph reads is changed in place: it must move with it, to the same place."""
    engine = engine_after()
    graph = engine.graph(TIER)
    compiled, given = CompiledTier(graph, graph_path), inputs(engine, 6, 8)
    moved, generator = set(), torch.Generator().manual_seed(0)
    weights = {name: tensor for name, tensor in graph.state_dict().items() if tensor.is_floating_point()}
    with torch.inference_mode():
        for weight in weights.values():  # none is 0, behind which others would not show
            weight.add_(torch.empty(weight.shape).uniform_(0.05, 0.1, generator=generator))
        before, _ = graph(*given)
        for name, weight in weights.items():
            kept = weight.clone()
            weight.add_(torch.linspace(0.1, 0.5, weight.numel()).view_as(weight))
            now, _ = graph(*given)
            torch.testing.assert_close(compiled(given)[0], now, rtol=0, atol=1e-5, msg=name)
            if not torch.equal(now, before):
                moved.add(name)
            weight.copy_(kept)
        torch.testing.assert_close(compiled(given)[0], before, rtol=0, atol=1e-6)
    assert {"tier.heads.out_bias", "tier.calibration", "tables.tables.1.weights", "tier.evidence.bias"} <= moved
    assert len(moved) > 0.8 * len(weights)


def test_updates_are_seen_by_the_next_call(graph_path: Path) -> None:
    plain, compiled = both(graph_path)
    scoring, seen = [plain_request(20, 8)], set()
    assert len(plain.image.tables.key_maps["items"]), "rows of their own, which are looked up"
    assert plain.image.tables.catalogue.entry_RS.any(), "and values that the log is counted by"
    for number, update in enumerate(updates(10)[5:], 6):
        for engine in (plain, compiled):
            engine.apply(update, at(number))
        expected, got = plain.score(TIER, scoring)[0], compiled.score(TIER, scoring)[0]
        np.testing.assert_allclose(got.pctr, expected.pctr, rtol=0, atol=1e-6)
        seen.add(got.pctr.tobytes())
    assert len(seen) == 5, "each update changed something"


def test_what_a_graph_is_not_sure_of_is_scored_by_operators(graph_path: Path) -> None:
    """Many keys whose home is one bucket: an item's may be further from it than the graph looks."""
    plain, compiled = both(graph_path)
    scoring = plain_request(20, 8)
    scoring = replace(scoring, items=[*scoring.items[:-1], "never seen"])
    crowd(plain, compiled, home_of=Featurizer(CONFIG).keys([scoring], 8).slots["item"].keys_T[-1])
    keyed = Featurizer(CONFIG).keys([scoring], 8, crossed=False)
    assert compiled._compiled[TIER].predict(keyed) is None
    np.testing.assert_array_equal(compiled.score(TIER, [scoring])[0].pctr, plain.score(TIER, [scoring])[0].pctr)


def test_what_is_reset_stays_where_the_graph_reads_it(graph_path: Path) -> None:
    plain, compiled = both(graph_path)
    for engine in (plain, compiled):
        engine.image.tables.reset()
    scoring = [plain_request(20, 8)]
    got, expected = compiled.score(TIER, scoring)[0].pctr, plain.score(TIER, scoring)[0].pctr
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_a_file_of_another_graph_is_refused(graph_path: Path, tmp_path: Path) -> None:
    engine = Engine(CONFIG, COMPRESS)
    with pytest.raises(ValueError, match="another graph"):
        CompiledTier(engine.graph("light"), graph_path)  # of one layer, not of two
    garbage = tmp_path / "garbage.pt2"
    garbage.write_bytes(b"no graph")
    with pytest.raises(RuntimeError):
        CompiledTier(engine.graph(TIER), garbage)


class Small(nn.Module):
    """In place of a TierGraph: a weight so small that torch would copy it into the code."""

    sizes, read_length = [{0: "candidates"}], 0

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, *tensors: Tensor) -> Tensor:
        return tensors[0] * self.bias


def test_a_weight_that_would_be_frozen_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(building.SETTINGS, "always_keep_tensor_constants", False)
    with pytest.raises(RuntimeError, match=r"froze weights.*bias"):
        build(Small(), [torch.ones(4, 2)], tmp_path / "small.pt2")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
