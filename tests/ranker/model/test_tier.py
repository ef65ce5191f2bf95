"""A tier scores each candidate as if it were alone with its request, and trains whole."""

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.linear_compress import bind
from ranker.config import ModelConfig, Pruned, Slot, TableConfig, TierConfig
from ranker.inputs.batch import Batch
from ranker.model.reader import Grouping
from ranker.model.tier import Logits, Tier, count_parameters
from tests.ranker.model.cases import ALL, EXACT, HEAVY, LIGHT, MODEL, WITH_LOG, PlainEmbedder, make_batch, take

TIERS = pytest.mark.parametrize("config", ALL, ids=lambda c: c.name)


def make_tier(config: TierConfig, model: ModelConfig = MODEL) -> Tier:
    tier = Tier(model, config, compress=bind("decomposed"))
    with torch.no_grad():  # fresh heads are all but equal: let candidates differ, by all that the stacks say
        tier.heads.out_Hh.mul_(30)
        tier.direct.pairs_PU.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.3)
        tier.position.bias_P.normal_(generator=torch.Generator().manual_seed(0))
    return tier


def assert_same(actual: Logits, expected: Logits, index: list[int] | slice = slice(None)) -> None:
    for a, e in [(actual.click_N, expected.click_N), (actual.conversion_N, expected.conversion_N)]:
        torch.testing.assert_close(a, e[index], rtol=1e-4, atol=1e-5)


@TIERS
def test_scores_equal_those_of_each_pair_alone(config: TierConfig) -> None:
    # Logs: empty, shorter than, equal to and longer than what the tier reads; a request without candidates.
    limit = config.log_length
    batch = make_batch([3, 1, 0, 4, 2], [0, 5, 7, limit, limit + 9])
    tier, embedder = make_tier(config), PlainEmbedder()
    together = tier(batch, embedder, None)
    assert together.click_N.std() > 0.1
    owners = batch.request_of_N.tolist()
    alone = [tier(take(batch, [r], [n]), embedder, None) for n, r in enumerate(owners)]
    assert_same(
        together,
        Logits(torch.cat([a.click_N for a in alone]), torch.cat([a.conversion_N for a in alone])),
    )


@TIERS
def test_scores_do_not_depend_on_the_company(config: TierConfig) -> None:
    batch = make_batch([3, 4, 2], [9, 0, 80])
    tier, embedder = make_tier(config), PlainEmbedder()
    scores = tier(batch, embedder, None)
    fewer = [1, 3, 5, 7]
    assert_same(tier(take(batch, [0, 1, 2], fewer), embedder, None), scores, fewer)
    reordered = [8, 7, 2, 0, 1, 6, 5, 4, 3]
    assert_same(tier(take(batch, [2, 0, 1], reordered), embedder, None), scores, reordered)


def user_side(tier: Tier, batch: Batch, embedder: PlainEmbedder) -> Tensor:
    tokens, grouping = tier.tokens(batch, embedder), Grouping.of(batch.request_of_N, batch.num_requests)
    user_BUD: Tensor = tier.stack(tokens.user_BUD, tokens.item_NVD, tier.states(tokens, embedder), grouping)[0]
    return user_BUD


@TIERS
def test_nothing_of_a_candidate_reaches_the_user_side(config: TierConfig) -> None:
    tier, embedder = make_tier(config), PlainEmbedder()
    batch = make_batch([4, 3], [30, 2])
    assert torch.equal(user_side(tier, batch, embedder), user_side(tier, take(batch, [0, 1], [2, 6]), embedder))


