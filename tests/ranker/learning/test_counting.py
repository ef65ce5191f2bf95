"""Running statistics: what is counted, when, and what a model makes of it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from ranker.config import ITEM, STATISTICS, LearnerConfig, ModelConfig, UpdateConfig
from ranker.delayed.policies import NO_EMISSION, POLICIES, Emission
from ranker.inputs.requests import LabelledRequest
from ranker.inputs.statistics import CLICKED, CONVERTED, JUDGED, MEMORIES, OF_CLICKS, SHOWN
from ranker.learning.counting import Maturing, Outcomes, fade, outcomes
from ranker.learning.learner import Learner
from ranker.learning.state import restore, training_state
from ranker.model.statistics import smoothed_odds
from ranker.updates.image import new_image
from ranker.updates.record import Update, UpdateHeader
from tests.ranker.samples import COMPRESS, EVENT_MS, at, labelled, lessons_of, request, tiny_model, traffic

COUNTING = replace(tiny_model(), statistics=((ITEM,), ("interests", "category")), statistic_rows=1_024)
PROVISIONAL, CONVERTED_, CORRECTED, CLOSED = Emission


def learner_of(config: ModelConfig = COUNTING, **settings: object) -> Learner:
    return Learner(config, LearnerConfig(**settings), COMPRESS)  # type: ignore[arg-type]


def row_of(learner: Learner, item: str) -> torch.Tensor:
    keyed = learner._featurizer.keys([request(items=[item])], 1)
    row = learner._featurizer.tail(STATISTICS, keyed.slots[STATISTICS].keys_T)[0]
    return learner.tables.weights[STATISTICS][row]


def given(at_ms: Sequence[int], label: Sequence[float]) -> Outcomes:
    n = len(at_ms)
    rows_NS = np.arange(n).reshape(n, 1)
    return Outcomes(rows_NS, np.ones(n, np.float32), np.array(label, np.float32), np.array(at_ms, np.int64))


def test_counts_are_those_of_one_impression_after_another() -> None:
    """A step of many is as the formula says of each in turn, where clicks are spread evenly among them."""
    weights = torch.zeros(3, 6)
    plain = np.zeros(2)
    rng = np.random.default_rng(0)
    for _ in range(300):
        shown, clicked = int(rng.integers(1, 5)), 0
        clicked = int(rng.integers(0, shown + 1))
        fade(
            weights,
            np.array([1]),
            np.array([shown], np.float32),
            np.array([clicked], np.float32),
            SHOWN,
            CLICKED,
            256.0,
        )
        for _ in range(shown):
            plain = plain * (1 - 1 / 256) + np.array([1, clicked / shown]) / 256
    np.testing.assert_allclose(weights[1, :2].numpy(), plain, rtol=1e-4)
    assert not weights[[0, 2]].any()
    assert not weights[:, 2:].any()


def test_few_impressions_are_counted_as_they_are() -> None:
    learner = learner_of(plain_rate=1e-9)
    for number in range(10):
        learner.learn([labelled(number, request(items=["a", "b"]), [1, 0])])
    a, b = row_of(learner, "a"), row_of(learner, "b")
    assert [MEMORIES[1] * float(a[2 + column]) for column in (SHOWN, CLICKED)] == pytest.approx([10, 10], rel=0.01)
    assert [MEMORIES[0] * float(b[column]) for column in (SHOWN, CLICKED)] == pytest.approx([10, 0], rel=0.05)


def test_what_was_long_ago_is_forgotten() -> None:
    weights, row, one = torch.zeros(1, 6), np.array([0]), np.ones(1, np.float32)
    for positive in (one, 0 * one):
        for _ in range(2_000):
            fade(weights, row, one, positive, SHOWN, CLICKED, MEMORIES[0])
    assert weights[0, SHOWN] == pytest.approx(1, abs=1e-3)
    assert weights[0, CLICKED] < 1e-3


def test_counts_stay_shares_whatever_comes() -> None:
    """At the bounds of the type: millions in a step, none at all, more clicks than impressions."""
    weights = torch.zeros(4, 6)
    rows = np.arange(4)
    for tried, positive in ((1e7, 1e7), (0.0, 50.0), (0.125, 1.0), (1e-9, 1.0)):
        fade(
            weights, rows, np.full(4, tried, np.float32), np.full(4, positive, np.float32), JUDGED, CONVERTED, OF_CLICKS
        )
        assert weights.isfinite().all()
        assert (weights >= 0).all()
        assert (weights <= 1).all()
        assert (weights[:, CONVERTED] <= weights[:, JUDGED]).all()


def test_score_then_learn_then_count() -> None:
    """An example's own label is in no count that its step sees: the same predictions, whatever the label."""
    seen = []
    for label in (0.0, 1.0):
        learner = learner_of()
        for examples in traffic(0, 5):
            learner.learn(examples)
        inputs: list[torch.Tensor] = []
        module = learner.tiers["light"].statistics
        assert module is not None
        module.register_forward_pre_hook(lambda _, args, into=inputs: into.append(args[0].clone()))
        learner.learn([labelled(99, request(items=["i1", "i2"]), [label, 1 - label])])
        seen.append(inputs[0])
    assert torch.equal(*seen)
    assert seen[0].any()


