"""What a graph computes, without compiling it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ranker.compiled.graph import TierGraph
from ranker.config import CROSSES, HOUR, ITEM, STATISTICS, TierConfig
from ranker.engine import Engine, impressions
from ranker.inputs.features import Featurizer
from ranker.inputs.requests import ScoringRequest
from tests.ranker.compiled.cases import engine_after, plain_request
from tests.ranker.samples import COMPRESS, request

ENGINE = engine_after()
FEATURIZER = Featurizer(ENGINE.config)


def inputs(graph: TierGraph, *requests: ScoringRequest) -> list[tuple[torch.Tensor, ...]] | None:
    return graph.inputs(FEATURIZER.keys(requests, graph.tier.config.log_length, crossed=False))


@pytest.mark.parametrize("tier", ["light", "heavy"])
@pytest.mark.parametrize(("candidates", "events"), [(2, 2), (3, 4), (50, 8), (7, 30)])
def test_a_graph_gives_what_its_tier_gives(tier: str, candidates: int, events: int) -> None:
    graph, scoring = ENGINE.graph(tier), plain_request(candidates, events)
    given = inputs(graph, scoring)
    assert given is not None
    with torch.inference_mode():
        found, unsure = graph(*given[0])
    assert not unsure
    pctr, pcvr = found.numpy()
    scores = ENGINE.score(tier, [scoring])[0]
    np.testing.assert_allclose(pctr, scores.pctr, rtol=0, atol=1e-6)
    np.testing.assert_allclose(pcvr, scores.pcvr, rtol=0, atol=1e-6)


def test_what_it_does_not_know_is_left_to_the_tier() -> None:
    graph = ENGINE.graph("light")
    assert inputs(graph, request(items=["a", "b"], log=["a", "b"])) is None, "a slot with two values"
    assert inputs(graph, plain_request(1, 3)) is None, "one candidate"
    assert inputs(graph, plain_request(3, 1)) is None, "one event"
    assert inputs(graph, plain_request(3, 0)) is None, "no log"
    assert inputs(graph, plain_request(3, 3), plain_request(3, 1)) is None, "one of two has one event"
    assert inputs(graph, plain_request(3, 3)) is not None


def test_each_request_of_a_batch_gets_its_own() -> None:
    graph, requests = ENGINE.graph("heavy"), [plain_request(5, 4), plain_request(2, 8), plain_request(9, 2)]
    together = inputs(graph, *requests)
    assert together is not None
    for given, request_alone in zip(together, requests, strict=True):
        alone = inputs(graph, request_alone)
        assert alone is not None
        assert [t.shape for t in given] == [t.shape for t in alone[0]]
        assert all(torch.equal(a, b) for a, b in zip(given, alone[0], strict=True))


def test_it_gives_the_impressions_that_are_counted_too() -> None:
    engine = Engine(replace(ENGINE.config, statistics=((ITEM,), ("category", ITEM)), statistic_rows=8), COMPRESS)
    with torch.inference_mode():
        engine.image.tables.weights[STATISTICS].uniform_(0, 1)
    keyed = Featurizer(engine.config).keys([plain_request(9, 8)], 8)
    graph = engine.graph("heavy")
    [given] = graph.inputs(keyed) or []
    with torch.inference_mode():
        found, _ = graph(*given)
    expected = impressions(Featurizer(engine.config), engine.image.tables, engine.config, keyed)
    assert expected is not None
    np.testing.assert_array_equal(found[2], expected)
    np.testing.assert_allclose(found[:2], engine.predict("heavy", keyed), rtol=0, atol=1e-6)


def test_a_model_without_slots_of_users_or_logs_has_graphs_too() -> None:
    slots = tuple(slot for slot in ENGINE.config.slots if slot.side == "candidate")
    tiers = (TierConfig(name="plain", log_length=0, hidden=8),)
    engine = Engine(replace(ENGINE.config, slots=slots, tiers=tiers, evidence=(), crosses=(("category",),)), COMPRESS)
    graph, keyed = engine.graph("plain"), Featurizer(engine.config).keys([plain_request(3, 0)], 0)
    [given] = graph.inputs(keyed) or []
    with torch.inference_mode():
        np.testing.assert_allclose(graph(*given)[0], engine.predict("plain", keyed), rtol=0, atol=1e-6)


@pytest.mark.parametrize("crosses", [(("user",),), (("interests", HOUR), ("user",))])
def test_crosses_without_a_slot_of_candidates_are_every_candidates(crosses: tuple[tuple[str, ...], ...]) -> None:
    engine = Engine(replace(ENGINE.config, crosses=crosses, statistics=((HOUR,),), statistic_rows=8), COMPRESS)
    with torch.inference_mode():
        engine.image.tables.weights[CROSSES].uniform_(-1, 1)
    keyed = Featurizer(engine.config).keys([plain_request(5, 6)], 8)
    [given] = engine.graph("heavy").inputs(keyed) or []
    with torch.inference_mode():
        found, _ = engine.graph("heavy")(*given)
    np.testing.assert_allclose(found, engine.predict("heavy", keyed), rtol=0, atol=1e-6)


def test_a_tier_that_counts_one_event_has_no_graph() -> None:
    tiers = (replace(ENGINE.config.tier("light"), log_length=1, read_length=1),)
    engine = Engine(replace(ENGINE.config, tiers=tiers), COMPRESS)
    assert not engine.graph("light").fits(plain_request(5, 6))
    assert engine.graph("light").inputs(Featurizer(engine.config).keys([plain_request(5, 6)], 1)) is None


def test_a_name_is_of_model_precision_and_tier() -> None:
    from pathlib import Path

    from ranker.compiled.folder import graph_file

    folder = Path("folder")
    names = {
        graph_file(folder, "d1", "light", {}),
        graph_file(folder, "d2", "light", {}),
        graph_file(folder, "d1", "heavy", {}),
        graph_file(folder, "d1", "light", {"heads.user": "bf16"}),
    }
    assert len(names) == 4
    assert graph_file(folder, "d1", "light", {}) == graph_file(folder, "d1", "light", {})


def test_an_engine_tells_the_precision_of_its_layers() -> None:
    engine = Engine(ENGINE.config, COMPRESS)
    engine.use_precision({"heavy": {"stack.readers.0.kv": "bf16"}})
    assert engine.precision == {"heavy": {"stack.readers.0.kv": "bf16"}}
