"""`tiderank demo` as a person runs it: to its end on a real Kafka, ended by Ctrl-C, and with a worker that dies."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from streams.freshness.meter import STAGES

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 400.0
"""Most of it is other work on a busy machine: alone, the demo takes about a minute and a half."""


class Demo:
    """A demo as a child process; standard error, where its lines go with --json, is a file."""

    def __init__(self, home: Path, options: Sequence[str]) -> None:
        self._log = home / "stderr"
        command = [sys.executable, "-m", "streams.cli", "demo", "--json", "--data", str(home), *options]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # A background job of a shell without job control ignores SIGINT, and so would all that it starts.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  no threads here
            )

    def said(self) -> str:
        return self._log.read_text()

    def await_line(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + TIMEOUT_S
        while (found := re.search(pattern, self.said())) is None:
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)
        return found

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def result(self) -> tuple[int, dict[str, Any]]:
        """Exit status, and what it printed: one JSON object and nothing else."""
        out, _ = self._process.communicate(timeout=TIMEOUT_S)
        [text] = out.splitlines()
        return self._process.returncode, json.loads(text)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def processes_of(folder: Path) -> list[str]:
    """Command lines of the running processes that name this folder in arguments or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in text:
                found.append(text.split(b"\0\0")[0].decode(errors="replace")[:200])
    return found


def test_a_demo_on_kafka_ends_by_itself_and_has_shown_everything(tmp_path: Path) -> None:
    demo = Demo(tmp_path, ["--seconds", "8", "--warm-up-examples", "3000", "--broker", "kafka"])
    try:
        status, shown = demo.result()
    finally:
        demo.end()
    assert (status, shown["exit_reason"], shown["part"]) == (0, "finished", "measured"), demo.said()
    assert shown["requests"] == shown["responses"] >= 8 * 20 * 0.9
    assert shown["fallbacks"] <= shown["responses"]
    assert 0 < shown["latency_ms"]["p50"] <= shown["latency_ms"]["p99"]
    assert 0 < shown["freshness_ms"]["p50"] <= shown["freshness_ms"]["p99"]
    assert set(shown["freshness"]["click"]["stages_ms"]) == set(STAGES)
    assert shown["examples_before_freeze"] >= 3_000
    assert shown["examples_after_freeze"] >= shown["examples_trained"] > 0
    assert 0 < shown["updates_applied"] <= shown["updates_published"]
    assert 0 < shown["ne_live"] < 1.2
    assert shown["ne_frozen"] > 0
    low, high = shown["ne_difference_95"]
    assert low <= shown["ne_live"] - shown["ne_frozen"] <= high
    assert sum(shown["tier_share"].values()) == pytest.approx(1.0, abs=0.001)
    assert shown["user_log"]["events"] > 1_000
    assert (shown["events_lost"], shown["events_stored_twice"], shown["audit_ok"]) == (0, 0, True), shown["audit"]
    assert shown["dead_letters"] == 0
    assert {path.stem for path in (tmp_path / "demo" / "logs").iterdir()} >= {"kafka", "rank-local", "train-local"}
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("end", ["interrupted", "worker died"])
def test_a_demo_that_is_ended_early_says_so_and_sums_up(tmp_path: Path, end: str) -> None:
    demo = Demo(tmp_path, ["--seconds", "30", "--broker", "memory"])
    try:
        demo.await_line(r"warm-up .* answered [1-9]\d+/")
        if end == "interrupted":
            demo.interrupt()
        else:
            os.kill(int(demo.await_line(r"ingest: ready, process (\d+)")[1]), signal.SIGKILL)
        status, shown = demo.result()
    finally:
        demo.end()
    assert shown["part"] == "warm-up"
    assert shown["responses"] > 0
    assert shown["ne_frozen"] is None
    assert shown["audit"] is not None
    if end == "interrupted":
        assert (status, shown["exit_reason"]) == (130, "interrupted")
    else:
        assert status == 1
        assert shown["exit_reason"] == "ingest ended by itself"
        assert "ingest-local.log" in shown["last_words"]
    assert processes_of(tmp_path) == []