def test_clicks_wait_for_what_was_not_clicked_at_their_time() -> None:
    maturing = Maturing(1)
    assert len(maturing.pass_through(given([1_000, 2_000], [1, 1])).positive_N) == 0
    counted = maturing.pass_through(given([1_500], [0]))
    assert sorted(counted.shown_ms_N.tolist()) == [1_000, 1_500]
    counted = maturing.pass_through(given([2_000, 2_000], [0, 1]))
    assert sorted(counted.shown_ms_N.tolist()) == [2_000, 2_000, 2_000]
    assert len(maturing.waiting.positive_N) == 0


def test_holding_negatives_back_lifts_nothing_that_is_counted() -> None:
    """Half are clicked; negatives come thirty seconds after clicks. Counted as they come, an item that has been shown
    for half a minute would have been clicked each time."""
    learner = learner_of(even())
    rng = np.random.default_rng(1)
    pages = []
    for second in range(60):
        clicks = rng.integers(0, 2, 2).astype(np.float32)
        asked = replace(request(items=["a", "b"]), event_ms=EVENT_MS + 1_000 * second)
        page = labelled(second, asked, clicks.tolist())
        pages += [(second, only(page, 1.0)), (second + 30, only(page, 0.0))]
    at_most = 0.0
    for _, page in sorted(pages, key=lambda page: page[0]):
        learner.learn([page])
        for item in ("a", "b"):
            row = row_of(learner, item)
            if MEMORIES[0] * row[SHOWN] > 10:
                at_most = max(at_most, float(row[CLICKED] / row[SHOWN]))
    assert 0.3 < at_most < 0.75


def even() -> ModelConfig:
    return replace(COUNTING, click_prior=0.5)


def only(page: LabelledRequest, label: float) -> LabelledRequest:
    """The page's examples of this label."""
    kept = page.click_N == label
    return replace(page, click_N=np.where(kept, page.click_N, np.nan).astype(np.float32))


def test_shuffled_labels_teach_nothing() -> None:
    """With labels that say nothing of what was shown, a model that counts is no better than the base rate."""
    rng = np.random.default_rng(2)
    learner = learner_of(even())
    labels, predicted = [], []
    for number in range(200):
        items = [f"i{k}" for k in rng.integers(0, 6, 4)]
        clicks = (rng.random(4) < 0.5).astype(np.float32)
        example = labelled(number, request(f"u{number % 9}", items), clicks.tolist())
        lessons = lessons_of(learner, [example])
        with torch.no_grad():
            logits = learner.tiers["light"](lessons[0].batch, learner.tables, lessons[0].position_N)
        learner.learn([example])
        if number >= 100:
            labels.append(clicks)
            predicted.append(torch.sigmoid(logits.click_N).numpy())
    y, p = np.concatenate(labels), np.concatenate(predicted)
    base = y.mean()
    loss = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert loss / -(base * np.log(base) + (1 - base) * np.log(1 - base)) > 1


def test_counts_alone_tell_good_from_bad() -> None:
    """Nothing else is known of items here: no rows, no crosses, no log."""
    config = replace(COUNTING, crosses=(), evidence=(), click_prior=0.5)
    learner = learner_of(config, row_rate=1e-9, dense_rate=1e-9, plain_rate=0.02)
    rng = np.random.default_rng(3)
    for step in range(60):
        pages = []
        for page in range(16):
            items = rng.permutation(["good", "bad"]).tolist()  # or the position would tell them apart
            clicks = [float(rng.random() < {"good": 0.8, "bad": 0.2}[item]) for item in items]
            pages.append(labelled(16 * step + page, request(items=items), clicks))
        learner.learn(pages)
    lessons = lessons_of(learner, [labelled(0, request(items=["good", "bad", "new"]), [0, 0, 0])])
    with torch.no_grad():
        logits = learner.tiers["light"](lessons[0].batch, learner.tables, torch.zeros(3, dtype=torch.int64))
    good, bad, new = logits.click_N.tolist()
    assert good > new + 0.3
    assert bad < new - 0.3


@pytest.mark.parametrize(
    ("policy", "tried", "positive"),
    [
        # of: provisional, converted, corrected, closed
        ("wait", [1, 1, 1], [1, 1, 0]),
        ("es_dfm", [1, 1, 0], [0, 1, 1]),
        ("naive", [1, 1, 0], [0, 1, 1]),
        ("defer", [1, 1, 1], [1, 1, 0]),
    ],
)
def test_an_impression_is_counted_once_under_each_policy(
    policy: str, tried: list[float], positive: list[float]
) -> None:
    emission = np.array([*Emission, NO_EMISSION], np.int64)
    label = np.array([np.nan, 1, 1, 0, np.nan], np.float32)
    found = outcomes(POLICIES[policy], emission, label, given([0] * 5, label.tolist()))  # type: ignore[index]
    assert found.tried_N.tolist() == tried
    assert found.positive_N.tolist() == positive


