"""What does the way through Kafka cost in quality? A log through the whole house, and its model in process.

    python -m benchmarks.through_kafka [--log ml-100k] [--limit 10000] [--lag 16] [--json]

`tiderank replay` runs with real Kafka, Redis and workers; each response says which update it was scored with, and each
update what it had learned. In process the same model then predicts the same impressions, each after a pass over just
the labels that the house had learned by then, a step for those of each moment. What is left between the two are the
house's own ways: updates rounded and thinned, labels of one sign alone not learned at the start, a few responses held
out, and "no purchase" learned of every click.
"""

# n impressions.

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from benchmarks.lab.replayed import replayed
from benchmarks.lab.report import machine
from benchmarks.lab.stream import Stream, user_side
from benchmarks.lab.training import lesson_of
from kernels.linear_compress import bind
from ranker.arrays import F64, I64
from ranker.config import LearnerConfig, ModelConfig
from ranker.inputs.features import Featurizer
from ranker.learning.learner import Learner
from streams.config.logged import PREFIX
from streams.datasets.logs.sources import open_log
from streams.local.house import private_house
from streams.replay.baselines import Schedule
from streams.replay.command import WORKERS
from streams.replay.driver import Pace
from streams.replay.graded import Graded, as_the_model
from streams.replay.metrics import normalized_entropies
from streams.replay.run import run_replay

START = 100
"""Impressions until labels of both signs have come."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", default="ml-100k")
    parser.add_argument("--limit", type=int, default=10_000, help="only the first so many impressions")
    parser.add_argument("--lag", type=int, default=16, help="most examples that the trainer may be behind")
    parser.add_argument("--json", action="store_true", help="print one object last")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(), flush=True)
    log = open_log(args.log)
    rows = list(log.read())[: args.limit]
    with private_house("replay", f"{PREFIX}{args.log}", WORKERS, broker="auto", announce=print) as house:
        examples = run_replay(house.settings, log, rows, pace=Pace(speed=None, lag=args.lag)).examples
    if len(examples) != len(rows):
        raise SystemExit(f"each impression must be an example, got {len(examples)} of {len(rows)}")
    schedule = as_the_model(examples)
    in_process_n = predicted_on(replayed(log, log.model, len(rows)), log.model, schedule)
    users = np.unique([row.user for row in rows], return_inverse=True)[1].astype(np.int64)
    found = compared(examples, in_process_n, users) | {"lag_median": float(np.median(schedule.lag_n))}
    for name, value in found.items():
        print(f"{name:36}{value:>9.4f}")
    if args.json:
        print(json.dumps({name: round(value, 5) for name, value in found.items()}))


def compared(examples: Sequence[Graded], in_process_n: F64, user_n: I64) -> dict[str, float]:
    """Normalized entropies of both, over all and from START on, with the paired interval of the difference."""
    label_n, kafka_n = (np.array([getattr(e, name) for e in examples]) for name in ("label", "predicted"))
    found: dict[str, float] = {}
    for words, first in (("", 0), (f", from {START} on", min(START, len(examples) // 2))):
        both = normalized_entropies(label_n[first:], np.stack([kafka_n, in_process_n])[:, first:], user_n[first:])
        difference = both.difference(0, 1)
        found |= {f"through Kafka{words}": float(both.values_K[0]), f"in process{words}": float(both.values_K[1])}
        found |= {
            f"difference{words}": difference.value,
            f"low{words}": difference.low,
            f"high{words}": difference.high,
        }
    return found


def predicted_on(stream: Stream, model: ModelConfig, schedule: Schedule) -> F64:
    """[n]: predictions of a stream of one impression a request, each by what its schedule knows."""
    [tier], featurizer, side = model.tiers, Featurizer(model), user_side(model)
    learner, known = Learner(model, LearnerConfig(), bind("decomposed")), 0
    predicted: list[float] = []
    for place, now_known in enumerate(schedule.known_n.tolist()):
        for first, last in stretches(schedule.order_n[known:now_known]):
            lesson = lesson_of(stream, tier, first, last, featurizer, side, learner)
            learner.learn_from([lesson], stream.click_N[first:last], stream.conversion_N[first:last])
        known = max(known, now_known)
        learner.past_pages, pages = 0, learner.past_pages
        asked = lesson_of(stream, tier, place, place + 1, featurizer, side, learner)
        learner.past_pages = pages
        with torch.no_grad():
            logits = learner.tiers[tier.name](asked.batch, learner.tables, None)
        predicted.append(float(torch.sigmoid(logits.click_N)))
    return np.array(predicted)


def stretches(places: I64) -> list[tuple[int, int]]:
    """Returns places, in any order, as stretches [first, last) without a gap."""
    ascending = np.sort(places)
    cuts = [0, *(np.flatnonzero(np.diff(ascending) > 1) + 1).tolist(), len(ascending)]
    return [(int(ascending[a]), int(ascending[b - 1]) + 1) for a, b in pairwise(cuts) if b > a]


if __name__ == "__main__":
    main()
