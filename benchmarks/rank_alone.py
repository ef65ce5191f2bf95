"""What does ranking itself take, and how fast is one ranking worker that nobody waits for?

    python -m benchmarks.rank_alone [--tiers light,medium] [--requests 20000] [--candidates 100] [--log-length 512]

For each tier alone: starts a house on the real Kafka, fills the users' logs and lets the trainer publish for a while.
Then all workers stop, the requests are put on the topic, and a ranking worker starts that has nothing else to do.
Twice: by compiled graphs (made where they are missing, as `tiderank compile` does) and by operators. Milliseconds of
processor time are of all threads of a process, from the first tenth of the answers to the last one.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.lab.house import by_process
from kernels.linear_compress import bind
from ranker.compiled.build import compiler
from ranker.engine import Engine
from streams.client import RankingClient
from streams.config.load import load_recipe
from streams.config.settings import COMPILED, compiled_folder
from streams.kafka.connection import Kafka
from streams.kafka.scan import ends, read_topic
from streams.load.command import one_tier_recipe
from streams.load.measure import LoadOptions
from streams.load.run import prepared_load
from streams.local.house import WORKERS, House, private_house
from streams.machine import this_machine
from streams.tuning.compile import build_tier
from streams.wire.codec import decode
from streams.wire.headers import MAX_DEADLINE_MS
from streams.wire.messages import RankingRequest
from streams.wire.topics import REQUESTS, RESPONSES, TOPICS

_WARM_UP = 10.0, 10.0
"""Requests a second, and seconds, while the trainer publishes."""


@dataclass(frozen=True, slots=True)
class Found:
    """Figures of the requests behind the first tenth."""

    requests: int
    seconds: float
    milliseconds: dict[str, float]
    """Processor time a request, by process."""

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def measure(recipe: str, folders: dict[str, Path], args: argparse.Namespace) -> dict[str, Found]:
    """What ranking took by way: where graphs lie that a worker may use."""
    options = LoadOptions(seconds=1, candidates=args.candidates)
    with private_house("rank-alone", recipe, WORKERS, broker="kafka", announce=lambda line: None) as house:
        with prepared_load(house.settings, options, log_length=args.log_length, warm_up=_WARM_UP, say=_quiet):
            pass
        house.stop_workers()
        kept = (decode(TOPICS[REQUESTS], record.value) for record in read_topic(house.kafka, REQUESTS))
        like: list[RankingRequest] = [request for request in kept if len(request.candidates) == args.candidates]
        found = {}
        for way, folder in folders.items():
            os.environ[COMPILED] = str(folder)
            found[way] = drain(house, preload(house.kafka, like, args.requests, way), args.requests, way)
        return found


def preload(kafka: Kafka, like: list[RankingRequest], count: int, name: str) -> int:
    """Puts so many requests on the topic, made like those; returns how many responses there were before."""
    before = answered(kafka)
    with RankingClient(kafka, linger_ms=5) as client:
        for n in range(count):
            request = msgspec.structs.replace(like[n % len(like)], request_id=f"{name}-{n}")
            client.send(request, deadline_ms=MAX_DEADLINE_MS)
            if n % 1_000 == 0:
                client.flush(60)
        client.flush(60)
    return before


def drain(house: House, before: int, count: int, name: str) -> Found:
    """Starts a ranking worker, and stops it when it has answered all."""
    house.start("rank")
    first = await_answers(house, before + count // 10)
    used, began = by_process(house), time.monotonic()
    last = await_answers(house, before + count)
    seconds, requests = time.monotonic() - began, last - first
    if not requests:
        raise SystemExit(f"all {count} requests were answered between two looks: send more (--requests)")
    took = {name: 1000 * (s - used[name]) / requests for name, s in by_process(house).items()}
    house.stop_workers()
    answers = [decode(TOPICS[RESPONSES], record.value) for record in read_topic(house.kafka, RESPONSES)]
    scored = Counter((answer.status, answer.reason) for answer in answers if answer.request_id.startswith(name))
    if scored != {("ok", None): count}:
        raise SystemExit(f"all {count} requests must be scored, got {scored}: raise the deadline, or send fewer")
    return Found(requests, seconds, took)


def await_answers(house: House, count: int) -> int:
    """Returns how many there are, once there are at least so many."""
    while (there := answered(house.kafka)) < count:
        if fallen := house.fallen():
            raise SystemExit("".join(fallen))
        time.sleep(0.2)
    return there


def answered(kafka: Kafka) -> int:
    return sum(end for _, end in ends(kafka, RESPONSES).values())


def _quiet(line: str) -> None:
    """Says nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiers", help="a built-in one")
    parser.add_argument("--tiers", help="with commas between them; all of the recipe's where absent")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--log-length", type=int, default=512)
    parser.add_argument("--json", action="store_true", help="print one object last")
    args = parser.parse_args()
    machine, model = this_machine(), load_recipe(args.recipe).model
    tiers = args.tiers.split(",") if args.tiers else [tier.name for tier in model.tiers]
    print(f"{machine}; {args.requests} requests of {args.candidates} that wait, logs of {args.log_length}")
    result: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="tiderank-recipe-") as folder:
        folders = {"operators": Path(folder) / "none"}
        if compiler() is not None:
            folders = {"compiled": compiled_folder(), **folders}
            engine = Engine(model, bind("decomposed"))
            for tier in tiers:
                build_tier(engine, tier, folders["compiled"])
        for tier in tiers:
            for way, found in measure(one_tier_recipe(args.recipe, tier, Path(folder)), folders, args).items():
                took = ", ".join(f"{name} {ms:.2f}" for name, ms in found.milliseconds.items())
                print(f"{tier:<8}{way:<10} {found.rate:6.1f} requests/s; ms a request: {took}", flush=True)
                rounded = {name: round(ms, 3) for name, ms in found.milliseconds.items()}
                result[f"{tier}, {way}"] = {"rate": round(found.rate, 1), "ms": rounded}
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
