"""Does any message bring a worker down? Odd messages on every input topic of a house at work, on a real Kafka.

    python -m benchmarks.fuzz [--messages 10000] [--seed 0]

Starts Kafka, Redis and one worker of each kind, sends so many odd messages to each topic among good ones, and prints,
by topic, how many were taken in and how many dead-lettered, by reason. Then every worker must be the process that it
was, every good request answered, its impression and click stored once and labelled, every odd message taken in or
dead-lettered as it came, and `tiderank audit` without fault in what odd messages leave sound; else it exits with 1.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.fuzzing.house import run
from streams.machine import this_machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000, help="to each topic")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tiderank-fuzz-") as home:
        report = run(Path(home), messages=args.messages, seed=args.seed)
    print(f"\n{this_machine()}; Apache Kafka; seed {args.seed}; {report.seconds:.0f} s")
    print(report.table())
    for fault in report.faults:
        print(f"FAULT {fault}")
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    main()
