"""What a longer click window costs: clicks are learned at once, and what was not clicked when its window closes.

    python -m benchmarks.windows [--windows 2,10,30] [--minutes 3] [--rate 16]

For each window a house of its own, with an untrained model and the simulated world in front of it. Prints, by half a
minute since traffic began, what was predicted for what was shown, over what was clicked of it, and how many of the
shown were clicked: 1 is right, and a model that learns well finds what is clicked more. Shown ads change as fast as
the model does, so with long windows the clicks that it learns are of other ads than what was not clicked.
"""

import argparse
import time
from collections import defaultdict

from benchmarks.lab.house import house, traffic
from streams.codec import decode
from streams.kafka import Kafka
from streams.load.report import this_machine
from streams.messages import TrainingExample
from streams.scan import read_topic
from streams.topics import EXAMPLES, TOPICS

RECIPE = """
base = "default"
[join]
click_window_ms = {window_ms}
"""
WORKERS = "rank", "ingest", "train", "rewards", "learn"
SPAN_S = 30


def clicks(kafka: Kafka, began_ms: float) -> dict[int, tuple[float, float]]:
    """By span since traffic began: what was predicted of the shown over what was clicked, and the share clicked."""
    sums: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for record in read_topic(kafka, EXAMPLES):
        example: TrainingExample = decode(TOPICS[EXAMPLES], record.value)
        if example.kind == "click":
            span = sums[int((example.shown_ms - began_ms) / 1000 // SPAN_S)]
            for place, value in enumerate((example.pctr, example.label, 1.0)):
                span[place] += value
    return {number: (p / max(clicked, 1), clicked / shown) for number, (p, clicked, shown) in sums.items()}


def measure(window_s: float, minutes: float, rate: float) -> dict[int, tuple[float, float]]:
    with house(RECIPE.format(window_ms=int(1000 * window_s)), WORKERS) as up:
        began_ms = 1000 * time.time()
        with traffic(up.kafka, rate, seed=0):
            time.sleep(60 * minutes)
        time.sleep(window_s + 3)
        return clicks(up.kafka, began_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", default="2,10,30", help="seconds")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=16.0, help="requests a second")
    args = parser.parse_args()
    spans = range(int(60 * args.minutes // SPAN_S))
    print(f"{this_machine()}; {args.rate:g} requests/s")
    print(f"{'window':<8}" + "".join(f"{f'from {SPAN_S * n} s':>15}" for n in spans), flush=True)
    for window_s in map(float, args.windows.split(",")):
        found = measure(window_s, args.minutes, args.rate)
        cells = (f"{found[n][0]:6.2f} {found[n][1]:7.1%}" if n in found else "" for n in spans)
        print(f"{f'{window_s:g} s':<8}" + "".join(f"{cell:>15}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
