"""What the click window costs, and what a provisional label after a few seconds saves.

    python -m benchmarks.windows [--windows 2,10,600:2] [--minutes 3] [--rate 16] [--click-delay-s 3]

A window of W seconds, or W:E with a provisional negative example after E. For each a house of its own, with an
untrained model, and the simulated world in front of it, whose clicks take an exponential time. Prints, by half a
minute since traffic began, what was predicted for what was shown, over what was clicked of it within whatever time,
and how many of the shown were clicked: 1 is right, and a model that learns well finds what is clicked more.
"""

import argparse
import time
from collections import Counter, defaultdict
from dataclasses import replace

from benchmarks.lab.house import house, traffic
from streams.kafka.connection import Kafka
from streams.kafka.scan import read_topic
from streams.local.house import WORKERS
from streams.machine import this_machine
from streams.simulate.config import WORLDS
from streams.wire.codec import decode
from streams.wire.messages import Conversion, Impression, Served
from streams.wire.topics import CONVERSIONS, IMPRESSIONS, SERVED, TOPICS

RECIPE = """
base = "default"
[join]
click_window_ms = {window_ms}
click_elapsed_ms = {elapsed_ms}
[training.learner]
clicks = "{policy}"
"""
SPAN_S = 30


def clicks(kafka: Kafka, began_ms: float) -> dict[int, tuple[float, float]]:
    """By span since traffic began: what was predicted of the shown over what was clicked, and the share clicked."""
    clicked = Counter[str]()
    for record in read_topic(kafka, CONVERSIONS):
        event: Conversion = decode(TOPICS[CONVERSIONS], record.value)
        if event.kind == "click" and event.impression_id is not None:
            clicked[event.impression_id] = 1
    pctr: dict[tuple[str, str], float] = {}
    for record in read_topic(kafka, SERVED):
        served: Served = decode(TOPICS[SERVED], record.value)
        pctr |= {(served.response_id, item.item): item.pctr for item in served.items}
    sums: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for record in read_topic(kafka, IMPRESSIONS):
        shown: Impression = decode(TOPICS[IMPRESSIONS], record.value)
        span = sums[int((shown.event_ms - began_ms) / 1000 // SPAN_S)]
        for place, value in enumerate((pctr[shown.response_id, shown.item], clicked[shown.event_id], 1.0)):
            span[place] += value
    return {number: (p / max(count, 1), count / shown) for number, (p, count, shown) in sums.items()}


def measure(window: str, args: argparse.Namespace) -> dict[int, tuple[float, float]]:
    window_s, _, elapsed_s = window.partition(":")
    recipe = RECIPE.format(
        window_ms=int(1000 * float(window_s)),
        elapsed_ms=int(1000 * float(elapsed_s or 0)),
        policy="es_dfm" if elapsed_s else "wait",
    )
    world = replace(WORLDS["demo"](), click_delay_s=args.click_delay_s)
    with house(recipe, WORKERS) as up:
        began_ms = 1000 * time.time()
        with traffic(up.kafka, args.rate, seed=0, world=world):
            time.sleep(60 * args.minutes)
        return clicks(up.kafka, began_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", default="2,10,30,600:2", help="seconds")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=16.0, help="requests a second")
    parser.add_argument("--click-delay-s", type=float, default=3.0, help="mean")
    args = parser.parse_args()
    spans = range(int(60 * args.minutes // SPAN_S))
    print(f"{this_machine()}; {args.rate:g} requests/s, clicks after {args.click_delay_s:g} s")
    print(f"{'window':<8}" + "".join(f"{f'from {SPAN_S * n} s':>15}" for n in spans), flush=True)
    for window in args.windows.split(","):
        found = measure(window, args)
        cells = (f"{found[n][0]:6.2f} {found[n][1]:7.1%}" if n in found else "" for n in spans)
        print(f"{window:<8}" + "".join(f"{cell:>15}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
