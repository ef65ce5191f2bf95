"""What an update leaves out is chosen well, and goes out later: replicas end where the trainer is."""

import numpy as np
import pytest
import torch

from ranker.config import CROSSES, LearnerConfig, ModelConfig, UpdateConfig
from ranker.learning.learner import Learner
from ranker.updates.changes import Changes
from ranker.updates.image import Image, new_image
from ranker.updates.record import Update, UpdateHeader
from tests.ranker.samples import COMPRESS, at, tiny_model, traffic

SMALL = tiny_model(rows=16)
THRIFTY = UpdateConfig(rows="int8", dense="int8", moved=0.05, row_budget=300)


def learner_of(updates: UpdateConfig, config: ModelConfig = SMALL) -> Learner:
    return Learner(config, LearnerConfig(updates=updates), COMPRESS)


def publish(learner: Learner, image: Image, number: int, *, full: bool = False) -> Changes:
    changes = learner.take_changes(None if full or number == 1 else image)
    header = UpdateHeader(
        epoch=1, number=number, previous=number - 1, digest=learner.config.digest, trainer="t", reset=number == 1
    )
    image.apply(Update(header, changes), at(number))
    return changes


def distance(learner: Learner, image: Image, table: str) -> float:
    """From what the trainer holds to what replicas read for the same keys, the furthest."""
    keys, rows = learner.tables.key_maps[table].items()
    held_rows = image.tables.key_maps[table].find(keys)
    held_rows = np.where(held_rows >= 0, held_rows, SMALL.tables[0].rows + (keys % np.uint64(8)).astype(np.int64))
    away = learner.tables.weights[table][rows] - image.tables.weights[table][held_rows]
    return float(torch.linalg.vector_norm(away, dim=1).max()) if len(rows) else 0.0


def test_thrifty_updates_always_fit_and_a_full_one_brings_the_rest() -> None:
    """Sixteen rows for many more keys: rows change hands while updates about them wait."""
    learner, image = learner_of(THRIFTY), new_image(SMALL, COMPRESS)
    left_behind, evicted = 0, 0
    for number, examples in enumerate(traffic(0, 80), 1):
        evicted += learner.learn(examples).evicted
        publish(learner, image, number)
        left_behind += sum(int(learner.pending.state(t.name)["touched"].sum()) for t in SMALL.tables)
    assert evicted > 100
    assert left_behind > 100
    publish(learner, image, 81, full=True)
    for name, weights in learner.tables.weights.items():
        keys, rows = learner.tables.key_maps[name].items()
        assert [a.tolist() for a in image.tables.key_maps[name].items()] == [keys.tolist(), rows.tolist()]
        step = float(weights.abs().max()) / 127
        torch.testing.assert_close(image.tables.weights[name][rows], weights[rows], rtol=0, atol=step)
    for name, parameter in learner.parameters.items():
        step = max(float(parameter.detach().abs().max()) / 127, 1e-6)
        torch.testing.assert_close(image.dense[name], parameter.detach(), rtol=0, atol=step)


def test_rows_keep_to_the_budget_and_the_furthest_go_first() -> None:
    plain = tiny_model(rows=16, evidence=())  # an item's row goes out with its catalogue entry, budget or not
    nearer_without_tails = 0
    learner, image = learner_of(UpdateConfig(row_budget=200), plain), new_image(plain, COMPRESS)
    for number, examples in enumerate(traffic(0, 20), 1):
        learner.learn(examples)
        before = {t.name: distance(learner, image, t.name) for t in plain.every_table}
        changes = publish(learner, image, number)
        for name, change in changes.tables.items():
            rows = len(change.keys_K) + len(change.tails_W)
            if number > 1:
                assert rows <= max(1, 200 // 3 // (16 + 2 * plain.row_width(name)))
                # A tail row that goes out moves what all keys without a row of their own read, the right way or not.
                nearer = distance(learner, image, name) < before[name]
                assert nearer or name == CROSSES or rows == 0 or len(change.tails_W)
                nearer_without_tails += nearer and not len(change.tails_W)
    assert nearer_without_tails > 10


def test_without_a_budget_or_threshold_all_that_moved_goes() -> None:
    learner, image = learner_of(UpdateConfig(rows="float32", dense="float32", moved=0.0)), new_image(SMALL, COMPRESS)
    for number, examples in enumerate(traffic(0, 10), 1):
        learner.learn(examples)
        publish(learner, image, number)
        assert max(distance(learner, image, t.name) for t in SMALL.tables) == 0
        assert all(torch.equal(image.dense[n], p.detach()) for n, p in learner.parameters.items())


def test_a_slow_drift_is_sent_when_it_has_added_up() -> None:
    learner, image = learner_of(UpdateConfig(moved=0.02, dense="float32")), new_image(SMALL, COMPRESS)
    learner.learn(traffic(0, 1)[0])
    publish(learner, image, 1)
    name = "light/heads.user.weight"
    weight = learner.parameters[name]
    sent = []
    for number in range(2, 12):
        with torch.no_grad():
            weight.mul_(1.005)
        sent.append(name in publish(learner, image, number).dense)
    assert sent == [False, False, False, False, True] * 2


@pytest.mark.parametrize("wrong", [{"moved": -1.0}, {"row_budget": 0}, {"full_every": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="full_every >= 1"):
        UpdateConfig(**wrong)  # type: ignore[arg-type]
