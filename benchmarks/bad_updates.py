"""How long does what is bad go unnoticed, what does it do meanwhile, and how long until all replicas are back?

    python -m benchmarks.bad_updates [--bad 0.05,0.2,0.5,rate,nan] [--rate 20] [--warm-up 150] [--clean 0]

A house of its own (the real Kafka where it can run) with two ranking processes, on the demo's recipe. Once the gate has
a reference and has seen labels for a while, that share of clicks becomes a lie; or (rate) both learning rates become a
thousand times what they were; or (nan) a weight becomes none. Then, on the broker's clock: from the onset to the
trainer's new epoch (which is the order to go back), the responses scored meanwhile with weights published after it, and
from the order to the first response of each replica with the weights gone back to. Poisoned labels can be noticed only
when those of the first poisoned pages are closed: the click window is printed. With --clean S nothing is bad, and
breaches within S seconds, which would be false alarms, are counted.
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.house import house, traffic
from benchmarks.lab.spoiling import SPOIL
from ranker.snapshots.snapshot import list_snapshots
from ranker.updates.record import MalformedRecord, Open, UpdateHeader, peek_header
from streams.config.load import load_recipe
from streams.kafka.connection import Kafka
from streams.kafka.scan import read_topic
from streams.kafka.update_reader import UpdateReader
from streams.local.workers import WorkerProcess
from streams.machine import this_machine
from streams.wire.codec import decode
from streams.wire.messages import RankingResponse
from streams.wire.topics import RESPONSES, TOPICS, UPDATES

REPLICAS = ("one", "two")
WORKERS = (*(f"rank-{name}" for name in REPLICAS), "ingest", "train")
PATIENCE_S = 180.0


@dataclass
class Rollback:
    """Milliseconds since the epoch, of the broker."""

    ordered_ms: int
    epoch: int


class _Ended(Exception):
    """A worker ended by itself."""


def await_rollback(reader: UpdateReader, epoch: int, timeout_s: float, workers: list[WorkerProcess]) -> Rollback | None:
    """The next open of an epoch above this one. Raises _Ended if a worker does not live to see it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for worker in workers:
            if not worker.child.alive():
                raise _Ended(f"{worker.name} ended{worker.child.last_words()}")
        for record in reader.poll(64, timeout_s=0.1):
            header = peek_header(record.value or b"")
            if isinstance(header, Open) and header.epoch > epoch:
                return Rollback(record.timestamp_ms, header.epoch)
    return None


def first_answers(kafka: Kafka, rollback: Rollback) -> dict[str, int]:
    """Milliseconds from the order until each replica's first response with the weights gone back to."""
    deadline = time.monotonic() + 30
    found: dict[str, int] = {}
    while len(found) < len(REPLICAS) and time.monotonic() < deadline:
        time.sleep(1)
        for record in read_topic(kafka, RESPONSES):
            response: RankingResponse = decode(TOPICS[RESPONSES], record.value)
            if response.model is not None and response.model.epoch >= rollback.epoch:
                found.setdefault(response.replica, record.timestamp_ms - rollback.ordered_ms)
    return found


def served_bad(kafka: Kafka, epoch: int, learned_from: int, onset_ms: int) -> int:
    """Responses of the old epoch by weights that had learned from labels of poisoned pages."""
    count = 0
    for record in read_topic(kafka, RESPONSES):
        response: RankingResponse = decode(TOPICS[RESPONSES], record.value)
        if record.timestamp_ms >= onset_ms and response.model is not None and response.model.epoch == epoch:
            count += response.model.number >= learned_from
    return count


def first_update_after(kafka: Kafka, epoch: int, at_ms: int) -> int:
    for record in read_topic(kafka, UPDATES):
        try:
            header = peek_header(record.value or b"")
        except MalformedRecord:
            continue
        if isinstance(header, UpdateHeader) and header.epoch == epoch and record.timestamp_ms >= at_ms:
            return header.number
    return 1 << 53


def measure(bad: str, args: argparse.Namespace) -> None:
    recipe = f'base = "demo"\n[training]\nsnapshot_s = {args.snapshot_s}\n'
    with tempfile.TemporaryDirectory(prefix="tiderank-spoil-") as folder:
        os.environ[SPOIL] = folder
        with (
            house(recipe, WORKERS, module="benchmarks.lab.spoiling") as up,
            traffic(up.kafka, args.rate, seed=args.seed, prefix="bad") as asking,
        ):
            workers, reader = list(up.workers.values()), UpdateReader(up.kafka, start=0)
            false_alarm = await_rollback(reader, 1, args.warm_up + args.clean, workers)
            if false_alarm is not None or args.clean:
                print(f"{'clean':>8}  {'FALSE ALARM' if false_alarm else f'none in {args.clean + args.warm_up} s'}")
                print(_words(workers))
                return
            snapshots = list_snapshots(str(up.home / "snapshots"), up.settings.recipe.model.digest)
            onset_ms = time.time_ns() // 1_000_000
            if bad in ("rate", "nan"):
                (Path(folder) / bad).touch()
            else:
                asking.commands.put(f"poison {float(bad)}")
            rollback = await_rollback(reader, 1, PATIENCE_S, workers)
            if rollback is None:
                print(f"{bad:>8}  not noticed in {PATIENCE_S:.0f} s ({len(snapshots)} snapshots)")
                print(_words(workers))
                return
            back = first_answers(up.kafka, rollback)
            served = served_bad(up.kafka, 1, first_update_after(up.kafka, 1, onset_ms), onset_ms)
            print(
                f"{bad:>8}  {(rollback.ordered_ms - onset_ms) / 1000:>10.1f} s  {served:>10}  "
                + ", ".join(f"{name} {ms} ms" for name, ms in sorted(back.items()))
                + f" (image {sum(shard.size for shard in snapshots[-1].manifest.parts['image']) / 1e6:.1f} MB)",
                flush=True,
            )
            if args.words:
                print(_words(workers))


def _words(workers: list[WorkerProcess]) -> str:
    return workers[-1].child.last_words()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bad", default="0.05,0.2,0.5,rate,nan", help="shares of poisoned clicks; rate; nan")
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--warm-up", type=float, default=150, help="seconds before the onset")
    parser.add_argument("--snapshot-s", type=float, default=15)
    parser.add_argument("--clean", type=float, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", action="store_true", help="what the trainer logged last")
    args = parser.parse_args()
    recipe = load_recipe("demo")
    print(f"{this_machine()}; {args.rate:g} requests/s, click window {recipe.join.click_window_ms} ms")
    print(f"{'bad':>8}  {'detected':>12}  {'served bad':>10}  back after the order")
    for bad in args.bad.split(","):
        measure(bad, args)


if __name__ == "__main__":
    main()
