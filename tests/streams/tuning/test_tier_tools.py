"""From simulated traffic to a smaller model that is served, and to a choice of precision beside its snapshots."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ranker.config import ModelConfig
from ranker.engine import Engine
from ranker.learning.learner import Learner
from ranker.learning.state import restore
from ranker.snapshots.snapshot import list_snapshots, load_image, load_training_state
from ranker.tuning.precision import Precision, write_precision
from ranker.updates.log import Position
from streams.config.builtin import RECIPES
from streams.config.load import from_table, load_recipe
from streams.config.low_precision import use_measured_precision
from streams.errors import StartError
from streams.machine import cpu_info
from streams.simulate.config import WORLDS
from streams.tuning.precision import precision_command
from streams.tuning.prune import prune_command, recipe_toml
from streams.tuning.sample import COMPRESS, SimulatedTraffic, newest_weights, take_sample
from streams.tuning.sample_options import SampleOptions
from streams.tuning.tiers import tiers_command

SMALL = """
base = "demo"
[model]
[[model.tiers]]
name = "light"
log_length = 16
hidden = 16
[[model.tiers]]
name = "heavy"
layers = 2
log_length = 16
read_length = 16
hidden = 16
"""
_START = Position(epoch=1, number=1, trainer="t", offset=0)
SAMPLE = ["--train", "96", "--responses", "80"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "small.toml"
    file.write_text(SMALL)
    return file


def test_simulated_logs_hold_the_past_and_labels_are_what_happened(small: Path) -> None:
    model = load_recipe(str(small)).model
    traffic, again = (SimulatedTraffic(model, WORLDS["demo"](), seed=1) for _ in range(2))
    examples, requests = traffic.take(300)
    for labelled, asked in zip(examples, requests, strict=True):
        log = asked.log
        assert len(log) <= 16
        assert (np.diff(log["time_s"].astype(int)) >= 0).all()
        assert (log["time_s"] * 1000.0 <= asked.event_ms).all()
        assert list(labelled.request.items) == list(asked.items[: len(labelled.request.items)])
        assert np.isin(labelled.click_N, (0, 1)).all()
        assert (np.isnan(labelled.conversion_N) == (labelled.click_N == 0)).all()
    assert max(len(r.log) for r in requests) == 16
    same, _ = again.take(300)
    assert all(np.array_equal(a.click_N, b.click_N) for a, b in zip(examples, same, strict=True))
    truth, _ = traffic.take(300, expected=True)
    happened, _ = again.take(300)
    p, y = (np.concatenate([e.click_N for e in some]) for some in (truth, happened))
    assert ((p > 0) & (p < 1)).all()
    assert abs(y.mean() - p.mean()) < 4 * np.sqrt((p * (1 - p)).sum()) / len(p)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_written_as_it_is(name: str) -> None:
    recipe = load_recipe(name)
    assert from_table(tomllib.loads(recipe_toml(recipe))) == recipe


def test_a_pruned_model_is_served_learned_on_and_measured(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "pruned"
    args = ["--recipe", str(small), "--tier", "heavy", "--loss", "1", "--share", "0.2", "--out", str(out), "--json"]
    ran = CliRunner().invoke(prune_command, [*args, *SAMPLE], catch_exceptions=False)
    shown = json.loads(ran.stdout)
    assert shown["operations_gone"] >= 0.2
    assert shown["interval"][0] <= shown["loss"]["loss"] <= shown["interval"][1]
    assert (shown["max_loss"], shown["responses_needed"]) == (1, None)
    said = ran.stderr.splitlines()
    assert said[:2] == ["learning from 96 simulated responses", "sampling 80 more"]
    assert sum(line.startswith("tier heavy: ") for line in said) == len(shown["rounds"])
    recipe = load_recipe(str(out / "recipe.toml"))
    assert {p.mlp: p.hidden for p in recipe.model.tier("heavy").pruned} == shown["pruned"]
    (snapshot,) = list_snapshots(str(out), recipe.model.digest)

    _, (asked, *_) = SimulatedTraffic(recipe.model, WORLDS["demo"](), seed=0).take(1)
    engine = Engine(recipe.model, COMPRESS)
    load_image(snapshot, engine.image)
    full = engine.score("heavy", [asked])[0].pctr
    assert np.isfinite(full).all()
    learner = Learner(recipe.model, recipe.training.learner, COMPRESS)
    restore(learner, load_training_state(snapshot))
    examples, _ = SimulatedTraffic(recipe.model, WORLDS["demo"](), seed=0).take(20)
    assert learner.learn(examples).applied

    args = ["--recipe", str(out / "recipe.toml"), "--snapshot", str(out), "--repeats", "4", "--json"]
    ran = CliRunner().invoke(precision_command, [*args, *SAMPLE], catch_exceptions=False)
    shown = json.loads(ran.output.splitlines()[-1])
    assert [tier["tier"] for tier in shown["tiers"]] == ["light", "heavy"]
    assert Path(shown["written"]).is_file()
    use_measured_precision(engine, str(out))  # whatever this machine chose fits the model


def test_a_loss_that_the_sample_cannot_tell_from_the_budget_is_said(small: Path) -> None:
    args = ["--recipe", str(small), "--tier", "heavy", *SAMPLE]
    unbounded = CliRunner().invoke(prune_command, [*args, "--loss", "1", "--step", "0.3", "--share", "0.3", "--json"])
    found = json.loads(unbounded.stdout)
    budget = found["loss"]["loss"] + found["loss"]["error"] / 2  # a quarter of the labels that it takes
    assert budget > 0
    ran = CliRunner().invoke(prune_command, [*args, "--loss", str(budget), "--step", "0.3", "--share", "0.3"])
    assert f"reaches beyond the budget of {100 * budget:.4f} %: about 32" in ran.stdout.splitlines()[-1]


def _precision(model: ModelConfig, cpu: str) -> Precision:
    _, features = cpu_info(Path("/proc/cpuinfo"))
    layers = {"heavy": {"encoder.layers.0.qkv": "int8"}}
    return Precision(
        digest=model.digest,
        cpu=cpu,
        features=tuple(features),
        torch="2",
        max_loss=1.0,
        layers=layers,  # type: ignore[arg-type]
    )


def test_precision_of_another_cpu_is_left_with_a_reason(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_recipe(str(small)).model
    examples, _ = SimulatedTraffic(model, WORLDS["demo"](), seed=0).take(32)
    asked = examples[-1].request
    cpu, _ = cpu_info(Path("/proc/cpuinfo"))

    def scored(measured_on: str) -> np.ndarray:
        write_precision(str(tmp_path), _precision(model, measured_on))
        engine = Engine(model, COMPRESS)
        engine.image.load(engine.image.tensors(), _START, watermark_ms=0, offsets={})
        use_measured_precision(engine, str(tmp_path))
        return engine.score("heavy", [asked])[0].pctr

    caplog.set_level("INFO")
    elsewhere = scored("Another CPU")
    assert "it was measured on Another CPU" in caplog.text
    assert not np.array_equal(scored(cpu), elsewhere)
    (tmp_path / "precision.json").write_text("{")
    use_measured_precision(Engine(model, COMPRESS), str(tmp_path))
    assert "cannot be read" in caplog.text


def test_what_is_missing_is_said(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(str(small))
    with pytest.raises(StartError, match="holds no snapshot of model"):
        newest_weights(str(tmp_path), recipe.model)
    monkeypatch.delenv("TIDERANK_BOOTSTRAP", raising=False)
    with pytest.raises(StartError, match="TIDERANK_BOOTSTRAP must be set"):
        take_sample(recipe, None, SampleOptions(source="kafka"))
    ran = CliRunner().invoke(prune_command, ["--recipe", str(small), "--tier", "huge"])
    assert isinstance(ran.exception, StartError)
    assert "no tier 'huge'" in str(ran.exception)


def test_a_recipe_whose_model_cannot_be_built_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(SMALL + "pruned = [{mlp = 'nowhere', hidden = 3}]\n")
    ran = CliRunner().invoke(tiers_command, ["--recipe", str(file)])
    assert isinstance(ran.exception, StartError)
    assert "tier 'heavy' has no MLP 'nowhere' to prune" in str(ran.exception)
