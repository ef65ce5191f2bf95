"""How long do bad labels go unnoticed, what do they do meanwhile, and how long until all replicas are back?

    python -m benchmarks.bad_updates [--poisoned 0.05,0.2,0.5] [--rate 20] [--warm-up 90] [--clean 0]

A house of its own (the real Kafka where it can run) with two ranking processes, on the demo's recipe. Once the gate has
a reference and has seen labels for a while, that share of clicks becomes a lie. Then, on the broker's clock: from the
onset to the trainer's new epoch (which is the order to go back), the responses scored meanwhile with weights that had
learned from poisoned labels, and from the order to the first response of each replica with the weights gone back to.
Detection can begin only when the labels of the first poisoned pages are closed: the click window is printed. With
--clean S there is no poison, and breaches within S seconds, which would be false alarms, are counted.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ranker.snapshot import list_snapshots
from ranker.updates import MalformedRecord, Open, UpdateHeader, peek_header
from streams.client import RankingClient
from streams.codec import decode
from streams.kafka import Kafka
from streams.load.report import this_machine
from streams.local.stack import LocalStack, local_stack
from streams.local.workers import WorkerProcess
from streams.messages import RankingResponse
from streams.recipe import load_recipe
from streams.scan import read_topic
from streams.simulate.config import WORLDS
from streams.simulate.driver import Commands, Phase, simulate
from streams.simulate.world import World
from streams.topics import RESPONSES, TOPICS, UPDATES
from streams.updates import UpdateReader

REPLICAS = ("one", "two")
PATIENCE_S = 180.0


@dataclass
class Rollback:
    """Milliseconds since the epoch, of the broker."""

    ordered_ms: int
    epoch: int


class _Ended(Exception):
    """A worker ended by itself."""


@contextmanager
def house(home: Path, recipe: str) -> Iterator[tuple[LocalStack, list[WorkerProcess]]]:
    with local_stack(home, broker="auto") as stack:
        Kafka(stack.bootstrap, {}).create_topics()
        names = [("rank", replica) for replica in REPLICAS] + [("ingest", "one"), ("train", "one")]
        workers = [
            WorkerProcess(
                name,
                home=home,
                bootstrap=stack.bootstrap,
                redis_url=stack.redis_url,
                recipe=recipe,
                instance=instance,
            )
            for name, instance in names
        ]
        try:
            for worker in workers:
                worker.child.start()
            for worker in workers:
                worker.await_ready()
            yield stack, workers
        finally:
            for worker in workers:
                worker.child.stop()


@contextmanager
def traffic(kafka: Kafka, rate: float, seed: int) -> Iterator[Commands]:
    """Until the block ends; by what it hands over it is steered."""
    commands = Commands()

    def drive() -> None:
        with RankingClient(kafka) as client:
            world = World(WORLDS["demo"](), seed=seed, start_ms=time.time_ns() // 1_000_000)
            simulate(client, world, [Phase(rate=rate, seconds=86_400)], prefix="bad", commands=commands, drain_s=0)

    thread = threading.Thread(target=drive, daemon=True)
    thread.start()
    yield commands
    commands.put("stop")
    thread.join(30)


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


def measure(share: float, args: argparse.Namespace) -> None:
    recipe = load_recipe("demo")
    with tempfile.TemporaryDirectory(prefix="tiderank-bad-") as folder:
        home = Path(folder)
        path = home / "recipe.toml"
        path.write_text(f'base = "demo"\n[training]\nsnapshot_s = {args.snapshot_s}\n')
        with house(home / "data", str(path)) as (stack, workers):
            kafka = Kafka(stack.bootstrap, {})
            reader = UpdateReader(kafka, start=0)
            with traffic(kafka, args.rate, args.seed) as commands:
                false_alarm = await_rollback(reader, 1, args.warm_up + args.clean, workers)
                if false_alarm is not None or args.clean:
                    print(f"{'clean':>8}  {'FALSE ALARM' if false_alarm else f'none in {args.clean + args.warm_up} s'}")
                    print(_words(workers))
                    return
                snapshots = len(list_snapshots(str(home / "data" / "snapshots"), recipe.model.digest))
                onset_ms = time.time_ns() // 1_000_000
                commands.put(f"poison {share}")
                rollback = await_rollback(reader, 1, PATIENCE_S, workers)
                if rollback is None:
                    print(f"{share:>8.0%}  not noticed in {PATIENCE_S:.0f} s ({snapshots} snapshots)")
                    print(_words(workers))
                    return
                back = first_answers(kafka, rollback)
                first = first_update_after(kafka, 1, onset_ms)
                served = served_bad(kafka, 1, first, onset_ms)
                print(
                    f"{share:>8.0%}  {(rollback.ordered_ms - onset_ms) / 1000:>10.1f} s  {served:>10}  "
                    + ", ".join(f"{name} {ms} ms" for name, ms in sorted(back.items())),
                    flush=True,
                )
                if args.words:
                    print(_words(workers))


def _words(workers: list[WorkerProcess]) -> str:
    return str(workers[-1].child.last_words())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--poisoned", default="0.05,0.2,0.5")
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--warm-up", type=float, default=90, help="seconds before the onset")
    parser.add_argument("--snapshot-s", type=float, default=15)
    parser.add_argument("--clean", type=float, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", action="store_true", help="what the trainer logged last")
    args = parser.parse_args()
    recipe = load_recipe("demo")
    print(f"{this_machine()}; {args.rate:g} requests/s, click window {recipe.join.click_window_ms} ms")
    print(f"{'poisoned':>8}  {'detected':>12}  {'served bad':>10}  back after the order")
    for share in map(float, args.poisoned.split(",")):
        measure(share, args)


if __name__ == "__main__":
    main()
