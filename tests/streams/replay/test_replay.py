"""A log through the whole house, in event time; and the pieces of a replay that need no servers."""

import math
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from streams.config.load import load_recipe
from streams.datasets.logs.sources import open_log
from streams.datasets.logs.traffic import LoggedImpression, TrafficLog
from streams.errors import StartError
from streams.kafka.connection import watermarks
from streams.local.house import House, open_house
from streams.replay.command import WORKERS, replay_command
from streams.replay.driver import DAY_MS, Pace, shift_into_the_past
from streams.replay.graded import Graded, as_the_model, at_its_time
from streams.replay.house import Known, known_before
from streams.replay.printed import as_text
from streams.replay.report import AS_THE_MODEL, BASELINES, Grades, ReplayReport, grade
from streams.replay.run import run_replay
from streams.replay.watch import to_graded
from streams.wire.topics import REQUESTS
from tests.streams.samples import example

MAPPING = """
user = "visitor"
item = "product"
time = "ts"
label = "bought"
user_columns = ["kind"]
candidates = 5
"""
LINES = 400


def write_log(folder: Path) -> tuple[Path, Path]:
    """Visitors of two kinds, products that please one kind or the other; two lines a minute, in 2001."""
    rng = np.random.default_rng(0)
    rows = ["visitor,product,ts,bought,kind"]
    for n in range(LINES):
        visitor, product = rng.integers(0, 20), rng.integers(0, 10)
        bought = rng.random() < (0.8 if visitor % 2 == product % 2 else 0.1)
        rows.append(f"v{visitor},p{product},{1_000_000_000 + 30 * n},{int(bought)},k{visitor % 2}")
    (folder / "shop.csv").write_text("\n".join(rows))
    (folder / "shop.toml").write_text(MAPPING)
    return folder / "shop.csv", folder / "shop.toml"


@dataclass(frozen=True)
class Replayed:
    house: House
    log: TrafficLog
    folder: Path
    """Where the log and its mapping lie."""
    report: ReplayReport


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replayed]:
    """A house into which the log was replayed once."""
    folder = tmp_path_factory.mktemp("shop")
    csv_file, mapping = write_log(folder)
    log = open_log(str(csv_file), mapping)
    with open_house(folder / "house", recipe=f"log:{mapping}", workers=WORKERS) as house:
        report = run_replay(house.settings, log, list(log.read()), pace=Pace())
        yield Replayed(house, log, folder, report)


def sent_to(house: House) -> int:
    """Requests that were ever sent there."""
    with closing(house.kafka.reader()) as reader:
        return sum(watermarks(reader, REQUESTS, p)[1] for p in house.kafka.partitions(REQUESTS))


def replay(replayed: Replayed, csv_file: Path, *options: str) -> Result:
    """What the command does at the house."""
    house = replayed.house
    env = {"TIDERANK_BOOTSTRAP": house.stack.bootstrap, "TIDERANK_REDIS_URL": house.stack.redis_url}
    mapping = str(replayed.folder / "shop.toml")
    return CliRunner().invoke(replay_command, [str(csv_file), "--map", mapping, *options], env=env)


@pytest.mark.e2e
def test_every_line_is_answered_joined_learned_and_graded(replayed: Replayed) -> None:
    report, rows = replayed.report, list(replayed.log.read())
    clicks = sum(row.clicked for row in rows)
    assert report.sent.requests == report.sent.impressions == LINES
    assert report.sent.responses == {"ok": LINES}
    assert report.sent.clicks == clicks
    assert (report.joined, report.joined_clicks, report.repeated) == (LINES, clicks, 0)
    assert report.unlearned == 0
    assert report.audit.ok, report.audit.text()
    assert report.updates > 0
    assert report.known is None
    assert report.grades is not None
    assert report.grades.examples == LINES
    assert "model - base rate" in as_text(report)
    assert set(report.as_dict()["model_minus"]) == {*BASELINES, *(name + AS_THE_MODEL for name in BASELINES)}
    assert report.grades.lag[0] >= report.grades.lag_of_labels[0]  # no label is learned before its time is over


@pytest.mark.e2e
def test_a_house_that_has_learned_before_is_refused_before_the_first_request(replayed: Replayed) -> None:
    before = sent_to(replayed.house)
    result = replay(replayed, replayed.folder / "shop.csv")
    assert isinstance(result.exception, StartError)
    said = r"this house has learned before: 20 of the log's 20 users .*, and \d+ training examples .*--up.*--again"
    assert re.match(said, str(result.exception))
    assert sent_to(replayed.house) == before


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            '[model]\nevidence = ["item"]',
            r"the trainer publishes model \w+, that of the log's own .*they differ in model.evidence",
        ),
        ("[join]\nskew_ms = 7", "ingest joins by skew_ms = 5000, and mine has 7"),
    ],
)
def test_workers_with_another_recipe_are_found_out_before_the_first_request(
    lines: str, said: str, replayed: Replayed
) -> None:
    (replayed.folder / "mine.toml").write_text(f'base = "log:{replayed.folder / "shop.toml"}"\n{lines}\n')
    before = sent_to(replayed.house)
    recipe = ("--recipe", str(replayed.folder / "mine.toml"))
    result = replay(replayed, replayed.folder / "shop.csv", "--again", *recipe)
    assert isinstance(result.exception, StartError)
    assert re.search(said, str(result.exception))
    assert "b'" not in str(result.exception)
    assert sent_to(replayed.house) == before


