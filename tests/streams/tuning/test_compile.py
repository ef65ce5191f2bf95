"""From `tiderank compile` to a worker that scores by its graph."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ranker.compiled.build import compiler
from ranker.engine import Engine
from ranker.inputs.requests import ScoringRequest
from ranker.tuning.cost import made_up_request
from ranker.updates.log import Position
from streams.config.load import load_recipe
from streams.runtime import metrics as metric
from streams.tuning.compile import compile_command
from streams.tuning.sample import COMPRESS
from streams.workers.rank.compiled import use_compiled_graphs

RECIPE = """
base = "demo"
[model]
[[model.tiers]]
name = "only"
log_length = 16
hidden = 16
[routing]
tiers = ["only"]
cascades = []
"""


@pytest.fixture(autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path_factory.getbasetemp() / "of-compiling"
    monkeypatch.setenv("TIDERANK_COMPILED", str(root / "compiled"))
    monkeypatch.setenv("TIDERANK_SNAPSHOTS", str(root / "snapshots"))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def engine_of(recipe: Path) -> Engine:
    engine = Engine(load_recipe(str(recipe)).model, COMPRESS)
    engine.image.position = Position(epoch=1, number=1, trainer="t", offset=0)
    return engine


def probe() -> ScoringRequest:
    return made_up_request(30, 16)


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler here: nothing can be compiled")
def test_what_is_compiled_is_what_a_worker_scores_by(recipe: Path) -> None:
    run = CliRunner().invoke
    first = run(compile_command, ["--recipe", str(recipe), "--json"], catch_exceptions=False)
    (built,) = json.loads(first.stdout.splitlines()[-1])["tiers"]
    assert built["seconds"] > 1
    assert built["difference"] < 1e-5
    again = run(compile_command, ["--recipe", str(recipe)], catch_exceptions=False)
    assert "was there" in again.stdout

    plain, engine = engine_of(recipe), engine_of(recipe)
    use_compiled_graphs(engine, Path(built["path"]).parent)
    assert metric.COMPILED.labels("only")._value.get() == 1
    expected, got = plain.score("only", [probe()])[0], engine.score("only", [probe()])[0]
    np.testing.assert_allclose(got.pctr, expected.pctr, rtol=0, atol=1e-6)
    engine.image.dense["only/heads.out_bias"].add_(1.0)
    assert (engine.score("only", [probe()])[0].pctr > got.pctr + 0.01).all(), "by the graph, over the live weights"


def test_a_worker_without_graphs_says_how_to_make_them(
    recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(recipe)
    with caplog.at_level(logging.INFO):
        use_compiled_graphs(engine, tmp_path / "none")
    assert "tiderank compile" in caplog.text
    assert metric.COMPILED.labels("only")._value.get() == 0
    assert len(engine.score("only", [probe()])[0].pctr) == 30


def test_a_file_that_is_no_graph_is_left_with_a_reason(
    recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from ranker.compiled.folder import graph_file

    engine = engine_of(recipe)
    graph_file(tmp_path, engine.config.digest, "only", {}).write_bytes(b"no graph")
    use_compiled_graphs(engine, tmp_path)
    assert "cannot be used" in caplog.text
    assert len(engine.score("only", [probe()])[0].pctr) == 30


def test_compiling_without_a_compiler_says_what_is_missing(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TIDERANK_COMPILED", str(recipe.parent))
    ran = CliRunner().invoke(compile_command, ["--recipe", str(recipe)])
    assert ran.exit_code == 1
    assert "needs a C++ compiler" in str(ran.exception)
