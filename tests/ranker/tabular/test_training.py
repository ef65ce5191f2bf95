"""Learning a table: what is learned, when it stops, and that it is the same each time."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from ranker.tabular.columns import find_columns
from ranker.tabular.config import FitConfig
from ranker.tabular.encoding import Encoded, Encoder, learn_encoder
from ranker.tabular.metrics import auc, grade
from ranker.tabular.model import TabularModel, platt
from ranker.tabular.optimizer import RowAdam
from ranker.tabular.tiers import TIERS
from ranker.tabular.training import Epoch, Stopped, build_model, train
from tests.ranker.tabular.tables import clicks, exclusive_or

FAST = FitConfig(batch=128, epochs_max=12, row_rate=1e-2, dense_rate=3e-3)


def encoded(table: pa.Table, encoder: Encoder) -> Encoded:
    return encoder.encode(table, torch.from_numpy(table["click"].to_numpy().astype(np.float32)))


def parts() -> tuple[Encoder, Encoded, Encoded]:
    table = clicks()
    encoder = learn_encoder(table, find_columns(table, label="click"), min_count=2, buckets=16)
    return encoder, encoded(table, encoder), encoded(clicks(1000, seed=1), encoder)


def fitted(config: FitConfig = FAST) -> tuple[TabularModel, list[Epoch], Encoded]:
    encoder, data, valid = parts()
    model = build_model(encoder, config, click_prior=float(data.label_N.mean()))
    return model, train(model, data, valid, config), valid


def test_learns_an_interaction_and_a_number_that_no_line_fits() -> None:
    _, epochs, _ = fitted()
    best = max(epoch.valid.auc or 0 for epoch in epochs)
    assert best > 0.785  # the truth's own is 0.829; without the price 0.770, without the interaction 0.722


@pytest.mark.parametrize("tier", list(TIERS))
def test_a_pure_interaction_is_learned_in_two_epochs_at_the_defaults(tier: str) -> None:
    best, _ = _exclusive_or_auc(FitConfig(tier=TIERS[tier], epochs_max=2))
    assert best > 0.85  # the truth's own is 0.9


def test_what_has_no_interactions_learns_nothing_of_one() -> None:
    best, model = _exclusive_or_auc(FitConfig(epochs_max=2), layers=False)
    assert best < 0.55
    assert not model.tier.heads.out_Hh.any()


def _exclusive_or_auc(config: FitConfig, *, layers: bool = True) -> tuple[float, TabularModel]:
    """The best epoch's, and the model; without `layers`, only the linear path from the columns to the logit."""
    table = exclusive_or()
    encoder = learn_encoder(table, find_columns(table, label="click"), min_count=2, buckets=4)
    model = build_model(encoder, config, click_prior=0.5)
    if not layers:
        model.tier.heads.out_Hh.requires_grad_(False).zero_()
    epochs = train(model, encoded(table, encoder), encoded(exclusive_or(1000, seed=1), encoder), config)
    return max(epoch.valid.auc or 0 for epoch in epochs), model


def test_begins_at_the_mean_label() -> None:
    encoder, data, _ = parts()
    model = build_model(encoder, FAST, click_prior=0.2)
    assert model.predict(data).mean() == pytest.approx(0.2, abs=0.03)


def test_a_tiny_table_is_learned_too() -> None:
    table = pa.table({"side": ["left", "right"] * 20, "click": [0, 1] * 20})
    encoder = learn_encoder(table, find_columns(table, label="click"), min_count=2, buckets=4)
    data = encoded(table, encoder)
    model = build_model(encoder, FAST, click_prior=0.5)
    train(model, data, data, FAST)
    assert model.predict(data)[1] > 0.9 > 0.1 > model.predict(data)[0]


