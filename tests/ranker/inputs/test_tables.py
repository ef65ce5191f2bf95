import fbgemm_gpu  # noqa: F401  registers torch.ops.fbgemm
import numpy as np
import pytest
import torch

from ranker.config import CROSSES, LOG
from ranker.inputs.batch import SlotValues
from ranker.inputs.tables import PlainTables, initial_weights
from ranker.learning.adagrad import EPSILON, rowwise_adagrad
from ranker.learning.torchrec_tables import TorchRecTables
from ranker.learning.trained_tables import TrainedTables, trained_tables
from tests.ranker.samples import tiny_model

CONFIG = tiny_model()


def values(rows: list[int], lengths: list[int] | None = None) -> SlotValues:
    return SlotValues(torch.tensor(rows, dtype=torch.int64), None if lengths is None else torch.tensor(lengths))


SLOTS = {
    "user": values([256, 257]),
    "interests": values([258, 259, 256], [2, 1]),
    "item": values([260, 260, 0]),
    LOG: values([], [0, 0]),
}


TRAINED = pytest.mark.parametrize("kind", [TrainedTables, TorchRecTables])


@TRAINED
def test_both_start_from_the_same_bits(kind: type[TrainedTables]) -> None:
    plain, trained = PlainTables(CONFIG), kind(CONFIG)
    assert not trained.weights[CROSSES].any()
    for name, weights in plain.weights.items():
        assert torch.equal(weights, trained.weights[name])
        if name == CROSSES:
            continue
        assert weights[:256].abs().max() == 0
        tail = weights[256:]
        assert 0.08 < tail.std() < 0.14
        assert tail.abs().max() <= 0.2


def test_initial_bits_never_change() -> None:
    first = initial_weights(CONFIG, CONFIG.tables[0])[256, :4]
    assert first.numpy().tobytes().hex() == "7348183e27c849bd47d6a63d7da3bf3d"
    assert not torch.equal(initial_weights(CONFIG, CONFIG.tables[1])[256, :4], first)
    assert not torch.equal(initial_weights(tiny_model(seed=1), CONFIG.tables[0])[256, :4], first)


@TRAINED
def test_training_embeds_as_serving_does_any_subset_of_slots(kind: type[TrainedTables]) -> None:
    plain, trained = PlainTables(CONFIG), kind(CONFIG)
    for slots in (SLOTS, {"item": SLOTS["item"]}, {LOG: SLOTS[LOG]}):
        expected, found = plain.embed(slots), trained.embed(slots)
        assert expected.keys() == found.keys()
        for name in slots:
            assert torch.equal(expected[name], found[name])


@pytest.mark.parametrize("lengths", [[1], [3, 0, 5], [0, 0], [0], [7, 1]], ids=str)
@pytest.mark.parametrize("length", [1, 4, 9])
def test_pool_and_pad_agree_with_loops(lengths: list[int], length: int) -> None:
    torch.manual_seed(0)
    values_ED = torch.randn(sum(lengths), 8)
    pieces = torch.split(values_ED, lengths)
    pooled = torch.stack([p.mean(0) if len(p) else torch.zeros(8) for p in pieces])
    padded = torch.zeros(len(lengths), length, 8)
    for row, piece in zip(padded, pieces, strict=True):
        row[: len(piece)] = piece[:length]
    for tables in (PlainTables(CONFIG), TrainedTables(CONFIG)):
        torch.testing.assert_close(tables.pool(values_ED, torch.tensor(lengths)), pooled)
        assert torch.equal(tables.pad(values_ED, torch.tensor(lengths), length), padded)


@TRAINED
def test_gradients_come_by_touched_row(kind: type[TrainedTables]) -> None:
    tables = kind(CONFIG)
    embedded = tables.embed(SLOTS)
    (embedded["item"].sum() + 2 * embedded["user"][0].sum()).backward()  # type: ignore[no-untyped-call]
    found = {name: (rows.tolist(), g[:, 0].tolist()) for name, rows, g in tables.gradients()}
    assert found["items"] == ([0, 260], [1.0, 2.0])
    touched = dict(zip(*found["shared"], strict=True))
    assert touched[256] == 2.0
    assert all(g == 0 for row, g in touched.items() if row != 256)
    tables.zero_grad()
    assert list(tables.gradients()) == []


def test_training_without_torchrec_is_training_with_it_to_the_bit() -> None:
    learned = []
    for tables in (TrainedTables(CONFIG), TorchRecTables(CONFIG)):
        torch.manual_seed(0)
        embedded = tables.embed(SLOTS)
        sum((torch.randn_like(e) * e**2).sum() for e in embedded.values()).backward()  # type: ignore[union-attr]
        learned.append({name: (rows, gradient) for name, rows, gradient in tables.gradients()})
    assert learned[0].keys() == learned[1].keys() == {"items", "shared"}
    for name, (rows, gradient) in learned[0].items():
        assert torch.equal(rows, learned[1][name][0])
        assert torch.equal(gradient, learned[1][name][1])
    assert type(trained_tables(CONFIG)) is TorchRecTables  # it is installed here


def test_gradients_of_pool_and_pad_are_those_of_plain() -> None:
    torch.manual_seed(0)
    lengths, weight = torch.tensor([3, 0, 2]), torch.randn(3, 4, 8)
    grads = []
    for tables in (PlainTables(CONFIG), TrainedTables(CONFIG)):
        x = torch.arange(40.0).reshape(5, 8).requires_grad_()
        ((tables.pad(x, lengths, 4) * weight).sum() + (tables.pool(x, lengths) * weight[:, 0]).sum()).backward()  # type: ignore[no-untyped-call]
        grads.append(x.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_reset_goes_back_to_the_start_at_the_same_addresses() -> None:
    tables = PlainTables(CONFIG)
    before = {name: w.data_ptr() for name, w in tables.weights.items()}
    tables.weights["items"].add_(1)
    tables.key_maps["items"].change(np.array([5], np.uint64), np.array([0]), np.empty(0, np.uint64))
    tables.reset()
    assert {name: w.data_ptr() for name, w in tables.weights.items()} == before
    assert torch.equal(tables.weights["items"], initial_weights(CONFIG, CONFIG.tables[0]))
    assert len(tables.key_maps["items"]) == 0


def test_rowwise_adagrad_by_hand() -> None:
    weights, sums = torch.ones(3, 2), torch.tensor([0.0, 3.5, 0.0])
    rowwise_adagrad(weights, sums, torch.tensor([1]), torch.tensor([[1.0, 0.0]]), rate=0.1)
    assert sums.tolist() == [0.0, 4.0, 0.0]
    torch.testing.assert_close(weights, torch.tensor([[1.0, 1.0], [1 - 0.1 / (2 + EPSILON), 1.0], [1.0, 1.0]]))


def test_rowwise_adagrad_is_that_of_fbgemm() -> None:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    torch.manual_seed(0)
    theirs = SplitTableBatchedEmbeddingBagsCodegen(
        [(20, 8, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.05,
        eps=EPSILON,
    )
    weights, sums = torch.randn(20, 8), torch.zeros(20)
    theirs.split_embedding_weights()[0].copy_(weights)
    for _ in range(5):
        rows = torch.randperm(20)[:6].sort().values
        gradients = torch.randn(6, 8)
        (theirs(rows, torch.arange(7)) * gradients).sum().backward()
        rowwise_adagrad(weights, sums, rows, gradients, rate=0.05)
    torch.testing.assert_close(theirs.split_embedding_weights()[0].detach(), weights, rtol=1e-6, atol=1e-6)
