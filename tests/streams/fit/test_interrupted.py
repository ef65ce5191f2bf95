"""Ctrl-C during `tiderank fit`, as a terminal sends it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from ranker.tabular.saved import load_model
from tests.ranker.tabular.tables import clicks
from tests.streams.fit.running import files, run, write

HUGE = ("--layers", "8", "--hidden", "8192", "--tokens", "64")
"""Whose minibatches take seconds."""


def interrupted(line: str, *arguments: object, again_s: float | None = None) -> tuple[int, str, str]:
    """Exit status and both outputs of a fit that gets SIGINT when it has printed a line that begins so."""
    command = [sys.executable, "-m", "streams.cli", "fit", *map(str, arguments), "--label", "click"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = ""
        while not printed.startswith(line):
            printed = process.stdout.readline()
            assert printed, "it ended before"
        process.send_signal(signal.SIGINT)
        if again_s is not None:
            time.sleep(again_s)
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        return process.returncode, printed + out, err


def test_the_best_epoch_so_far_is_kept_and_saved(tmp_path: Path) -> None:
    train, valid, _ = files(tmp_path)
    endless = (train, "--valid", valid, "--patience", 10**6, "--epochs-max", 10**6)
    status, out, err = interrupted("epoch   3", *endless, "--model", tmp_path / "model")
    assert status == 0
    assert "interrupted: the best epoch so far is kept" in err
    best = [line for line in out.splitlines() if line.endswith("best so far")][-1]
    figures = out.splitlines()[-1].removeprefix("validation: ")
    assert figures in best
    load_model(tmp_path / "model")
    scored = run("score", tmp_path / "model", valid, "--label", "click")
    assert figures in scored.stdout


def test_without_a_model_to_save_the_status_says_so(tmp_path: Path) -> None:
    train, *_ = files(tmp_path)
    status, out, _ = interrupted("epoch   1", train, "--patience", 10**6, "--epochs-max", 10**6)
    assert status == 130
    assert out.splitlines()[-1].startswith("validation: AUC")


def test_a_search_is_ended_with_its_best_trial(tmp_path: Path) -> None:
    train, *_ = files(tmp_path)
    words = ("--search", 60, "--epochs-max", 1, "--model", tmp_path / "model")
    status, out, err = interrupted("trial   1", train, *words)
    assert status == 0
    assert "interrupted" in err
    losses = [float(line.split("log loss ")[1].split()[0]) for line in out.splitlines() if line.startswith("trial")]
    assert f" log loss {min(losses):.5f} " in out.splitlines()[-1]
    load_model(tmp_path / "model")


def test_in_the_first_epoch_there_is_nothing_to_keep(tmp_path: Path) -> None:
    train = write(clicks(60_000), tmp_path / "train.parquet")
    status, _, err = interrupted("54000 rows to learn from", train, "--tier", "heavy", "--model", tmp_path / "model")
    assert status == 130
    assert "interrupted before the first epoch ended: there is no model to keep" in err
    assert not list((tmp_path / "model").iterdir())


def test_a_second_one_aborts_at_once(tmp_path: Path) -> None:
    train = write(clicks(60_000), tmp_path / "train.parquet")
    status, _, err = interrupted("54000 rows to learn from", train, *HUGE, again_s=2)
    assert status in (130, -signal.SIGINT)  # the interpreter may be on its way out when the second comes
    assert "interrupted" not in err
