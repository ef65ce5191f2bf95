"""What a replay's report says to people: verdict first, then the table, and what is not equal."""

from dataclasses import replace
from typing import Any

import pytest

from streams.audit import AuditReport
from streams.audit.report import Section
from streams.config.load import load_recipe
from streams.replay.driver import Sent
from streams.replay.house import Known
from streams.replay.metrics import Interval
from streams.replay.printed import HARDLY_BEGUN, as_text, signed, verdict
from streams.replay.report import AS_THE_MODEL, Comparison, Grades, ReplayReport, Score

WEAK, STRONG = "base rate", "Vowpal Wabbit with crosses"


def grades(examples: int = HARDLY_BEGUN) -> Grades:
    def score(entropy: float) -> Score:
        return Score(Interval(0.7, 0.6, 0.8), Interval(entropy, entropy - 0.1, entropy + 0.1))

    none = Comparison(Interval(0.0, -0.1, 0.1), Interval(0.0, -0.1, 0.1))
    beside = Comparison(Interval(-0.011, -0.02, -0.002), Interval(0.0042, -0.0017, 0.0096))
    late = [name + AS_THE_MODEL for name in (WEAK, STRONG)]
    return Grades(
        examples=examples,
        clicks=examples // 2,
        users=9,
        lag=(5, 9),
        lag_of_labels=(0, 1),
        left_out=(),
        scores={"model": score(0.9), STRONG: score(0.5), late[0]: score(0.99), late[1]: score(0.88)},
        comparisons={STRONG: none, late[0]: none, late[1]: beside},
    )


def audited(*wrong: str) -> AuditReport:
    section = Section("things")
    section.fault("lost", wrong)
    return AuditReport((section,), {})


def report(**changes: Any) -> ReplayReport:
    fields: dict[str, Any] = {
        "log": "shop.csv",
        "notes": "",
        "recipe": load_recipe("log:ml-100k"),
        "left_aside": (),
        "known": None,
        "sent": Sent(requests=20, responses={"ok": 20}, impressions=20, with_prediction=20, clicks=10, seconds=1.0),
        "joined": 20,
        "joined_clicks": 10,
        "repeated": 0,
        "unlearned": 0,
        "updates": 3,
        "shift_ms": 0,
        "audit": audited(),
        "grades": grades(),
    }
    return ReplayReport(**(fields | changes))


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_verdict_is_of_the_best_rivals_that_learn_as_late_as_the_model_and_at_once() -> None:
    assert verdict(grades()) == (
        "Beside the best rival, Vowpal Wabbit with crosses (labels as late as the model's): normalized entropy +.0042 "
        "[−.0017, +.0096]: no difference shown; AUC −.0110 [−.0200, −.0020]: worse. Beside the best whose labels come "
        "as soon as their time is over, Vowpal Wabbit with crosses: normalized entropy +.0000 [−.1000, +.1000]: no "
        "difference shown; AUC +.0000 [−.1000, +.1000]: no difference shown."
    )


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        (Interval(0.5, -0.25, 1.25), "+.5000 [−.2500, +1.2500]"),
        (Interval(0.0, -1.0, 0.00001), "+.0000 [−1.0000, +.0000]"),
    ],
)
def test_a_difference_has_its_sign(interval: Interval, said: str) -> None:
    assert signed(interval) == said


def test_the_verdict_stands_before_the_table_and_what_is_not_equal_behind_it() -> None:
    text = flat(as_text(report()))
    places = [text.index(part) for part in ("recipe log:ml", "Beside the best", "AUC (higher", "Rivals.", "not equal")]
    assert places == sorted(places)
    assert "the model reads the user's log at once, as the house serves it" in text
    assert "hardly begun" not in text


def test_what_was_judged_is_said() -> None:
    recipe = load_recipe("log:ml-100k")
    text = flat(as_text(report(left_aside=["age"])))
    assert "log shop.csv model recipe log:ml-100k; tiers light (log of 64 events); evidence item, *, release" in text
    assert "age×item" in text
    assert f"statistics none; digest {recipe.model.digest} leaves aside what the rows give as age" in text
    assert report().as_dict()["model"]["digest"] == recipe.model.digest


@pytest.mark.parametrize("examples", [200, HARDLY_BEGUN - 1])
def test_after_few_labels_the_model_has_hardly_begun(examples: int) -> None:
    text = flat(as_text(report(grades=grades(examples))))
    assert f"Only {examples:,} labels were graded: the model has hardly begun." in text


def test_a_house_that_has_learned_before_is_told_above_the_figures() -> None:
    text = flat(as_text(report(known=Known(users=7, asked=9, examples=1_200), grades=grades(200))))
    assert "AGAIN: 7 of the log's 9 users have events in Redis, and 1,200 training examples were made before." in text
    assert text.index("AGAIN") < text.index("Beside the best")
    assert "hardly begun" not in text


def test_a_sound_audit_is_a_line_and_another_one_is_told_in_full() -> None:
    assert "audit     ok: nothing is wrong" in as_text(report()).splitlines()
    wrong = report(audit=audited("e1"))
    assert not wrong.ok
    assert "WRONG  e1" in as_text(wrong)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sent": Sent(requests=20, responses={"fallback": 20}, impressions=20)}, "none of 20 answers was scored"),
        ({"joined": 0}, "none of 20 impressions of scored answers came to an example"),
        ({"why_no_grades": "2 of each are needed"}, "20 labels came, 10 of them clicks: 2 of each are needed. Replay"),
    ],
)
def test_what_could_not_be_graded_is_not_ok(changes: dict[str, Any], said: str) -> None:
    ungraded = report(grades=None, **changes)
    assert not ungraded.ok
    assert f"NOT GRADED: {said}" in flat(as_text(ungraded))
    assert ungraded.as_dict()["ok"] is False


def test_what_is_missing_among_the_labels_is_said() -> None:
    assert "NOT ALL: 5 impressions of scored answers came to no example" in flat(as_text(report(joined=15)))
    late = report(joined_clicks=7)
    assert "LATE: 3 of 10 clicks came when their window had closed" in flat(as_text(late))


def test_of_several_tiers_it_is_said_who_predicted() -> None:
    recipe = load_recipe("log:ml-100k")
    (light,) = recipe.model.tiers
    model = replace(recipe.model, tiers=(light, replace(light, name="heavy")))
    recipe = replace(recipe, model=model, routing=replace(recipe.routing, tiers=("light", "heavy")))
    assert report(recipe=recipe).tiers == ["light", "heavy"]
