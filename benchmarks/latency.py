"""How long does an answer take, Kafka to Kafka, at half of the highest rate that a tier sustains, while it learns?

    python -m benchmarks.latency [--recipe tiers] [--tiers light,medium] [--candidates 100] [--log-length 512]

For each tier alone: starts a real Kafka, a Redis and all workers, searches the highest sustained rate as `tiderank load
--find-max` does, then measures at half of it. Prints one row a tier; the machine and its load are named.
"""

import argparse
import tempfile
from pathlib import Path

from streams.config.load import load_recipe
from streams.config.settings import Settings
from streams.load.command import one_tier_recipe
from streams.load.measure import LoadOptions, Row
from streams.load.report import HEAD, line
from streams.load.run import prepared_load
from streams.load.search import Sustained
from streams.local.house import WORKERS, private_house
from streams.machine import this_machine

START_RATE = 10.0


def measure(tier: str, args: argparse.Namespace) -> tuple[float | None, Row | None]:
    """The tier's highest sustained rate, and its row at half of it; None where it sustains none."""
    with tempfile.TemporaryDirectory(prefix="tiderank-recipe-") as folder:
        recipe = one_tier_recipe(args.recipe, tier, Path(folder))
        with private_house("latency", recipe, WORKERS, broker="kafka", announce=print) as house:
            return search(house.settings, args)


def search(settings: Settings, args: argparse.Namespace) -> tuple[float | None, Row | None]:
    options = LoadOptions(seconds=args.probe_seconds, candidates=args.candidates)
    warm_up = (START_RATE, args.warm_up)
    with prepared_load(settings, options, log_length=args.log_length, warm_up=warm_up, say=print) as load:
        highest, _ = load.find_max(START_RATE, Sustained(p99_ms=args.p99_ms))
        return highest, load.measure(highest / 2, seconds=args.seconds) if highest else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiers", help="a built-in one")
    parser.add_argument("--tiers", help="with commas between them; all of the recipe's where absent")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--log-length", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the row at half of the highest rate")
    parser.add_argument("--probe-seconds", type=float, default=10.0, help="of every rate that the search tries")
    parser.add_argument("--warm-up", type=float, default=15.0, help="seconds")
    parser.add_argument("--p99-ms", type=float, default=100.0, help="bound of a sustained rate")
    args = parser.parse_args()
    machine = this_machine()
    tiers = args.tiers.split(",") if args.tiers else [tier.name for tier in load_recipe(args.recipe).model.tiers]
    found = {tier: measure(tier, args) for tier in tiers}
    print(f"\n{machine}; Apache Kafka; {args.candidates} candidates, logs of {args.log_length} events")
    print(f"   tier  highest  {HEAD}")
    for tier, (highest, row) in found.items():
        print(f"{tier:>7}  {highest or 0:7.1f}  {line(row) if row else 'sustains no rate'}")


if __name__ == "__main__":
    main()