@pytest.mark.parametrize("config", WITH_LOG, ids=lambda c: c.name)
def test_only_the_newest_events_are_read(config: TierConfig) -> None:
    tier, embedder = make_tier(config), PlainEmbedder()
    limit = config.log_length
    batch = make_batch([2, 2], [limit + 5, 3])
    lengths = torch.tensor([limit, 3])
    log = batch.slots["log"]
    newest = replace(
        batch,
        slots=batch.slots | {"log": replace(log, rows_T=log.rows_T[5:], lengths=lengths)},
        log_action_E=batch.log_action_E[5:],
        log_surface_E=batch.log_surface_E[5:],
        log_age_E=batch.log_age_E[5:],
        log_value_E=batch.log_value_E[5:],
    )
    assert_same(tier(batch, embedder, None), tier(newest, embedder, None))


@TIERS
def test_gradient_reaches_every_parameter(config: TierConfig) -> None:
    tier, embedder = make_tier(config, replace(MODEL, learns_late=True)), PlainEmbedder()
    if tier.evidence is not None:
        nn.init.ones_(
            tier.evidence.hidden_Hh
        )  # it starts at 0, and what is behind it has no gradient in the first step
    batch = make_batch([3, 0, 5], [20, 4, 0])
    logits = tier(batch, embedder, torch.arange(8))
    assert logits.late_N is not None
    distilled = torch.zeros(()) if logits.distilled_NH is None else logits.distilled_NH.square().sum()
    (logits.click_N.square().sum() + logits.conversion_N.square().sum() + logits.late_N.sum() + distilled).backward()
    for name, parameter in [*tier.named_parameters(), *embedder.named_parameters()]:
        if name == "evidence.bias":
            assert parameter.grad is None, "of past pages alone"
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


class LargestTensor(TorchDispatchMode):
    """Sees every operator's outputs, views included, and keeps the largest size."""

    numel = 0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize("form", ["two_stack", "exact"])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_of_log_or_user_width_is_repeated_for_candidates(
    training: bool, form: Literal["two_stack", "exact"]
) -> None:
    B, C, L = 4, 300, 256
    width, wide = MODEL.width, 400
    config = TierConfig(name="wide", form=form, log_length=L, read_length=L, user_tokens=wide, fm_rank=2, hidden=8)
    model = MODEL
    if form == "exact":  # its user side is as wide as the request has slots; of its pairs, rank numbers a token remain
        more = tuple(Slot(name=f"more {i}", side="user") for i in range(wide))
        model = replace(MODEL, slots=MODEL.slots + more)
    tier, embedder = make_tier(config, model), PlainEmbedder(model)
    batch = make_batch([C] * B, [L] * B, model=model)
    with LargestTensor() as largest, torch.set_grad_enabled(training):
        logits = tier(batch, embedder, None)
        if training:
            logits.click_N.sum().backward()
    # Below one float a (candidate, event) pair, and far below one user token's float a candidate.
    assert form == "exact" or largest.numel < B * C * L
    # (the exact form has rank = 2 numbers a user token and candidate, of its width 16).
    assert largest.numel < B * C * wide * width / (5 if form == "exact" else 10)
    assert largest.numel >= B * (L + 1) * 3 * width  # it did look


def test_no_candidates_and_no_logs() -> None:
    tier, embedder = make_tier(LIGHT), PlainEmbedder()
    assert tier(make_batch([0], [3]), embedder, None).click_N.shape == (0,)
    assert tier(make_batch([0, 0], [3, 0]), embedder, None).click_N.shape == (0,)
    assert tier(make_batch([2, 1], [0, 0]), embedder, None).click_N.isfinite().all()


def test_a_plain_table_of_candidate_columns_is_enough() -> None:
    columns = (Slot(name="a", side="candidate"), Slot(name="b", side="candidate"))
    table = ModelConfig(
        name="table", slots=columns, tables=(TableConfig(name="shared"),), tiers=(LIGHT,), item_table="shared"
    )
    scores = make_tier(LIGHT, table)(make_batch([1] * 5, [0] * 5, model=table), PlainEmbedder(table), None)
    assert scores.click_N.std() > 0


