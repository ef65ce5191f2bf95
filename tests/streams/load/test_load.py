"""`tiderank load` as a person runs it: everything started, logs filled, rates measured, a picture drawn."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from feature_store.events import action_code
from feature_store.log import LogWant, UserLog
from streams import client
from streams.config.load import load_recipe
from streams.errors import StartError, StreamError
from streams.load import fill
from streams.load.command import load_command, one_tier_recipe
from streams.load.fill import fill_logs
from streams.load.measure import LoadOptions
from streams.runtime.redis_client import connect
from tests.e2e.running import House, check_alive, running

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 400.0


def load(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDERANK_")}
    command = [sys.executable, "-m", "streams.cli", "load", *options]
    return subprocess.run(
        command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


@pytest.mark.e2e
def test_one_command_starts_all_fills_the_logs_and_measures(tmp_path: Path) -> None:
    picture = tmp_path / "latency.png"
    size = ["--users", "10", "--candidates", "20", "--log-length", "100", "--deadline-ms", "5000"]
    run = ["--rate", "5,10", "--seconds", "3", "--warm-up", "2", "--tier", "light"]
    done = load("--up", "--broker", "memory", *size, *run, "--plot", str(picture), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "10 of 100 events, read back; 1000 came by Kafka" in done.stderr
    assert found["log_lengths_at_end"][0] >= 100
    assert [row["rate"] for row in found["rows"]] == [5, 10]
    for row in found["rows"]:
        assert row["requests"] == 3 * row["rate"]
        assert row["timeouts"] == 0
        assert row["tier_share"] == {"light": 1.0}
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99.9"] <= row["latency_ms"]["max"] * 1.01
        assert set(row["phases_ms"]) == {"decode", "fetch", "route", "score"}
    assert sum(row["weight_versions"] for row in found["rows"]) > 2  # the model was learning all the while
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with running(tmp_path, ["ingest"], broker="memory") as up:
        yield up
        check_alive(up)


@pytest.mark.e2e
def test_logs_are_what_ingest_writes_of_events_and_are_filled_once(house: House) -> None:
    log_config = house.settings.recipe.log
    user_log = UserLog(connect(house.settings.redis_url), log_config)
    world = LoadOptions(users=3).world()

    def filled(length: int, run: str) -> int:
        return fill_logs(house.kafka, user_log, log_config, world, length, prefix=f"{run}-{time.time_ns()}")

    assert filled(40, "first") == 3 * 40
    assert filled(40, "again") == 0
    assert filled(60, "longer") == 3 * 20
    for found in user_log.read([LogWant(user, 100) for user in world.user_ids]):
        assert found.position.count == 60
        assert set(found.events["action"].tolist()) == {action_code("view"), action_code("search")}
        assert found.events["time_s"][:40].tolist() == sorted(found.events["time_s"][:40].tolist())
    with pytest.raises(ValueError, match=r"log length must be 0 to 2048, what the recipe keeps; got 4096"):
        filled(4096, "beyond")


@pytest.mark.e2e
def test_what_is_not_running_is_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_ANSWER_S", 2.0)
    addresses = {"TIDERANK_BOOTSTRAP": house.stack.bootstrap, "TIDERANK_REDIS_URL": house.stack.redis_url}
    no_ranker = refusal("--log-length", "5", "--users", "2", "--warm-up", "0", "--seconds", "1", **addresses)
    assert "no request is answered within 2 s; check that `tiderank rank` runs" in no_ranker
    house.stop_workers()
    monkeypatch.setattr(fill, "STALL_S", 1.0)
    house_log = house.settings.recipe.log
    with pytest.raises(StreamError, match=r"events are not stored, 1 s after the last; is `tiderank ingest` running"):
        fill_logs(
            house.kafka,
            UserLog(connect(house.settings.redis_url), house_log),
            house_log,
            LoadOptions(users=2, seed=9).world(),
            10,
            prefix="nobody",
        )


def refusal(*options: str, **environment: str) -> str:
    """What a call that starts nothing says, from the same process."""
    nothing_named = dict.fromkeys(name for name in os.environ if name.startswith("TIDERANK_"))
    result = CliRunner().invoke(load_command, options, env=nothing_named | environment)
    assert result.exit_code != 0
    return result.output if isinstance(result.exception, SystemExit) else str(result.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "0"], "rate must be in"),
        (["--rate", "20,-1"], "rate must be in"),
        (["--rate", "fast"], "rates are numbers with commas between them"),
        (["--rate", "0.1", "--seconds", "1"], "change one of them"),
        (["--candidates", "3000"], "candidates must be 1 to 2000"),
        (["--deadline-ms", "9000"], "1 <= deadline_ms <= timeout_ms <= 600000 must hold"),
        (["--timeout-ms", "100000000000"], "1 <= deadline_ms <= timeout_ms <= 600000 must hold"),
        (["--users", "1000000000"], "users must be 1 to 1000000"),
        (["--p99-ms", "nan"], "a finite number is needed"),
        (["--p99-ms", "0"], "not in the range x>0"),
        (["--warm-up", "1e9"], "rate x seconds must be 1 to 10000000 requests, got 20 x 1e+09"),
        (["--tier", "light"], "--tier and --broker choose what --up starts"),
        (["--up", "--tier", "gigantic"], "no tier 'gigantic'; configured: ['light', 'heavy']"),
        (["--up", "--log-length", "4096"], "log length must be 0 to 2048, what the recipe keeps; got 4096"),
        (["--up", "--log-length", "-1"], "log length must be 0 to 2048, what the recipe keeps; got -1"),
        (["--plot", "latency.pdf"], "--plot writes a .png into a folder that exists"),
        (["--plot", "/proc/latency.png"], "/proc/latency.png"),
        ([], "TIDERANK_BOOTSTRAP must be set"),
    ],
)
def test_senseless_options_are_refused_before_anything_starts(options: list[str], message: str) -> None:
    assert message in refusal(*options)


def test_a_picture_without_matplotlib_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'tiderank[plot]'" in refusal("--plot", "latency.png")


def test_a_broker_that_does_not_answer_is_named() -> None:
    nowhere = {"TIDERANK_BOOTSTRAP": "127.0.0.1:1", "TIDERANK_REDIS_URL": "redis://127.0.0.1:1/0"}
    assert "no Kafka broker answers at 127.0.0.1:1" in refusal(**nowhere)
    assert "log length must be 0 to 2048" in refusal("--log-length", "4096", **nowhere)


def test_a_recipe_of_one_tier_routes_to_it_alone(tmp_path: Path) -> None:
    recipe = load_recipe(one_tier_recipe("demo", "heavy", tmp_path))
    assert [plan.name for plan in recipe.routing.router_plans()] == ["heavy"]
    assert recipe.join == load_recipe("demo").join
    with pytest.raises(StartError, match="no tier 'gigantic'"):
        load_recipe(one_tier_recipe("demo", "gigantic", tmp_path))
    with pytest.raises(StartError, match="--tier goes with a built-in recipe"):
        one_tier_recipe("mine.toml", "light", tmp_path)
