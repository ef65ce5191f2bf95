"""Does freshness pay? Normalized entropy of what is served, by how often replicas get what was learned.

    python -m benchmarks.freshness_pays [--seeds 5] [--hours 3] [--rate 3] [--plot freshness_pays.png]

A stream of the drifting simulated world, one learner, and a replica for each interval of event time; what is shown
follows popularity, so all see the same impressions. Each second of the stream is predicted by all replicas, and learned
once its labels are there (--label-s later). After the first hour all replicas get the model, and from there on each
gets what was learned since at its own interval, "never" nothing more. Graded is what comes after that hour. Prints
normalized entropy and, over the seeds, what each interval loses against the shortest, with the 95 % interval of
Student's t.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.lab.grades import entropy
from benchmarks.lab.report import machine
from benchmarks.lab.simulated import Plan, simulated
from benchmarks.lab.stream import Stream, user_side
from benchmarks.lab.training import alone, lesson_of
from benchmarks.update_bytes import All, Follower
from kernels.linear_compress import bind
from ranker.arrays import F32
from ranker.config import LearnerConfig, ModelConfig, UpdateConfig
from ranker.engine import Engine
from ranker.inputs.features import Featurizer
from ranker.learning.learner import Learner
from ranker.learning.pending import PendingChanges
from ranker.recipes import demo_model
from streams.load.plot import figure_module

NEVER = float("inf")
INTERVALS_S = (NEVER, 3_600.0, 600.0, 60.0, 10.0, 1.0)
WARM_UP_S = 3_600
_T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Two-sided quantiles of Student's t, by the number of seeds."""


@dataclass
class Interval(Follower):
    every_s: float = NEVER
    synced_s: float = -1.0
    synced: int = 0

    def sync_when_due(self, learner: Learner, now_s: float) -> None:
        if now_s >= WARM_UP_S and (self.synced_s < 0 or now_s - self.synced_s >= self.every_s):
            self.synced += 1
            self.publish(learner, self.synced)
            self.synced_s = now_s


def learn_and_grade(stream: Stream, model: ModelConfig, label_s: int) -> dict[float, float]:
    """Normalized entropy by interval."""
    compress, settings = bind("decomposed"), LearnerConfig()
    learner = Learner(model, settings, compress)
    replicas = [
        Interval(UpdateConfig(), PendingChanges(learner.tables, UpdateConfig()), Engine(model, compress), every_s=every)
        for every in INTERVALS_S
    ]
    learner.pending = All(replicas)
    featurizer, side, (tier,) = Featurizer(model), user_side(model), model.tiers
    second_R = (stream.event_ms_R - stream.event_ms_R[0]) // 1000
    starts = np.searchsorted(second_R, np.arange(second_R[-1] + 2))
    graded: list[F32] = []
    for second in range(len(starts) - 1):
        first, last = int(starts[second]), int(starts[second + 1])
        cut = slice(int(stream.candidate_starts[first]), int(stream.candidate_starts[last]))
        if second > WARM_UP_S and last > first:
            keyed = stream.batch(first, last, tier.log_length, side)
            for replica in replicas:
                replica.p.append(replica.engine.predict(tier.name, keyed)[0])
            graded.append(stream.click_N[cut])
        if second >= label_s:
            first, last = int(starts[second - label_s]), int(starts[second - label_s + 1])
            if last > first:
                cut = slice(int(stream.candidate_starts[first]), int(stream.candidate_starts[last]))
                lesson = lesson_of(stream, tier, first, last, featurizer, side, learner)
                learner.learn_from([lesson], stream.click_N[cut], stream.conversion_N[cut])
            for replica in replicas:
                replica.sync_when_due(learner, second)
    click_n = np.concatenate(graded)
    return {replica.every_s: entropy(click_n, np.concatenate(replica.p)) for replica in replicas}


def name(every_s: float) -> str:
    if every_s == NEVER:
        return "never"
    return f"{every_s:g} s" if every_s < 60 else f"{every_s / 60:g} min" if every_s < 3600 else f"{every_s / 3600:g} h"


def report(found: list[dict[float, float]]) -> list[tuple[float, float, float]]:
    """Prints and returns for each interval its mean loss against the shortest, and half the 95 % interval of that."""
    best = min(INTERVALS_S)
    losses = []
    print(f"{'sync interval':<16}{'entropy':>9}{'loss':>9}{'± 95 %':>9}   of each seed")
    for every in INTERVALS_S:
        gaps = np.array([entropies[every] - entropies[best] for entropies in found])
        half = _T95.get(len(gaps), 1.96) * gaps.std(ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
        mean = np.mean([entropies[every] for entropies in found])
        each = " ".join(f"{entropies[every]:.4f}" for entropies in found)
        print(f"{name(every):<16}{mean:>9.4f}{gaps.mean():>+9.4f}{half:>9.4f}   {each}")
        losses.append((every, float(gaps.mean()), float(half)))
    return losses


def plot(losses: list[tuple[float, float, float]], title: str, file: Path) -> None:
    figure = figure_module().Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    places = range(len(losses))
    axes.errorbar(places, [loss for _, loss, _ in losses], yerr=[half for _, _, half in losses], fmt="o-", capsize=4)
    axes.set_xticks(list(places), [name(every) for every, _, _ in losses])
    axes.set_xlabel("sync interval (event time)")
    axes.set_ylabel("normalized entropy above that of 1 s")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--hours", type=float, default=3.0, help="hours of event time, the first of them a warm-up")
    parser.add_argument("--rate", type=float, default=3.0, help="requests a second of event time")
    parser.add_argument("--candidates", type=int, default=4, help="candidates shown of each request")
    parser.add_argument("--label-s", type=int, default=3, help="seconds of event time after which labels are there")
    parser.add_argument("--world", default="demo")
    parser.add_argument("--plot", type=Path, help="a PNG")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = alone(demo_model(), demo_model().tier("light"))
    print(f"{machine()}; world {args.world}, {args.hours:g} h at {args.rate:g} requests/s, tier light", flush=True)
    found = []
    for seed in range(args.seeds):
        plan = Plan(
            world=args.world,
            requests=int(args.hours * 3600 * args.rate),
            candidates=args.candidates,
            history=40,
            history_days=1,
            days=args.hours / 24,
            seed=seed,
        )
        found.append(learn_and_grade(simulated(plan, model), model, args.label_s))
        print(f"seed {seed}: " + ", ".join(f"{name(e)} {ne:.4f}" for e, ne in found[-1].items()), flush=True)
    losses = report(found)
    if args.plot:
        plot(losses, f"{args.seeds} seeds, {args.hours:g} h of the {args.world} world, 95 % intervals", args.plot)


if __name__ == "__main__":
    main()
