"""A worker that dies, as by kill -9, at a named point of its code, once it is told to.

    python -m benchmarks.lab.faulty WORKER

As `tiderank WORKER`, but that it dies at a point of POINTS when a file of that point's name lies in the folder
TIDERANK_FAULTS/WORKER; the file goes with it. Updates are cut into small records, so that there is a middle to die in.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.lab.patched import run_patched

FAULTS = "TIDERANK_FAULTS"
POINTS = {
    "ingest": ("stored", "closed", "produced"),
    "train": ("produced", "mid_update", "mid_snapshot"),
    "rank": ("produced",),
    "rewards": ("stored", "produced"),
    "learn": ("produced",),
}
"""stored: after Redis, before the produce. closed: windows swept, before the produce. produced: after the produce,
before the commit."""
RECORD_BYTES = 60_000


def order(folder: Path, worker: str, point: str) -> Path:
    """Tells the worker to die there; returns the file, which is gone once it has."""
    path = folder / worker / point
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def _die_if_told(worker: str, point: str) -> None:
    path = Path(os.environ[FAULTS]) / worker / point
    if path.exists():
        path.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def _after(owner: Any, name: str, worker: str, point: str, applies: Callable[[Any], bool]) -> None:
    """Die behind a method whose result is such."""
    plain = getattr(owner, name)

    def method(*args: Any, **kwargs: Any) -> Any:
        result = plain(*args, **kwargs)
        if applies(result):
            _die_if_told(worker, point)
        return result

    setattr(owner, name, method)


def _dies_before_the_commit(worker: str) -> None:
    outbox: Any = import_module("streams.kafka.outbox").Outbox
    plain = outbox.commit

    def commit(self: Any, consumer: Any) -> Any:
        if any(batch.offsets for batch in self._sealed):
            self._producer.flush(1.0)
            _die_if_told(worker, "produced")
        return plain(self, consumer)

    outbox.commit = commit


def _ingest() -> None:
    joiner = import_module("feature_store.join").Joiner
    _after(joiner, "apply", "ingest", "stored", lambda replies: any(reply.labels for reply in replies))
    _after(joiner, "sweep", "ingest", "closed", bool)
    _dies_before_the_commit("ingest")


def _train() -> None:
    snapshot: Any = import_module("ranker.snapshots.snapshot")
    update_writer: Any = import_module("streams.workers.train.update_writer")
    plain_shards = snapshot.write_shards
    update_writer.encode_update = partial(update_writer.encode_update, max_bytes=RECORD_BYTES)

    def write_shards(fs: Any, folder: str, part: str, *rest: Any) -> Any:
        if part == "training":  # the image is there, and no manifest
            _die_if_told("train", "mid_snapshot")
        return plain_shards(fs, folder, part, *rest)

    plain_send = update_writer.UpdateWriter.send

    def send(self: Any, records: list[bytes]) -> int:
        if len(records) > 1 and (Path(os.environ[FAULTS]) / "train" / "mid_update").exists():
            plain_send(self, records[: len(records) // 2])
            self._outbox._producer.flush(1.0)
            _die_if_told("train", "mid_update")
        return int(plain_send(self, records))

    snapshot.write_shards = write_shards
    update_writer.UpdateWriter.send = send
    _dies_before_the_commit("train")


def _rewards() -> None:
    windows: Any = import_module("router_bandit.windows").RewardWindows
    plain_take, plain_settle = windows.take, windows.settle

    async def take(self: Any, *args: Any) -> Any:
        taken = await plain_take(self, *args)
        _die_if_told("rewards", "stored")
        return taken

    async def settle(self: Any, *args: Any) -> Any:  # what was swept has been acknowledged
        _die_if_told("rewards", "produced")
        return await plain_settle(self, *args)

    windows.take, windows.settle = take, settle


def main() -> None:
    patches: dict[str, Callable[[], None]] = {
        "ingest": _ingest,
        "train": _train,
        "rewards": _rewards,
        "rank": partial(_dies_before_the_commit, "rank"),
        "learn": partial(_dies_before_the_commit, "learn"),
    }
    run_patched(patches[sys.argv[1]])


if __name__ == "__main__":
    main()
