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
from pathlib import Path

from benchmarks.lab.draining import Drained, drain, preload, sent_requests
from kernels.linear_compress import bind
from ranker.compiled.build import compiler
from ranker.engine import Engine
from streams.config.load import load_recipe
from streams.config.settings import COMPILED, compiled_folder
from streams.load.command import one_tier_recipe
from streams.load.measure import LoadOptions
from streams.load.run import prepared_load
from streams.local.house import WORKERS, private_house
from streams.machine import this_machine
from streams.tuning.compile import build_tier

_WARM_UP = 10.0, 10.0
"""Requests a second, and seconds, while the trainer publishes."""


def measure(recipe: str, folders: dict[str, Path], args: argparse.Namespace) -> dict[str, Drained]:
    """What ranking took by way: where graphs lie that a worker may use."""
    options = LoadOptions(seconds=1, candidates=args.candidates)
    with private_house("rank-alone", recipe, WORKERS, broker="kafka", announce=lambda line: None) as house:
        with prepared_load(house.settings, options, log_length=args.log_length, warm_up=_WARM_UP, say=_quiet):
            pass
        house.stop_workers()
        like = sent_requests(house.kafka, args.candidates)
        found = {}
        for way, folder in folders.items():
            os.environ[COMPILED] = str(folder)
            found[way] = drain(house, preload(house.kafka, like, args.requests, way), args.requests, way)
        return found


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
