"""`tiderank fit --search`: what it prints, keeps and saves."""

import json
import re
from pathlib import Path

import click
import pytest

from ranker.tabular.config import SPACE
from tests.streams.fit.running import files, fit, run

ONE_OPEN = ("--embedding-width", 8, "--batch", 32, "--embedding-l2", 0.02)
"""Leaves dropout alone to choose: three trials."""


def test_it_prints_a_line_a_trial_and_the_options_that_it_chose_which_make_the_same_model_again(tmp_path: Path) -> None:
    train, valid, test = files(tmp_path)
    rest = ("--valid", valid, "--test", test, "--label", "click", "--epochs-max", 2)
    result = run("fit", train, *rest, "--search", 60, *ONE_OPEN, "--model", tmp_path / "model")
    lines = result.stdout.splitlines()
    trials = [line for line in lines if line.startswith("trial ")]
    assert not any(line.startswith("epoch ") for line in lines)
    assert len(trials) == len(SPACE["dropout"])
    line = r"trial +(\d)  (--.*)  validation log loss (\d\.\d+)  2 epochs  \d+\.\d s(  best so far)?"
    told = [match.groups() for match in (re.fullmatch(line, trial) for trial in trials) if match]
    number, options, *_ = min(told, key=lambda trial: float(trial[2]))
    assert "--embedding-width 8 --batch 32 --embedding-l2 0.02 --dropout 0.03" in told[0][1]
    assert f"chosen: trial {number} of 3: {options}" in lines
    again = run("fit", train, *rest, *options.split())
    assert again.stdout.splitlines()[-1] == lines[-1]
    assert lines[-1].startswith("test: AUC")
    scored = run("score", tmp_path / "model", test, "--label", "click").stdout
    assert scored.splitlines()[-1] == lines[-1].removeprefix("test: ")


def test_test_rows_choose_nothing(tmp_path: Path) -> None:
    train, valid, test = files(tmp_path)
    search = ("--valid", valid, "--search", 60, *ONE_OPEN)
    found = [fit(train, *search, "--test", graded) for graded in (test, train)]
    assert found[0]["auc"] != found[1]["auc"]
    for part in ("settings", "logloss"):
        assert [trial[part] for trial in found[0]["trials"]] == [trial[part] for trial in found[1]["trials"]]
    losses = [trial["logloss"] for trial in found[0]["trials"]]
    assert found[0]["chosen_trial"] == found[1]["chosen_trial"] == 1 + losses.index(min(losses))
    assert found[0]["history"][found[0]["best_epoch"] - 1]["valid"]["logloss"] == min(losses)


def test_where_no_file_validates_the_rows_that_are_held_out_choose(tmp_path: Path) -> None:
    train, *_ = files(tmp_path)
    found = fit(train, "--search", 60, *ONE_OPEN)
    assert found["rows"] == {"train": 1350, "valid": 150, "test": 0}
    assert found["logloss"] == min(trial["logloss"] for trial in found["trials"])


def test_where_the_time_ends_in_the_first_trial_the_defaults_are_kept_and_it_is_said(tmp_path: Path) -> None:
    train, *_ = files(tmp_path)
    result = run("fit", train, "--label", "click", "--search", 1e-9, "--model", tmp_path / "model", "--json")
    found = json.loads(result.stdout)
    assert "the time ran out in the first trial" in result.stderr
    assert [(trial["epochs"], trial["cut"]) for trial in found["trials"]] == [(1, True)]
    assert found["config"] == fit(train)["config"] | {"epochs_max": 100}
    assert "p" in run("score", tmp_path / "model", train, "--label", "click").stdout


def test_without_it_there_is_one_trial_and_lines_of_epochs(tmp_path: Path) -> None:
    train, *_ = files(tmp_path)
    found = fit(train)
    assert [trial["logloss"] for trial in found["trials"]] == [found["logloss"]]
    plain = run("fit", train, "--label", "click", "--epochs-max", 1).stdout
    assert "trial" not in plain
    assert "chosen" not in plain


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_are_more_than_none_and_finite(minutes: str) -> None:
    with pytest.raises(click.BadParameter):
        run("fit", "train.parquet", "--label", "click", "--search", minutes)


def test_a_search_of_nothing_is_refused() -> None:
    with pytest.raises(click.UsageError, match=r"nothing to choose: all of --embedding-width .* leave one out"):
        run("fit", "train.parquet", "--label", "click", "--search", 1, *ONE_OPEN, "--dropout", 0.1)
