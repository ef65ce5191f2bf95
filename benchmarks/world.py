"""Does what is learned live beat what was learned before? The demo, whole, for several seeds.

    python -m benchmarks.world [--seeds 11,12,13] [--seconds 60] [--broker kafka]

For each seed `tiderank demo` runs as a user would run it: a warm-up, then a frozen copy of the model is graded beside
the live one on the same served impressions. Prints normalized entropies (lower is better; base: of the base rate so
far), the paired 95 % interval of live minus frozen, how fast the simulated world drifts (the correlation of its click
logits with those of a minute before), and what the audit found. Exit status 1 if, for any seed, the interval reaches
zero, a model is no better than the base rate, or an event was lost or stored twice.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from typing import Any


def run_demo(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tiderank-world-") as home:
        command = [sys.executable, "-m", "streams.cli", "demo", "--json", "--data", home]
        command += ["--seed", str(seed), "--seconds", str(args.seconds), "--broker", args.broker]
        out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    shown: dict[str, Any] = json.loads(out.splitlines()[-1])
    return shown


def holds(shown: dict[str, Any]) -> bool:
    if shown["ne_difference_95"] is None:
        return False
    nothing_lost = shown["events_lost"] == shown["events_stored_twice"] == 0
    worst = max(shown["ne_live"], shown["ne_frozen"])
    return bool(shown["ne_difference_95"][1] < 0 and worst < shown["ne_base"] and nothing_lost)


def row(seed: int, shown: dict[str, Any]) -> str:
    low, high = shown["ne_difference_95"] or (float("nan"), float("nan"))
    cells = [
        f"{seed:>5}",
        f"{shown['examples_before_freeze']:>8}",
        f"{shown['ne_labels']:>7}",
        *(f"{shown[name]:>7.4f}" for name in ("ne_live", "ne_frozen", "ne_base")),
        f"  [{low:+.4f}, {high:+.4f}]",
        f"{shown['drift_correlation_per_minute']:>8.3f}",
        f"{shown['events_lost']:>5}",
        f"{shown['events_stored_twice']:>6}",
        f"  {'yes' if holds(shown) else 'NO'}",
    ]
    return " ".join(cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="11,12,13")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--broker", default="kafka", choices=["kafka", "memory"])
    args = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}; {args.seconds} s measured a seed, {args.broker}")
    print(" seed  learned  graded    live  frozen    base   95 % of live - frozen corr/min  lost  twice   holds")
    held = []
    for seed in map(int, args.seeds.split(",")):
        shown = run_demo(seed, args)
        held.append(holds(shown))
        print(row(seed, shown), flush=True)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
