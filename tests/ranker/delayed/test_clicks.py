"""The product's learner on impressions that are called not clicked after two seconds, and may be clicked later."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ranker.config import LearnerConfig
from ranker.delayed.policies import Emission
from ranker.inputs.requests import LabelledRequest
from ranker.learning.learner import Learner
from ranker.learning.state import restore, training_state
from tests.ranker.samples import COMPRESS, labelled, request, tiny_model

ITEMS = ["seldom clicked", "often clicked"]
RATE_X, LATE = np.array([0.3, 0.6]), 0.4


def learner() -> Learner:
    return Learner(tiny_model(), LearnerConfig(clicks="es_dfm", dense_rate=0.003), COMPRESS)


def example(number: int, item: str, emission: Emission) -> LabelledRequest:
    final = {Emission.CONVERTED: 1.0, Emission.CORRECTED: 1.0, Emission.CLOSED: 0.0}.get(emission, np.nan)
    made = labelled(number, request("u", [item]), [final], [np.nan])
    return replace(made, click_emission_N=np.array([emission]))


def stream(impressions: int, rng: np.random.Generator) -> list[LabelledRequest]:
    """What becomes of so many, an example a response."""
    out = []
    for _ in range(impressions):
        x = int(rng.integers(2))
        clicked, late = rng.random() < RATE_X[x], rng.random() < LATE
        if late or not clicked:
            out.append((x, Emission.PROVISIONAL))
        out.append((x, (Emission.CORRECTED if late else Emission.CONVERTED) if clicked else Emission.CLOSED))
    return [example(n, ITEMS[x], emission) for n, (x, emission) in enumerate(out)]


def predicted(of: Learner) -> list[float]:
    one = labelled(0, request("u", ITEMS), [np.nan] * 2, [np.nan] * 2)
    [(pctr_N, _)] = of._predicted([one], of.copy())
    return pctr_N.tolist()  # type: ignore[no-any-return]


def test_what_is_served_is_the_rate_of_the_true_labels() -> None:
    """Unweighted it would be p / (1 + p · late): .27 and .48."""
    rng, of, served = np.random.default_rng(3), learner(), []
    for step in range(160):
        assert of.learn(stream(60, rng)).applied
        if step >= 100:
            served.append(predicted(of))
    assert of.late_clicks.mean == pytest.approx(LATE, abs=0.03)
    np.testing.assert_allclose(np.mean(served, axis=0), RATE_X, atol=0.05)


def test_a_closed_window_teaches_nothing_more_and_is_what_is_graded() -> None:
    of, other = learner(), learner()
    provisional = example(0, "a", Emission.PROVISIONAL)
    report = of.learn([provisional, example(1, "b", Emission.CONVERTED)])
    assert report.click.count == 1
    other.learn([provisional, example(1, "b", Emission.CONVERTED)])
    report = of.learn([example(2, "a", Emission.CLOSED)])
    assert (report.applied, report.click.count) == (False, 1)
    assert of.click_rate.count == other.click_rate.count + 1
    assert of.late_clicks.count == other.late_clicks.count
    other.click_rate.observe(np.zeros(1, np.float32))  # how large a step is follows from the rate
    other.learn([example(3, "b", Emission.CONVERTED)])
    of.learn([example(3, "b", Emission.CONVERTED), example(4, "b", Emission.CLOSED)])
    assert of.click_rate.count == other.click_rate.count + 1
    states = training_state(of), training_state(other)
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == ["rates"]


def test_the_share_of_late_clicks_goes_through_a_snapshot() -> None:
    of = learner()
    of.learn(stream(30, np.random.default_rng(0)))
    again = learner()
    restore(again, training_state(of))
    assert of.late_clicks.count > 5
    assert (again.late_clicks.count, again.late_clicks.positives) == (of.late_clicks.count, of.late_clicks.positives)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="clicks must be wait or es_dfm, got 'naive'"):
        LearnerConfig(clicks="naive")  # type: ignore[arg-type]