def test_ends_with_the_best_epoch_after_waiting_for_a_better_one() -> None:
    config = replace(FAST, epochs_max=30, patience=1, rate_drops=1, row_rate=0.05)
    model, epochs, valid = fitted(config)
    assert len(epochs) < 30
    assert sorted({epoch.rate for epoch in epochs}) == [config.rate_factor, 1.0]
    best = [epoch for epoch in epochs if epoch.best][-1]
    assert best.number < len(epochs)
    assert grade(valid.label_N.double().numpy(), model.predict(valid)) == best.valid


@pytest.mark.parametrize("epochs_before", [0, 1, 3])
def test_ends_with_the_best_epoch_so_far_where_it_is_stopped(epochs_before: int) -> None:
    encoder, data, valid = parts()
    model = build_model(encoder, FAST, click_prior=0.3)
    ended: list[Epoch] = []

    def stop(rows: int) -> None:
        if len(ended) == epochs_before:
            raise Stopped

    if epochs_before == 0:
        with pytest.raises(Stopped):
            train(model, data, valid, FAST, on_epoch=ended.append, on_rows=stop)
        return
    epochs = train(model, data, valid, FAST, on_epoch=ended.append, on_rows=stop)
    assert epochs == ended
    assert len(epochs) == epochs_before
    best = [epoch for epoch in epochs if epoch.best][-1]
    assert grade(valid.label_N.double().numpy(), model.predict(valid)) == best.valid


def test_the_same_seed_gives_the_same_model_and_leaves_torch_s_generator_alone() -> None:
    config = replace(FAST, epochs_max=1)
    before = torch.get_rng_state()
    first, *_ = fitted(config)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    second, *_ = fitted(config)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_a_row_s_prediction_depends_on_no_other_row() -> None:
    model, _, valid = fitted(replace(FAST, epochs_max=1))
    alone = Encoded(valid.rows_NS[:1], valid.dense_NF[:1], valid.label_N[:1])
    assert model.predict(alone)[0] == pytest.approx(model.predict(valid)[0], rel=1e-5)


def test_a_step_of_row_adam_is_adam_s_on_the_rows_it_touches_and_none_elsewhere() -> None:
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start[[1, 3]].clone())
    optimizer, adam = RowAdam(ours, rate=0.1, l2=0.01), torch.optim.Adam([theirs], lr=0.1, weight_decay=0.01)
    for _ in range(4):
        target = torch.randn(2, 3)
        adam.zero_grad()
        read = F.embedding(torch.tensor([1, 3, 1]), ours, sparse=True)[:2]
        ((read - target).square().sum() + (theirs - target).square().sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        adam.step()
    torch.testing.assert_close(ours[[1, 3]], theirs, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours[[0, 2, 4]], start[[0, 2, 4]])


class TestGrades:
    def test_by_hand(self) -> None:
        assert auc(np.array([0.0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8])) == 3.5 / 4
        found = grade(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
        assert found.logloss == pytest.approx(np.log(2))
        assert found.normalized_entropy == pytest.approx(1)

    def test_one_class_has_no_auc(self) -> None:
        found = grade(np.ones(3), np.full(3, 0.5))
        assert found.auc is None
        assert found.normalized_entropy is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"batch": 0}, "batch"), ({"row_rate": 0.0}, "rates must be > 0"), ({"embedding_l2": -1.0}, "embedding_l2")],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(FAST, **wrong)  # type: ignore[arg-type]


def test_calibration_undoes_what_scaled_and_shifted_the_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    logit = torch.randn(20_000, generator=generator, dtype=torch.float64)
    label = (torch.rand(20_000, generator=generator) < logit.sigmoid()).double()
    scale, shift = platt(3 * logit - 1, label).tolist()
    assert scale == pytest.approx(1 / 3, abs=0.02)
    assert shift == pytest.approx(1 / 3, abs=0.05)


def test_calibration_stays_finite_where_the_labels_can_be_told_apart_and_keeps_the_order() -> None:
    logit = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert platt(logit, torch.tensor([0.0, 1.0], dtype=torch.float64)).isfinite().all()
    assert platt(100 * logit, torch.tensor([1.0, 0.0], dtype=torch.float64))[0] > 0