def test_a_place_where_less_is_clicked_makes_less_of_an_impression() -> None:
    learner = learner_of()
    position = learner.tiers["light"].position
    with torch.no_grad():
        position.bias_P[:2] = torch.tensor([0.5, -0.5])
        position.share_P.zero_()
        position.share_P[:2] = 0.5
    assert position.worth(torch.tensor([0, 1])).tolist() == pytest.approx([np.exp(0.5), np.exp(-0.5)])
    learner.learn([labelled(0, request(items=["top", "below"]), [0, 0])])
    assert MEMORIES[1] * row_of(learner, "top")[2] == pytest.approx(np.exp(0.5), rel=0.01)
    assert MEMORIES[1] * row_of(learner, "below")[2] == pytest.approx(np.exp(-0.5), rel=0.01)


def test_what_waits_survives_a_restart_and_a_rollback() -> None:
    """Bit for bit: the copy goes on as the original does, and a poisoned count is gone with the rest."""
    original = learner_of()
    for examples in traffic(4, 5):
        original.learn(examples)
    ahead = replace(request(items=["late", "i1"]), event_ms=EVENT_MS + 60_000)
    original.learn([labelled(77, ahead, [1, np.nan])])
    saved = training_state(original)
    assert len(saved["counter/click/positive_N"]) == 1
    copy = learner_of()
    restore(copy, saved)
    original.tables.weights[STATISTICS].fill_(0.5)
    restore(original, saved)
    closing = labelled(78, replace(ahead, event_ms=EVENT_MS + 61_000), [0, 0])
    for learner in (original, copy):
        learner.learn([closing])
        assert row_of(learner, "late")[CLICKED] > 0
    for name, weights in original.tables.weights.items():
        assert torch.equal(weights, copy.tables.weights[name]), name


def test_counts_travel_as_bfloat16_at_least() -> None:
    """In int8 a new ad's few impressions would be nothing beside the largest share of its row."""
    learner = learner_of(updates=UpdateConfig(rows="int8"))
    learner.learn(traffic(0, 1)[0])
    tables = learner.take_changes().tables
    assert tables[STATISTICS].tail_values_WD.data.dtype == torch.bfloat16
    assert tables["items"].values_KD.data.dtype == torch.int8
    learner = learner_of(updates=UpdateConfig(rows="bfloat16", tensors={STATISTICS: "float32"}))
    learner.learn(traffic(0, 1)[0])
    assert learner.take_changes().tables[STATISTICS].tail_values_WD.data.dtype == torch.float32


def test_no_row_makes_a_prediction_that_is_none() -> None:
    config = replace(COUNTING, crosses=(), evidence=())
    learner = learner_of(config)
    with torch.no_grad():
        learner.tiers["light"].statistics.click_SM.fill_(1.0)  # type: ignore[union-attr]
    lessons = lessons_of(learner, [labelled(0, request(items=["a", "b"]), [0, 0])])
    for clicked in (1.0, -1.0, 1e30):  # and never shown
        learner.tables.weights[STATISTICS][:, 1::2] = clicked
        logits = learner.tiers["light"](lessons[0].batch, learner.tables, lessons[0].position_N)
        assert logits.click_N.isfinite().all()


def test_replicas_read_the_rates_of_popular_values_as_the_trainer_does() -> None:
    """A share of clicks is small beside one of all impressions: it goes out by what it is itself."""
    learner, rng = learner_of(replace(COUNTING, statistics=((ITEM,),))), np.random.default_rng(0)
    image = new_image(learner.config, COMPRESS)
    furthest = 0.0
    for number in range(1, 241):
        rate = 0.005 if number < 120 else 0.04
        pages = [labelled(20 * number + n, request(f"u{n}", ["hot"]), [float(rng.random() < rate)]) for n in range(20)]
        learner.learn(pages)
        changes = learner.take_changes(None if number == 1 else image)
        header = UpdateHeader(
            epoch=1, number=number, previous=number - 1, digest=learner.config.digest, trainer="t", reset=number == 1
        )
        image.apply(Update(header, changes), at(number))
        held, known = (weights[STATISTICS] for weights in (image.tables.weights, learner.tables.weights))
        apart = [smoothed_odds(256 * row_KC[:, 1], 256 * row_KC[:, 0], torch.tensor(-4.0)) for row_KC in (held, known)]
        furthest = max(furthest, float((apart[0] - apart[1]).abs().max()))
    assert furthest < 0.05


def test_statistics_have_crosses_rules() -> None:
    for wrong, message in (((("nothing",),), "a statistic names"), (((ITEM,), (ITEM,)), "a statistic is given once")):
        with pytest.raises(ValueError, match=message):
            replace(COUNTING, statistics=wrong)
    assert COUNTING.digest != replace(COUNTING, statistics=()).digest
    assert replace(COUNTING, statistics=(), statistic_rows=5).digest == tiny_model().digest
    assert COUNTING.row_width(STATISTICS) == 2 * len(MEMORIES) + 2