def test_a_pruned_tier_has_the_shapes_it_says() -> None:
    pruned = (Pruned(mlp="stack.item_layers.0.blocks.fm", hidden=5), Pruned(mlp="heads", hidden=7))
    tier, embedder = make_tier(replace(LIGHT, pruned=pruned)), PlainEmbedder()
    shapes = {name: tuple(p.shape) for name, p in tier.named_parameters()}
    assert shapes["stack.item_layers.0.blocks.fm.up.weight"][0] == 5
    assert shapes["stack.item_layers.0.blocks.fm.down.weight"][1] == 5
    assert shapes["heads.out_Hh"] == (2, 7)
    assert shapes["heads.hidden_bias"] == (14,)
    assert tier(make_batch([3], [9]), embedder, None).click_N.isfinite().all()


@pytest.mark.parametrize(
    ("path", "hidden", "message"),
    [
        ("stack.fm", 3, r"tier 'light' has no MLP 'stack.fm' to prune; it has \[.*'heads', .*\]"),
        ("stack", 3, "tier 'light' has no MLP 'stack' to prune"),
        ("", 3, "tier 'light' has no MLP '' to prune"),
        ("heads", 65, "tier 'light': 'heads' has 64 hidden units, cannot keep 65"),
    ],
)
def test_what_the_tier_has_not_cannot_be_pruned(path: str, hidden: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_tier(replace(LIGHT, pruned=(Pruned(mlp=path, hidden=hidden),)))


def test_dropout_is_of_training_alone() -> None:
    tier, embedder, batch = make_tier(replace(EXACT, dropout=0.5)), PlainEmbedder(), make_batch([4], [9])
    position = torch.zeros(4, dtype=torch.int64)
    assert not torch.equal(tier(batch, embedder, position).click_N, tier(batch, embedder, position).click_N)
    tier.eval()
    assert torch.equal(tier(batch, embedder, position).click_N, tier(batch, embedder, position).click_N)


def test_a_fresh_tier_predicts_about_the_prior() -> None:
    model = replace(MODEL, click_prior=0.01, conversion_prior=0.3)
    logits = Tier(model, LIGHT, compress=bind("decomposed"))(make_batch([50], [9]), PlainEmbedder(), None)
    assert 0.004 < torch.sigmoid(logits.click_N).median() < 0.025
    assert 0.15 < torch.sigmoid(logits.conversion_N).median() < 0.5


def test_a_model_without_candidate_slots_is_refused() -> None:
    users_only = replace(MODEL, slots=tuple(s for s in MODEL.slots if s.side != "candidate"), evidence=(), crosses=())
    with pytest.raises(ValueError, match="nothing to rank by"):
        make_tier(LIGHT, users_only)


def test_weights_follow_from_the_configuration_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = Tier(MODEL, LIGHT, compress=bind("decomposed")).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    second = Tier(MODEL, LIGHT, compress=bind("decomposed")).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = Tier(replace(MODEL, seed=1), LIGHT, compress=bind("decomposed")).state_dict()
    assert not torch.equal(first["heads.user.weight"], other["heads.user.weight"])


def test_state_dict_in_place_makes_another_tier_equal() -> None:
    source, replica = make_tier(HEAVY), Tier(replace(MODEL, seed=9), HEAVY, compress=bind("decomposed"))
    source.observe(Logits(torch.ones(2), torch.ones(2)), torch.tensor([0, 3]), torch.zeros(2, 2), torch.ones(2, 2))
    addresses = {name: tensor.data_ptr() for name, tensor in replica.state_dict().items()}
    with torch.no_grad():
        for name, tensor in replica.state_dict().items():
            tensor.copy_(source.state_dict()[name])
    batch, embedder = make_batch([5], [40]), PlainEmbedder()
    assert torch.equal(source(batch, embedder, None).click_N, replica(batch, embedder, None).click_N)
    assert {name: tensor.data_ptr() for name, tensor in replica.state_dict().items()} == addresses


def test_a_heavier_tier_has_more_parameters() -> None:
    light, heavy = (count_parameters(make_tier(replace(LIGHT, layers=n))) for n in (1, 3))
    assert 0 < light < heavy
