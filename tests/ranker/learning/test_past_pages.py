"""What the logs' past pages teach, and what they leave alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ranker.config import CROSSES
from ranker.engine import predict
from ranker.inputs.features import Featurizer
from ranker.inputs.hashing import hash64
from ranker.inputs.requests import LOG_DTYPE, LabelledRequest, ScoringRequest
from ranker.learning.lessons import make_lessons
from ranker.model.heads import calibration_identity
from ranker.model.tier import is_plain
from tests.ranker.samples import EVENT_MS, labelled, request, tiny_learner, tiny_model, traffic

CONFIG = tiny_model()


def habit(rng: np.random.Generator, *, asked: str = "known") -> ScoringRequest:
    """A user who clicks one of two items whenever it is shown, never the other: which, only the log tells.

    asked: the liked one and the other, or two items that the log does not have.
    """
    liked, other, *unseen = (f"i{n}" for n in rng.choice(40, 4, replace=False))
    log = np.zeros(8, LOG_DTYPE)
    log["item"] = [hash64(item) for item in (other, liked, liked, other, liked, liked, other, other)]
    log["action"] = [1, 1, 2, 1, 1, 2, 1, 1]
    log["time_s"] = EVENT_MS // 1000 - 600 * np.arange(8, 0, -1)
    made = request(f"u{rng.integers(0, 10)}", [liked, other] if asked == "known" else unseen)
    return replace(made, log=log)


def lesson(number: int, rng: np.random.Generator) -> LabelledRequest:
    """One whose own labels say nothing of habits: what it shows is new to the user, and clicked by chance."""
    clicks = rng.integers(0, 2, 2).astype(float).tolist()
    return labelled(number, habit(rng, asked="unseen"), clicks, tier="heavy")


@pytest.mark.parametrize(("pages", "learns"), [(8, True), (0, False)])
def test_a_habit_is_learned_that_only_the_logs_show(pages: int, learns: bool) -> None:
    rng = np.random.default_rng(0)
    learner = tiny_learner(CONFIG, past_pages=pages)
    for step in range(150):
        learner.learn([lesson(4 * step + n, rng) for n in range(4)])
    # Clicks of the lessons are chance, and trust has found that out: what was learned is asked without it.
    learner.tiers["heavy"].calibration.copy_(calibration_identity())
    featurizer, right = Featurizer(CONFIG), []
    for _ in range(60):
        keyed = featurizer.keys([habit(rng)], 8)
        liked, other = predict(featurizer, learner.tiers, learner.tables, "heavy", keyed)[0]  # type: ignore[arg-type]
        right.append(np.log(liked / (1 - liked)) - np.log(other / (1 - other)))
    assert bool(np.mean(right) > 1) is learns


def test_they_teach_what_counts_and_the_crosses_alone() -> None:
    learner = tiny_learner(CONFIG)
    for examples in traffic(0, 20):
        learner.learn(examples)
    examples = [example for batch in traffic(1, 4) for example in batch]
    heavy = make_lessons(CONFIG, Featurizer(CONFIG), learner.tables, examples, 1.0, past_pages=4, began_ms=EVENT_MS)[-1]
    assert heavy.tier == "heavy"
    assert heavy.past is not None
    assert len(heavy.past.click_M)
    learner.tiers["heavy"].past_logits(heavy.past, learner.tables).square().sum().backward()  # type: ignore[no-untyped-call]
    reached = {name for name, p in learner.tiers["heavy"].named_parameters() if p.grad is not None}
    assert reached
    assert all(is_plain(name) for name in reached), reached
    assert {"evidence.bias", "evidence.linear_HI"} <= reached
    assert [table for table, *_ in learner.tables.gradients()] == [CROSSES]
    assert torch.isfinite(next(g for _, _, g in learner.tables.gradients())).all()
