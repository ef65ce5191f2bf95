"""Bad labels, a bad learning rate, and a rollback by hand: replicas are back on good weights, and learning goes on."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ranker.snapshots.snapshot import list_snapshots
from ranker.updates.record import Open, UpdateHeader, peek_header
from streams.client import RankingClient
from streams.kafka.tail import Tail
from streams.kafka.update_reader import UpdateReader
from streams.local.workers import WorkerProcess
from streams.simulate.config import demo
from streams.simulate.driver import Commands, Phase, simulate
from streams.simulate.world import World
from streams.wire.codec import decode
from streams.wire.messages import RankingResponse
from streams.wire.topics import RESPONSES, TOPICS
from tests.e2e.running import RECIPE, House, check_alive, running

pytestmark = pytest.mark.e2e

SOON = (
    RECIPE.replace("snapshot_s = 5.0", "snapshot_s = 5.0\nsnapshots_kept = 50")
    + """
[training.gate]
reference_labels = 1000
reopen_labels = 200
strange_tolerance = 0.5
worse_tolerance = 0.5
"""
)
"""A reference that has learned little judges with much tolerance. Snapshots stay until a slow machine names one."""
PATIENCE_S = 240.0


@contextmanager
def traffic(house: House) -> Iterator[Commands]:
    commands = Commands()

    def drive() -> None:
        world = World(replace(demo(), candidates_median=30, candidates_max=60), seed=3)
        with RankingClient(house.kafka) as client:
            simulate(client, world, [Phase(rate=20, seconds=3_600)], prefix="gate", commands=commands, drain_s=0)

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        yield commands
    finally:
        commands.put("stop")
        thread.join()


class Log:
    """What comes on the log of the weights."""

    def __init__(self, house: House) -> None:
        self._house, self._reader = house, UpdateReader(house.kafka, start=0)

    def epoch(self, above: int) -> Open:
        """The next open of a higher epoch."""
        header = self._await(lambda h: isinstance(h, Open) and h.epoch > above)
        assert isinstance(header, Open)
        return header

    def newest_epoch(self) -> Open:
        """The last open on the log."""
        newest, ended = None, False
        while not ended:
            for record in self._reader.poll(64, timeout_s=1.0):
                header = peek_header(record.value or b"")
                newest = header if isinstance(header, Open) else newest
            ended = self._reader.at_end
        assert newest is not None
        return newest

    def update(self, epoch: int, at_least: int) -> UpdateHeader:
        header = self._await(lambda h: isinstance(h, UpdateHeader) and h.epoch == epoch and h.number >= at_least)
        assert isinstance(header, UpdateHeader)
        return header

    def taught(self, labels: int) -> UpdateHeader:
        """The next update of a model that has learned from more labels than these."""
        header = self._await(
            lambda h: isinstance(h, UpdateHeader) and h.grades is not None and h.grades.get("learned", 0) > labels
        )
        assert isinstance(header, UpdateHeader)
        return header

    def _await(self, wanted: Callable[[Open | UpdateHeader], bool]) -> Open | UpdateHeader:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for record in self._reader.poll(1, timeout_s=0.1):
                header = peek_header(record.value or b"")
                if wanted(header):
                    return header
        raise TimeoutError(f"not on the log within {PATIENCE_S} s")


def await_reference(house: House, number: int) -> None:
    """Returns once labels are judged by the model at a snapshot after this update.

    With windows of 1.5 s and a snapshot each 5 s, each second one is a candidate, which is the reference from the next
    candidate on. Bad labels that come before would be learned, and all that a reference knows.
    """
    deadline = time.monotonic() + PATIENCE_S
    while sum(s.manifest.position.number > number for s in list_snapshots(house.settings.snapshots, digest(house))) < 5:
        assert time.monotonic() < deadline, f"no five snapshots after update {number}: {snapshots(house)}"
        time.sleep(0.2)


def await_served(house: House, epoch: int) -> None:
    """Waits until a response that comes from now on was scored with weights of this epoch."""
    deadline = time.monotonic() + PATIENCE_S
    with closing(Tail(house.kafka, [RESPONSES])) as tail:
        while time.monotonic() < deadline:
            responses: list[RankingResponse] = [decode(TOPICS[RESPONSES], r.value) for r in tail.poll(timeout_s=0.5)]
            if any(r.model is not None and r.model.epoch == epoch for r in responses):
                return
    raise TimeoutError(f"no response with epoch {epoch}")


def await_end(worker: WorkerProcess) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while worker.child.alive():
        assert time.monotonic() < deadline, f"{worker.name} goes on{worker.child.last_words()}"
        time.sleep(0.2)


def snapshots(house: House) -> list[str]:
    return [s.name for s in list_snapshots(house.settings.snapshots, digest(house))]


def digest(house: House) -> str:
    return house.settings.recipe.model.digest


def test_bad_labels_a_bad_rate_and_a_rollback_by_hand(tmp_path: Path) -> None:
    with running(tmp_path, ["rank", "ingest", "train"], recipe=SOON) as house, traffic(house) as commands:
        log = Log(house)
        first = log.epoch(above=0).epoch
        await_reference(house, log.taught(labels=1_000).number)

        commands.put("poison 0.9")  # found before a reference has learned it, on a busy machine too
        rollback = log.epoch(above=first)
        assert rollback.base is not None
        assert rollback.base[0] == first
        back = log.update(rollback.epoch, at_least=1)
        assert back.quarantined
        assert all(start < end for start, end in back.quarantined.values())
        await_served(house, rollback.epoch)

        commands.put("poison 0")
        going_on = log.update(rollback.epoch, at_least=3)
        assert going_on.epoch == rollback.epoch
        check_alive(house)

        # by hand
        to = snapshots(house)[-1]
        by_hand = command(house, "rollback", "--to", to, "--json")
        assert by_hand.returncode == 0, by_hand.stderr
        done = json.loads(by_hand.stdout)
        assert done["to"] == to
        third = log.epoch(above=rollback.epoch).epoch
        await_served(house, third)
        ended = house.workers.pop("train")
        await_end(ended)
        assert "another trainer has opened a newer epoch" in ended.child.last_words()
        # One that was being written when the epoch opened may come after: no trainer begins there, for this one's do.
        assert not set(done["void"]) & set(snapshots(house))

        # a learning rate a thousand times too high: two rollbacks, then it ends; replicas hold what is good
        (tmp_path / "rate.toml").write_text(SOON.replace("[training]", "[training]\nlearner.dense_rate = 1"))
        bad = WorkerProcess(
            "train",
            home=house.home,
            bootstrap=house.stack.bootstrap,
            redis_url=house.stack.redis_url,
            recipe=str(tmp_path / "rate.toml"),
        )
        bad.child.start()
        await_end(bad)
        assert "going on would not help" in bad.child.last_words()
        of_the_bad = log.newest_epoch()
        assert of_the_bad.base is not None
        assert of_the_bad.base[0] <= third  # nothing that it learned is gone back to
        house.start("train")
        last = log.epoch(above=of_the_bad.epoch).epoch
        log.update(last, at_least=5)
        await_served(house, last)
        check_alive(house)


def command(house: House, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "TIDERANK_BOOTSTRAP": house.stack.bootstrap,
        "TIDERANK_REDIS_URL": house.stack.redis_url,
        "TIDERANK_SNAPSHOTS": house.settings.snapshots,
        "TIDERANK_RECIPE": str(house.home.parent / "recipe.toml"),
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
    }
    whole = [sys.executable, "-m", "streams.cli", *words]
    return subprocess.run(whole, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
