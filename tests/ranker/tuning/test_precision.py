"""Low precision where it is worth it: close to float32, refreshed with the weights, refused on another machine."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ranker.engine import Engine
from ranker.model.low_precision import KINDS, Kind, LowPrecisionLinear, candidates, convert
from ranker.model.tier import Tier
from ranker.tuning.held_out import Change, HeldOut
from ranker.tuning.precision import (
    FILE,
    LayerResult,
    Precision,
    choose,
    measure_precision,
    read_precision,
    write_precision,
)
from ranker.updates.image import new_image
from tests.ranker.samples import COMPRESS, at, request, tiny_learner, tiny_model, traffic, update_of

MODEL = tiny_model()
REQUEST = request(items=[f"i{k}" for k in range(30)], log=["i1", "i2", "i3"])


def all_in(tier: Tier, kind: Kind) -> dict[str, Kind]:
    return {path: kind for path, kinds in candidates(tier).items() if kind in kinds}


def built(name: str = "heavy") -> Tier:
    return Tier(MODEL, MODEL.tier(name), compress=COMPRESS).requires_grad_(False).eval()


@pytest.mark.parametrize(("kind", "tolerance"), [("bf16", 0.01), ("int8", 0.03)])
@pytest.mark.parametrize("shape", [(1, 8), (7, 8), (3, 5, 8), (0, 8)])
def test_a_layer_is_close_to_its_own_in_float32(kind: Kind, tolerance: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(8, 24, bias=False).requires_grad_(False), torch.randn(shape)
    x[3:4] = 0  # a row without a scale
    low = LowPrecisionLinear(linear, kind)
    with torch.inference_mode():
        exact, found = linear(x), low(x)
    assert found.dtype == torch.float32
    assert found.shape == exact.shape
    assert (found - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_the_others(kind: Kind) -> None:
    torch.manual_seed(0)
    low = LowPrecisionLinear(nn.Linear(16, 8, bias=False).requires_grad_(False), kind)
    x = torch.randn(5, 16)
    crowded = torch.cat([x, 1000 * torch.randn(20, 16)])
    with torch.inference_mode():
        torch.testing.assert_close(low(crowded)[:5], low(x), rtol=1e-5, atol=1e-6)


def test_the_heads_are_not_offered_and_names_stay() -> None:
    tier = built()
    names = set(tier.state_dict())
    assert not any(path.startswith("heads") for path in candidates(tier))
    weights = {name: p.data_ptr() for name, p in tier.named_parameters()}
    convert(tier, all_in(tier, "int8"))
    assert set(tier.state_dict()) == names
    assert {name: p.data_ptr() for name, p in tier.named_parameters()} == weights
    with pytest.raises(ValueError, match="no such layers"):
        convert(built(), {"heads.item": "int8"})
    with pytest.raises(ValueError, match="no such layers"):
        convert(built(), {"stack.item_layers.0.compress": "int8"})


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_follows_updates_in_low_precision(kind: Kind) -> None:
    """The same scores as of an engine that met the last weights only, at addresses that stay."""
    learner = tiny_learner(MODEL, dense_rate=0.01)
    engine = Engine(MODEL, COMPRESS)
    chosen = {"heavy": all_in(built(), kind)}
    engine.use_precision(chosen)
    addresses = {name: t.data_ptr() for name, t in engine.image.dense.items()}
    engine.apply(update_of(learner, 1), at(1))
    before = engine.score("heavy", [REQUEST])[0].pctr
    for batch in traffic(3, 4):
        learner.learn(batch)
    engine.apply(update_of(learner, 2), at(2))
    after = engine.score("heavy", [REQUEST])[0].pctr
    assert {name: t.data_ptr() for name, t in engine.image.dense.items()} == addresses
    assert np.abs(after - before).max() > 1e-4

    later, full = Engine(MODEL, COMPRESS), Engine(MODEL, COMPRESS)
    for other in (later, full):
        other.image.load(engine.image.tensors(), at(2), watermark_ms=0, offsets={})
    later.use_precision(chosen)
    assert np.array_equal(later.score("heavy", [REQUEST])[0].pctr, after)
    loaded = Engine(MODEL, COMPRESS)
    loaded.use_precision(chosen)
    loaded.image.load(engine.image.tensors(), at(2), watermark_ms=0, offsets={})
    assert np.array_equal(loaded.score("heavy", [REQUEST])[0].pctr, after)
    exact = full.score("heavy", [REQUEST])[0].pctr
    assert not np.array_equal(after, exact)
    np.testing.assert_allclose(after, exact, rtol=0.05)


def result(path: str, kind: Kind, saved: float, loss: float | None) -> LayerResult:
    return LayerResult(path, kind, 100.0, 100.0 - saved, saved > 0, None if loss is None else Change(loss, 0.0))


def test_the_best_saving_per_loss_is_chosen_within_the_budget() -> None:
    layers = [
        result("a", "bf16", 10, 1e-5),
        result("a", "int8", 30, 2e-5),
        result("b", "int8", 50, 1.9e-4),
        result("c", "bf16", 5, -1e-3),
        result("d", "bf16", -20, None),
    ]
    assert choose(layers, 2e-4) == {"c": "bf16", "a": "int8"}
    assert choose(layers, 4e-4) == {"c": "bf16", "a": "int8", "b": "int8"}
    assert choose(layers[-1:], 2e-4) == {}


def test_measuring_chooses_nothing_where_nothing_is_gained() -> None:
    """Layers of width 8 are all overhead: no precision makes a request faster."""
    torch.set_num_threads(1)
    tier, tables = built("light"), new_image(MODEL, COMPRESS).tables
    examples = [example for batch in traffic(1, 10) for example in batch]
    held_out = HeldOut(MODEL, "light", tables, examples)
    before = copy.deepcopy(tier.state_dict())
    found = measure_precision(MODEL, tier, tables, held_out, [REQUEST], max_loss=0.0, repeats=4)
    assert found.chosen == {}
    assert found.change.loss == 0
    assert found.overlap == 1
    assert {(layer.path, layer.kind) for layer in found.layers} == {
        (path, kind) for path, kinds in candidates(tier).items() for kind in kinds
    }
    for layer in found.layers:
        assert (layer.change is not None) == layer.saves
    assert all(torch.equal(t, before[name]) for name, t in tier.state_dict().items())


def test_the_file_says_where_it_holds(tmp_path: Path) -> None:
    root = str(tmp_path / "snapshots")
    assert read_precision(root) is None
    precision = Precision(
        digest="d",
        cpu="A",
        features=("avx512",),
        torch="2",
        max_loss=2e-4,
        layers={"heavy": {"encoder.layers.0.qkv": "int8"}},
    )
    written = write_precision(root, precision)
    assert json.loads(Path(written).read_text())["cpu"] == "A"
    assert read_precision(root) == precision
    assert precision.refusal(digest="d", cpu="A", features=["avx512"]) is None
    for where in ({"digest": "e"}, {"cpu": "B"}, {"features": ["avx2"]}):
        refusal = precision.refusal(**({"digest": "d", "cpu": "A", "features": ["avx512"]} | where))  # type: ignore[arg-type]
        assert refusal is not None
        assert str(next(iter(where.values()))) in refusal
    (tmp_path / "snapshots" / FILE).write_text(json.dumps({"digest": 1}))
    with pytest.raises(ValueError, match="digest"):
        read_precision(root)


def test_unknown_tiers_and_no_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="no tier 'huge'"):
        Engine(MODEL, COMPRESS).use_precision({"huge": {}})
    tier, tables = built("light"), new_image(MODEL, COMPRESS).tables
    examples = [replace(example, tier="light") for batch in traffic(1, 10) for example in batch]
    with pytest.raises(ValueError, match="sample at least one"):
        measure_precision(MODEL, tier, tables, HeldOut(MODEL, "light", tables, examples), [], max_loss=0.0)
