"""Tables as arrays: what is missing, rare, unseen."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from ranker.tabular.columns import Found, Kind
from ranker.tabular.config import FitConfig
from ranker.tabular.encoding import MISSING, Encoder, learn_encoder
from ranker.tabular.training import build_model

CATEGORY = [Found("c", "categorical", "")]
NUMBER = [Found("x", "numeric", "")]


def learned(values: list[str | None]) -> Encoder:
    return learn_encoder(pa.table({"c": pa.array(values, pa.string())}), CATEGORY, min_count=2, buckets=4)


def rows(encoder: Encoder, values: list[str | None]) -> list[int]:
    return encoder.encode(pa.table({"c": pa.array(values, pa.string())})).rows_NS[:, 0].tolist()


def test_categories_have_rows_by_frequency_and_missing_one_of_its_own() -> None:
    encoder = learned(["b", "a", "b", "a", "b", None, ""])
    assert encoder.categorical[0].vocabulary == ["b", "a"]
    assert rows(encoder, ["b", "a", None, ""]) == [1, 2, MISSING, MISSING]


def test_the_row_of_unseen_categories_is_the_one_that_rare_ones_train() -> None:
    encoder = learned(["a", "a", "once"])
    (table,) = encoder.tables
    shared = table.rows  # the first behind those with a key: a table has rows + tail_rows of them
    assert table.tail_rows == 1
    assert rows(encoder, ["once", "never", "a"]) == [shared, shared, 1]


def test_numbers_are_standardized_and_put_in_buckets_by_quantile() -> None:
    x = np.arange(100, dtype=float)
    encoder = learn_encoder(pa.table({"x": x}), NUMBER, min_count=1, buckets=4)
    data = encoder.encode(pa.table({"x": x}))
    assert data.dense_NF.mean().item() == pytest.approx(0, abs=1e-6)
    assert data.dense_NF.std(correction=0).item() == pytest.approx(1)
    assert torch.bincount(data.rows_NS[:, 0]).tolist() == pytest.approx([0, 25, 25, 25, 25], abs=1)
    beyond = encoder.encode(pa.table({"x": [-1e9, 1e9]}))
    assert beyond.rows_NS[:, 0].tolist() == [1, 4]


def test_a_missing_number_is_zero_and_flagged_by_a_bucket_of_its_own() -> None:
    encoder = learn_encoder(pa.table({"x": [1.0, 2.0, 3.0, None]}), NUMBER, min_count=1, buckets=4)
    data = encoder.encode(pa.table({"x": [None, float("nan"), float("inf"), 2.0]}))
    assert data.dense_NF[:, 0].tolist() == [0, 0, 0, 0]  # 2 is the mean
    assert data.rows_NS[:3, 0].tolist() == [MISSING] * 3
    assert data.rows_NS[3, 0] != MISSING


def test_every_row_fits_its_table() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"c": [f"v{v}" for v in rng.zipf(1.5, 500)], "x": rng.integers(0, 3, 500).astype(float)})
    encoder = learn_encoder(table, CATEGORY + NUMBER, min_count=2, buckets=32)
    data = encoder.encode(table)
    for slot, config in enumerate(encoder.tables):
        assert data.rows_NS[:, slot].max() < config.rows + config.tail_rows


def test_unknown_columns_are_left_aside_and_missing_ones_refused() -> None:
    encoder = learned(["a", "a"])
    assert len(encoder.encode(pa.table({"more": [1], "c": ["a"]}))) == 1
    with pytest.raises(ValueError, match=r"lacks columns \['c'\], which the model was trained on"):
        encoder.encode(pa.table({"more": [1]}))


@pytest.mark.parametrize("kind", ["categorical", "numeric"])
def test_a_column_may_be_named_as_the_buckets_of_another_would_be(kind: Kind) -> None:
    names = ["x", "x (bucket)", "x (bucket) (bucket)"]
    table = pa.table({name: [1.5, 2.5, 1.5, 2.5] for name in names})
    encoder = learn_encoder(table, [*NUMBER, *(Found(name, kind, "") for name in names[1:])], min_count=1, buckets=4)
    slots = [slot.name for slot in encoder.slots]
    assert len(set(slots)) == len(slots) == (4 if kind == "categorical" else 6)
    assert build_model(encoder, FitConfig(), click_prior=0.5).predict(encoder.encode(table)).shape == (4,)
