"""Encodings are chosen by what they lose on labels, and measuring changes nothing."""

import pytest

from ranker.learning.model_copy import ModelCopy
from ranker.tuning.encodings import TensorResult, choose, measure_encodings
from ranker.tuning.held_out import Change, HeldOut
from ranker.updates.image import dense_tensors
from tests.ranker.samples import tiny_learner, tiny_model, traffic


@pytest.fixture(scope="module")
def model() -> ModelCopy:
    learner = tiny_learner(tiny_model())
    for examples in traffic(0, 40):
        learner.learn(examples)
    return learner.copy()


def held_out(model: ModelCopy) -> dict[str, HeldOut]:
    examples = [example for batch in traffic(1, 20) for example in batch]
    return {tier: HeldOut(tiny_model(), tier, model.tables, examples) for tier in model.tiers}


def weights(model: ModelCopy) -> dict[str, bytes]:
    tensors = dense_tensors(model.tiers) | model.tables.weights
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_all_together_stay_within_the_budget_and_the_model_stays_as_it_was(model: ModelCopy) -> None:
    before, held = weights(model), held_out(model)
    found = measure_encodings(model, held, max_loss=1e-3)
    assert weights(model) == before
    assert found.chosen
    assert all(change.loss <= 1e-3 for change in found.changes.values())
    assert found.chosen_bytes < found.full_bytes
    names = {result.name for result in found.tensors}
    assert {"items", "shared"} <= names
    assert "light/calibration" not in names  # small ones travel as they are


def test_without_a_budget_only_what_loses_nothing_would_be_taken(model: ModelCopy) -> None:
    found = measure_encodings(model, held_out(model), max_loss=0.0)
    assert found.chosen == {}
    assert found.chosen_bytes == found.full_bytes
    assert all(change.loss == 0 for change in found.changes.values())


def result(name: str, encoding: str, saved: int, loss: float) -> TensorResult:
    return TensorResult(name, encoding, saved, Change(loss, 0.0))  # type: ignore[arg-type]


def test_most_bytes_per_loss_go_first_and_a_tensor_has_one_encoding() -> None:
    results = [
        result("cheap", "int8", 300, 1e-6),
        result("cheap", "bfloat16", 200, 1e-7),
        result("dear", "int8", 300, 9e-4),
        result("dear", "bfloat16", 200, 2e-4),
        result("too dear", "int8", 300, 1.0),
    ]
    assert choose(results, 3e-4) == {"cheap": "bfloat16", "dear": "bfloat16"}
    assert choose(results, 2.0) == {"cheap": "int8", "dear": "int8", "too dear": "int8"}
