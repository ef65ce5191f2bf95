"""Scoring and learning tell each phase when it ends, once and in order."""

from ranker.engine import Engine
from tests.ranker.samples import COMPRESS, at, request, tiny_learner, tiny_model, traffic, update_of


def test_phases_of_a_step_and_of_scoring() -> None:
    learner, engine = tiny_learner(tiny_model()), Engine(tiny_model(), COMPRESS)
    learned: list[str] = []
    scored: list[str] = []
    learner.lap, engine.lap = learned.append, scored.append
    assert learner.learn(traffic(0, 1)[0]).applied
    assert learned == ["lessons", "grade", "forward", "backward", "step"]
    engine.apply(update_of(learner, 1), at(1))
    engine.score("light", [request()])
    assert scored == ["keys", "batch", "forward"]
    engine.score("light", [])
    engine.score("heavy", [request(items=())])
    assert scored == ["keys", "batch", "forward", "keys", "forward"]
