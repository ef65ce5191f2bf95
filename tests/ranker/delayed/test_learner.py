"""The product's learner on a stream of delayed conversions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ranker.config import LearnerConfig, ModelConfig
from ranker.config import model as config_module
from ranker.delayed.policies import NO_EMISSION, POLICIES, Emission, PolicyName, final_emissions
from ranker.inputs.requests import LabelledRequest
from ranker.learning.learner import Learner
from ranker.learning.state import restore, training_state
from ranker.model.tier import Tier
from tests.ranker.samples import COMPRESS, labelled, lessons_of, request, tiny_model, traffic

ITEMS = ["seldom late", "mostly late"]
RATE_X, LATE_X = np.array([0.3, 0.5]), np.array([0.2, 0.9])


def learner_of(policy: PolicyName, *, model: ModelConfig | None = None) -> Learner:
    config = replace(model or tiny_model(), learns_late=POLICIES[policy].learns_late)
    return Learner(config, LearnerConfig(conversions=policy, dense_rate=0.003), COMPRESS)


def example(number: int, items: list[str], emission_N: list[int]) -> LabelledRequest:
    codes = np.array(emission_N)
    final = {Emission.CONVERTED: 1.0, Emission.CORRECTED: 1.0, Emission.CLOSED: 0.0}
    conversions = [final.get(code, np.nan) for code in emission_N]  # type: ignore[call-overload]
    return replace(labelled(number, request("u", items), [np.nan] * len(items), conversions), emission_N=codes)


def stream(policy: PolicyName, clicks: int, rng: np.random.Generator) -> list[LabelledRequest]:
    """What becomes of so many clicks, in any order, an example a response."""
    said = POLICIES[policy].provisional
    out = []
    for _ in range(clicks):
        x = int(rng.integers(2))
        converts, late = rng.random() < RATE_X[x], rng.random() < LATE_X[x]
        early = said == "click" or (said == "elapsed" and (late or not converts))
        if early:
            out.append((x, Emission.PROVISIONAL))
        out.append((x, (Emission.CORRECTED if early else Emission.CONVERTED) if converts else Emission.CLOSED))
    return [example(n, [ITEMS[x]], [emission]) for n, (x, emission) in enumerate(out)]


def predicted(learner: Learner) -> list[float]:
    copy = learner.copy()
    one = example(0, ITEMS, [NO_EMISSION] * 2)
    [(_, pcvr_N)] = learner._predicted([one], copy)
    return pcvr_N.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_served_is_the_rate_of_the_true_labels(policy: PolicyName) -> None:
    """Calibration, which learns from the same examples, must be weighted as well. Naive is biased, as known."""
    rng = np.random.default_rng(3)
    learner = learner_of(policy)
    served = []
    for step in range(160):
        assert learner.learn(stream(policy, 60, rng)).applied
        if step >= 100:
            served.append(predicted(learner))
    expected = RATE_X / (1 + RATE_X) if policy == "naive" else RATE_X
    np.testing.assert_allclose(np.mean(served, axis=0), expected, atol=0.05)


def test_a_provisional_example_alone_is_learned_and_not_graded() -> None:
    learner = learner_of("es_dfm")
    report = learner.learn([example(0, ["a"], [Emission.PROVISIONAL])])
    assert report.applied
    assert report.conversion.count == 0
    assert learner.learn([example(1, ["a"], [Emission.CORRECTED])]).conversion.count == 1


def test_final_labels_told_or_derived_are_the_same_to_the_last_bit() -> None:
    one, other = learner_of("wait"), learner_of("wait")
    for batch in traffic(1, 5):
        one.learn(batch)
        other.learn([replace(e, emission_N=final_emissions(e.conversion_N)) for e in batch])
    states = training_state(one), training_state(other)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_late_head_goes_through_a_snapshot_and_is_absent_where_no_policy_needs_it() -> None:
    learner = learner_of("defer")
    learner.learn(stream("defer", 30, np.random.default_rng(0)))
    state = training_state(learner)
    assert state["dense/light/heads.late_1h"].abs().sum() > 0
    copy = learner_of("defer")
    restore(copy, state)
    again = training_state(copy)
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert not [name for name in training_state(learner_of("fake_negative")) if "late" in name]


def test_the_late_head_costs_serving_nothing() -> None:
    model = replace(tiny_model(), learns_late=True)
    tier = Tier(model, model.tiers[0], compress=COMPRESS).eval()
    assert tier.heads.late_1h is not None
    lesson = lessons_of(learner_of("es_dfm"), [labelled(0, request(), [1, 0])])[0]
    learner = learner_of("es_dfm")
    assert tier(lesson.batch, learner.tables, None).late_N is None


def test_a_policy_that_needs_to_know_what_is_late_is_refused_without_the_head() -> None:
    with pytest.raises(ValueError, match="'es_dfm' needs a model with learns_late = true"):
        Learner(tiny_model(), LearnerConfig(conversions="es_dfm"), COMPRESS)


def test_configurations_without_what_came_later_keep_their_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "ARCHITECTURE", 1)
    tiers = tuple(replace(tier, read_length=0) for tier in tiny_model().tiers)
    plain = replace(tiny_model(evidence=()), tiers=tiers, crosses=())
    assert plain.digest == "a4c0b37023220358"
    assert replace(plain, learns_late=True).digest != plain.digest
    assert tiny_model().digest != plain.digest