@pytest.mark.e2e
def test_a_house_that_has_learned_before_is_taken_again_and_nothing_graded_is_a_failure(replayed: Replayed) -> None:
    lines = (replayed.folder / "shop.csv").read_text().splitlines()
    few = replayed.folder / "few.csv"
    few.write_text("\n".join([lines[0], *(line.replace(",1,k", ",0,k") for line in lines[1:9])]))
    result = replay(replayed, few, "--again")
    assert result.exit_code == 1, result.output
    assert "log       few.csv" in result.output
    assert "AGAIN: " in result.output
    assert "NOT GRADED: 8 labels came, 0 of them clicks" in result.output
    assert result.output.index("AGAIN") < result.output.index("NOT GRADED")


@pytest.mark.e2e
def test_users_without_events_are_counted_apart_from_examples(replayed: Replayed) -> None:
    known = known_before(replayed.house.settings, ["v1", "nobody"])
    assert (known.users, known.asked) == (1, 2)
    assert known.examples >= LINES
    assert not Known(users=0, asked=2, examples=0)
    assert Known(users=0, asked=2, examples=1)


def test_an_example_is_graded_by_its_final_click_alone() -> None:
    assert to_graded(example(label=1.0)) is not None
    assert to_graded(example(provisional=True)) is None
    assert to_graded(example("conversion")) is None


def graded(number: int, *, signal: float) -> Grades:
    """Makes grades of labels of which the model knows as much as `signal` (in logits) says."""
    rng = np.random.default_rng(0)
    examples, rows = [], []
    for n in range(number):
        logit = rng.standard_normal() * 1.5
        clicked = bool(rng.random() < 1 / (1 + math.exp(-logit)))
        predicted = 1 / (1 + math.exp(-signal * logit))
        examples.append(Graded(f"r{n}", clicked, predicted, n * 10, n * 10 + 5, served_by=n, learned_by=n + 50))
        rows.append(LoggedImpression(user=f"u{n % 50}", item=f"i{n % 7}", event_ms=n * 10, clicked=clicked))
    return grade(examples, rows, open_log("ml-100k").model)


def test_baselines_as_late_as_the_model_know_what_its_updates_knew() -> None:
    examples = [
        Graded("a", 1.0, 0.5, 0, 5, served_by=1, learned_by=3),
        Graded("b", 0.0, 0.5, 10, 15, served_by=2, learned_by=4),
        Graded("c", 0.0, 0.5, 20, 25, served_by=3),
        Graded("d", 1.0, 0.5, 30, 35, served_by=9, learned_by=10),
    ]
    assert at_its_time(examples).known_n.tolist() == [0, 1, 2, 3]
    late = as_the_model(examples)
    assert late.known_n.tolist() == [0, 0, 1, 2]  # the third was never learned
    assert late.order_n[:3].tolist() == [0, 1, 3]


def test_a_model_that_knows_more_is_called_better() -> None:
    grades = graded(3000, signal=1.0)
    assert grades.lag == (49, 49)
    assert grades.lag_of_labels == (0, 0)
    for compared in grades.comparisons.values():
        assert compared.verdicts() == {"auc": "better", "normalized_entropy": "better"}
    assert grades.scores["model"].normalized_entropy.value < 0.9


def test_a_model_that_is_wrong_is_called_worse() -> None:
    for compared in graded(3000, signal=-1.0).comparisons.values():
        assert compared.verdicts() == {"auc": "worse", "normalized_entropy": "worse"}


def test_too_few_data_give_no_verdict() -> None:
    compared = graded(40, signal=0.0).comparisons["user and item means"]
    assert compared.verdicts()["auc"] == "no difference shown"


def test_times_are_moved_only_where_windows_would_close_in_the_future() -> None:
    now_ms = 1_700_000_000_000
    assert shift_into_the_past(now_ms - DAY_MS, 60_000, now_ms) == 0
    moved = shift_into_the_past(now_ms, 60_000, now_ms)
    assert moved == -DAY_MS
    assert shift_into_the_past(now_ms + 10 * DAY_MS, 60_000, now_ms) == -11 * DAY_MS


@pytest.mark.parametrize("recipe", ["log:obd", "log:ml-100k", "log:obd/bts/men"])
def test_workers_find_the_recipe_of_a_log(recipe: str) -> None:
    loaded = load_recipe(recipe)
    assert loaded.clock == "event"
    assert loaded.model == open_log(recipe.removeprefix("log:")).model


def test_a_log_that_is_not_there_is_no_recipe() -> None:
    with pytest.raises(StartError, match="a log is obd, obd/POLICY/CAMPAIGN, ml-100k or a file"):
        load_recipe("log:criteo")


@pytest.mark.parametrize("wrong", [{"speed": 0.0}, {"in_flight": 0}, {"lag": -1}])
def test_a_pace_that_stands_still_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Pace(**wrong)  # type: ignore[arg-type]
