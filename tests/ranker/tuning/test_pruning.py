"""Units that contribute nothing go, exactly those, and nobody sees a difference; a learner and an engine go on."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from ranker.config import LearnerConfig, ModelConfig, TierConfig
from ranker.engine import Engine, predict
from ranker.inputs.features import Featurizer
from ranker.inputs.requests import LabelledRequest
from ranker.inputs.tables import PlainTables
from ranker.learning.learner import Learner
from ranker.learning.state import restore, training_state
from ranker.model.encoder import SoftmaxLayer
from ranker.model.mlp import Mlp
from ranker.model.prune import hidden_units
from ranker.model.reader import StateReader
from ranker.model.tier import Tier
from ranker.model.wukong import Blocks
from ranker.snapshots.snapshot import list_snapshots, load_image, load_training_state, write_snapshot
from ranker.tuning.held_out import HeldOut, compare
from ranker.tuning.pruning import Pruning, prune, pruned_model, pruned_state
from ranker.tuning.pruning_options import PruningOptions
from ranker.updates.image import Image, new_image
from tests.ranker.samples import COMPRESS, at, tiny_learner, tiny_model, traffic, update_of

FM = "stack.item_layers.0.blocks.fm"
TIERS = [
    TierConfig(name="light", log_length=8, read_length=8, hidden=12, user_tokens=4, distilled=True),
    TierConfig(name="light", form="exact", layers=2, log_length=8, read_length=8, hidden=12, attentive=True),
]


def model_of(tier: TierConfig) -> ModelConfig:
    """Where there is one auxiliary head there is the other. No evidence: its token silences what random weights say."""
    return replace(tiny_model(evidence=()), tiers=(tier,), learns_late=tier.distilled)


def examples(seed: int, batches: int = 40) -> list[LabelledRequest]:
    return [replace(example, tier="light") for batch in traffic(seed, batches) for example in batch]


def as_predicted(
    config: ModelConfig, tier: Tier, tables: PlainTables, some: list[LabelledRequest]
) -> list[LabelledRequest]:
    """The same responses, their labels what the tier predicts: nothing else predicts them as well."""
    featurizer = Featurizer(config)
    keyed = featurizer.keys([e.request for e in some], tier.config.log_length)
    pctr_N, pcvr_N = predict(featurizer, {"light": tier}, tables, "light", keyed)
    ends = np.cumsum([len(e.request.items) for e in some])[:-1]
    parts = zip(some, np.split(pctr_N, ends), np.split(pcvr_N, ends), strict=True)
    return [replace(e, click_N=click, conversion_N=conversion) for e, click, conversion in parts]


def learned(config: ModelConfig, steps: int = 15) -> tuple[Tier, PlainTables, Learner]:
    learner = tiny_learner(config, dense_rate=0.01)
    image = new_image(config, COMPRESS)
    for batch in traffic(5, steps):
        learner.learn(batch)
    image.apply(update_of(learner, 1), at(1))
    return learner.tiers["light"].eval(), image.tables, learner


def kill(module: Mlp, dead: list[int]) -> None:
    with torch.no_grad():
        module.up.weight[dead] = 0


def same_twice(module: Mlp, unit: int, twin: int) -> None:
    """`twin` says what `unit` says, three times as loud."""
    with torch.no_grad():
        module.up.weight[twin] = 3 * module.up.weight[unit]


def drawn(config: TierConfig) -> tuple[ModelConfig, Tier, PlainTables]:
    """A tier of random weights in which a unit matters. Of other seeds the twins may be among the silent."""
    model = replace(model_of(config), seed=11)
    tier = Tier(model, config, compress=COMPRESS).eval()
    with torch.no_grad():
        tier.heads.out_Hh.mul_(20)
        for module in tier.modules():
            if isinstance(module, Blocks):
                module.fm.down.weight.mul_(100)
            elif isinstance(module, StateReader):
                module.out.weight.mul_(30)
            elif isinstance(module, SoftmaxLayer):
                module.mlp.down.weight.mul_(10)
    return model, tier, PlainTables(model)


def silent(tier: Tier, path: str, held_out: HeldOut) -> set[int]:
    """Units of an Mlp that are never above zero, or never by more than a fiftieth of the loudest one."""
    seen: list[torch.Tensor] = []
    handle = (
        tier.get_submodule(path)
        .get_submodule("up")
        .register_forward_hook(lambda module, args, out: seen.append(out.flatten(0, -2).amax(0)))
    )
    held_out.losses(tier)
    handle.remove()
    loudest = torch.stack(seen).amax(0)
    return set((loudest <= loudest.max() / 50).nonzero().flatten().tolist())


@pytest.mark.parametrize("config", TIERS, ids=lambda c: c.form)
def test_dead_and_repeated_units_go_and_no_others(config: TierConfig) -> None:
    model, tier, tables = drawn(config)
    paths = (FM if config.form == "two_stack" else "stack.layers.1.blocks.fm", "encoder.layers.0.mlp")
    fm, encoder = (tier.get_submodule(path) for path in paths)
    assert isinstance(fm, Mlp)
    assert isinstance(encoder, Mlp)
    kill(fm, [2, 7])
    same_twice(fm, 1, 9)
    kill(encoder, [0])
    with torch.no_grad():  # a head's unit is dead if nothing reads it; each head has its own
        tier.heads.out_Hh[0, 3] = tier.heads.out_Hh[1, 8] = 0
    measured = HeldOut(model, "light", tables, examples(1))
    held_out = HeldOut(model, "light", tables, as_predicted(model, tier, tables, examples(2)))
    pruning = prune(model, tier, measured, held_out, PruningOptions(max_loss=1e-6, step=1e-6, smallest_step=0))

    gone_fm, gone_encoder = (set(range(12)) - set(pruning.units[path].tolist()) for path in paths)
    assert {2, 7} <= gone_fm
    assert gone_fm - silent(tier, paths[0], measured) in ({1}, {9})
    assert 0 in gone_encoder
    assert gone_encoder <= silent(tier, paths[1], measured)
    assert 3 not in pruning.units["heads"][0]
    assert 8 not in pruning.units["heads"][1]
    np.testing.assert_allclose(held_out.losses(pruning.tier), held_out.losses(tier), rtol=0.02)
    assert abs(pruning.change.loss) <= 1e-6
    assert hidden_units(fm) == 12  # the tier that was given is as it was


def pruned_to(config: ModelConfig, share: float) -> tuple[Pruning, Learner, PlainTables]:
    tier, tables, learner = learned(config)
    measured = HeldOut(config, "light", tables, examples(1))
    held_out = HeldOut(config, "light", tables, examples(2))
    options = PruningOptions(max_loss=1.0, target=share, candidates=20)
    return prune(config, tier, measured, held_out, options), learner, tables


@pytest.mark.parametrize("config", TIERS, ids=lambda c: c.form)
def test_a_target_is_reached_and_travels_in_the_digest(config: TierConfig) -> None:
    model = model_of(config)
    pruning, _, _ = pruned_to(model, 0.2)
    assert 0.7 < pruning.operations <= 0.8
    assert [r.taken for r in pruning.rounds] == [True] * len(pruning.rounds)
    smaller = pruned_model(model, pruning.tier.config)
    assert smaller.digest != model.digest
    built = Tier(smaller, smaller.tier("light"), compress=COMPRESS)
    assert {n: p.shape for n, p in built.state_dict().items()} == {
        n: p.shape for n, p in pruning.tier.state_dict().items()
    }


def test_what_is_pruned_is_pruned_again() -> None:
    model = model_of(TIERS[0])
    first, _, tables = pruned_to(model, 0.1)
    smaller = pruned_model(model, first.tier.config)
    measured, held_out = (HeldOut(smaller, "light", tables, examples(seed)) for seed in (1, 2))
    second = prune(smaller, first.tier, measured, held_out, PruningOptions(max_loss=1.0, target=0.1, candidates=20))
    again = pruned_model(smaller, second.tier.config)
    Tier(again, again.tier("light"), compress=COMPRESS).load_state_dict(second.tier.state_dict())
    assert {p.mlp for p in first.tier.config.pruned} <= {p.mlp for p in again.tier("light").pruned}


def test_a_loss_past_the_budget_is_taken_back() -> None:
    model, tier, tables = drawn(TIERS[0])
    held_out = HeldOut(model, "light", tables, as_predicted(model, tier, tables, examples(2)))
    options = PruningOptions(max_loss=2e-4, step=0.3, smallest_step=0.02)
    pruning = prune(model, tier, HeldOut(model, "light", tables, examples(1)), held_out, options)
    assert not all(r.taken for r in pruning.rounds)
    assert pruning.change.loss <= 2e-4
    assert compare(held_out.losses(tier), held_out.losses(pruning.tier)) == pruning.change


def test_a_pruned_snapshot_serves_and_learns_on(tmp_path: object) -> None:
    model = model_of(TIERS[0])
    pruning, learner, tables = pruned_to(model, 0.2)
    smaller = pruned_model(model, pruning.tier.config)
    state = pruned_state(training_state(learner), model, pruning, COMPRESS)
    again = Learner(smaller, LearnerConfig(), COMPRESS)
    restore(again, state)
    path = next(path for path in pruning.units if path != "heads")
    old, new = (x.adam.state[x.parameters[f"light/{path}.up.weight"]]["exp_avg"] for x in (learner, again))
    assert torch.equal(new, old[pruning.units[path]])

    image = new_image(smaller, COMPRESS)
    image.load(_image_of(learner, model, again), at(7), watermark_ms=1, offsets={"0": 3})
    write_snapshot(str(tmp_path), image, training_state(again), digest=smaller.digest, created_ms=1)
    (snapshot,) = list_snapshots(str(tmp_path), smaller.digest)
    engine = Engine(smaller, COMPRESS)
    load_image(snapshot, engine.image)
    request = examples(3)[0].request
    scored = engine.score("light", [request])[0]
    keyed = Featurizer(model).keys([request], TIERS[0].log_length)
    expected = predict(Featurizer(model), {"light": pruning.tier}, tables, "light", keyed)[0]
    np.testing.assert_allclose(scored.pctr, expected, atol=1e-5)

    restore(learner_after := Learner(smaller, LearnerConfig(), COMPRESS), load_training_state(snapshot))
    before = copy.deepcopy(learner_after.tiers["light"].state_dict())
    assert learner_after.learn(traffic(9, 1)[0]).applied
    assert not torch.equal(before["heads.item.weight"], learner_after.tiers["light"].state_dict()["heads.item.weight"])


def _image_of(learner: Learner, model: ModelConfig, pruned: Learner) -> dict[str, torch.Tensor]:
    """The learner's tables beside the pruned tier."""
    image: Image = new_image(model, COMPRESS)
    learner.mark_all()
    image.apply(update_of(learner, 1), at(1))
    tensors = {name: t for name, t in image.tensors().items() if not name.startswith("dense/")}
    return tensors | {f"dense/light/{n}": t for n, t in pruned.tiers["light"].state_dict().items()}
