"""How often does the gate speak when nothing is wrong, and how soon when labels lie? Hours of event time, many seeds.

    python -m benchmarks.alarms [--seeds 5] [--clean-h 2] [--poisoned 0.05,0.2,0.5] [--rate 10] [--harm]

The trainer's gate (its label tests, its reference, its rules of when a reference may judge) and learner on streams of
the drifting simulated world, without the wires: what is served is the model of this second, labels come --label-s
later, what is shown follows popularity. First clean, for so many hours a seed, and breaches are counted; a model goes
on after one. Then, for each share, after half an hour: from the onset that share of clicks is a lie (there where there
was none, or missing). Prints the seconds of event time and the labels from the onset to the breach; with --harm, what
that share does to who learns it for half an hour: the normalized entropy of the true labels, against a clean twin's.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.lab.grades import difference, entropy
from benchmarks.lab.report import machine
from benchmarks.lab.simulated import Plan, simulated
from benchmarks.lab.stream import Stream, user_side
from benchmarks.lab.training import alone, lesson_of
from kernels.linear_compress import bind
from ranker.arrays import F32, I64
from ranker.config import GateConfig, LearnerConfig, ModelConfig
from ranker.engine import predict
from ranker.gate.checks import Breach, LabelTests
from ranker.grades import compare
from ranker.inputs.features import Featurizer
from ranker.inputs.tables import PlainTables
from ranker.learning.learner import Learner
from ranker.learning.model_copy import ModelCopy
from ranker.recipes import demo_model

SNAPSHOT_S = 30
WINDOWS_MS = {"click": 2_000}
ONSET_S = 1_800
WITHIN_S = 1_800


@dataclass
class Found:
    second: int
    labels: int
    """Labels since the onset, or since the start."""
    breach: Breach


class Watched:
    """A learner, its references of before the newest snapshot, and the tests between them."""

    def __init__(self, stream: Stream, model: ModelConfig, config: GateConfig) -> None:
        self.learner = Learner(model, LearnerConfig(), bind("decomposed"))
        self.stream, self._model, self._config = stream, model, config
        self._tier = model.tiers[0]
        self._featurizer, self._side = Featurizer(model), user_side(model)
        tables = self.learner.tables
        self._live = ModelCopy(
            self.learner.tiers,
            PlainTables(model, key_maps=tables.key_maps, weights=tables.weights, catalogue=tables.catalogue),
        )
        self._tests = LabelTests(config, WINDOWS_MS)
        self._reference: tuple[ModelCopy, bool] | None = None
        self._elder: tuple[ModelCopy, bool] | None = None
        self._newest: tuple[ModelCopy, bool] | None = None
        self.graded: list[tuple[F32, F32, I64]] = []
        """True clicks, what was served, and the request of each, since the onset."""

    def serve(self, first: int, last: int) -> F32:
        return self._predict(self._live, first, last)

    def _predict(self, model: ModelCopy, first: int, last: int) -> F32:
        keyed = self.stream.batch(first, last, self._tier.log_length, self._side)
        return predict(self._featurizer, model.tiers, model.tables, self._tier.name, keyed)[0]

    def label(self, first: int, last: int, served_N: F32, click_N: F32, now_ms: int) -> Breach | None:
        """Judges the labels of these requests, and learns them."""
        stream, breach = self.stream, None
        cut = cut_of(stream, first, last)
        if self._reference is not None and self._reference[1]:
            event_ms_N = stream.event_ms_R[stream.keyed.request_of_N[cut]]
            reference_N = self._predict(self._reference[0], first, last)
            elder_N = self._predict(self._elder[0], first, last) if self._elder is not None else reference_N
            compared = compare(click_N, served_N, reference_N, elder_N, event_ms_N)
            breach = self._tests.observe({"click": compared}, now_ms)
            if breach is not None and breach.test == "reference":
                self._reference, self._elder, breach = self._elder, None, None
                self._tests.restart(now_ms)
        lesson = lesson_of(stream, self._tier, first, last, self._featurizer, self._side, self.learner)
        lesson = replace(lesson, click_N=torch.from_numpy(click_N))
        self.learner.learn_from([lesson], click_N, stream.conversion_N[cut])
        self.learner.take_changes()
        return breach

    def snapshot(self) -> None:
        if self._newest is not None:
            self._elder, self._reference = self._reference, self._newest
        self._newest = self.learner.copy(), self.learner.click_rate.count > self._config.reference_labels

    def restart(self, now_ms: int) -> None:
        self._tests.restart(now_ms)


def cut_of(stream: Stream, first: int, last: int) -> slice:
    """The impressions of these requests."""
    return slice(int(stream.candidate_starts[first]), int(stream.candidate_starts[last]))


def watch(watched: Watched, *, label_s: int, poisoned: float, seed: int) -> Iterator[Found]:
    """Every breach of the stream; after one the tests begin again."""
    stream = watched.stream
    rng = np.random.default_rng([seed, 11])
    second_R = (stream.event_ms_R - stream.event_ms_R[0]) // 1000
    starts = np.searchsorted(second_R, np.arange(second_R[-1] + 2))
    waiting: list[tuple[int, int, F32]] = []
    labels = 0
    for second in range(len(starts) - 1):
        first, last = int(starts[second]), int(starts[second + 1])
        served_N = watched.serve(first, last) if last > first else np.empty(0, np.float32)
        waiting.append((first, last, served_N))
        if second >= label_s:
            first, last, served_N = waiting.pop(0)
            if last > first:
                click_N = stream.click_N[cut_of(stream, first, last)]
                if second - label_s >= ONSET_S:
                    watched.graded.append((click_N, served_N, stream.keyed.request_of_N[cut_of(stream, first, last)]))
                if poisoned and second - label_s >= ONSET_S:
                    lies_N = rng.random(len(click_N)) < poisoned
                    click_N = np.where(lies_N, 1 - click_N, click_N)
                labels += len(click_N) if not poisoned or second - label_s >= ONSET_S else 0
                now_ms = int(stream.event_ms_R[0]) + 1000 * second
                breach = watched.label(first, last, served_N, click_N, now_ms)
                if breach is not None:
                    yield Found(second, labels, breach)
                    watched.restart(now_ms)
        if second % SNAPSHOT_S == 0:
            watched.snapshot()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--clean-h", type=float, default=2.0)
    parser.add_argument("--poisoned", default="0.05,0.2,0.5")
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second of event time")
    parser.add_argument("--candidates", type=int, default=4, help="shown of each request")
    parser.add_argument("--label-s", type=int, default=3)
    parser.add_argument("--harm", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = alone(demo_model(), demo_model().tier("light"))
    print(f"{machine()}; {args.rate:g} requests/s, {args.candidates} shown", flush=True)
    for seed in range(args.seeds if args.clean_h else 0):
        stream = simulated(plan(args, args.clean_h, seed), model)
        found = list(watch(Watched(stream, model, GateConfig()), label_s=args.label_s, poisoned=0.0, seed=seed))
        words = "; ".join(f"{f.breach.test} after {f.second} s" for f in found)
        print(
            f"seed {seed}: clean {args.clean_h:g} h, {len(stream.click_N)} labels: {len(found)} alarms {words}",
            flush=True,
        )
    for share in map(float, args.poisoned.split(",")):
        for seed in range(args.seeds):
            stream = simulated(plan(args, (ONSET_S + WITHIN_S) / 3600, 100 + seed), model)
            poisoned = Watched(stream, model, GateConfig())
            breaches = watch(poisoned, label_s=args.label_s, poisoned=share, seed=seed)
            first = next(breaches, None)
            said = f"not noticed within {WITHIN_S} s"
            if first is not None:
                said = f"{first.breach.test} {first.second - ONSET_S:+d} s, {first.labels} labels"
            print(f"seed {100 + seed}: {share:.0%} poisoned: {said}", flush=True)
            if args.harm:
                exhaust(breaches)
                clean = Watched(stream, model, GateConfig())
                exhaust(watch(clean, label_s=args.label_s, poisoned=0.0, seed=seed))
                print(f"{'':>10}learned for {WITHIN_S} s: {harm(poisoned, clean)}", flush=True)


def exhaust(found: Iterator[Found]) -> None:
    for _ in found:
        pass


def harm(poisoned: Watched, clean: Watched) -> str:
    """What the lies did to the predictions of the truth."""
    click_n, clean_n, request_n = (np.concatenate(column) for column in zip(*clean.graded, strict=True))
    poisoned_n = np.concatenate([served_N for _, served_N, _ in poisoned.graded])
    base, loss = entropy(click_n, clean_n), difference(click_n, poisoned_n, clean_n, request_n)
    return f"entropy {base:.4f}, {loss.mean / base:+.2%} ± {loss.half_width / base:.2%}"


def plan(args: argparse.Namespace, hours: float, seed: int) -> Plan:
    return Plan(
        world="demo",
        requests=int(hours * 3600 * args.rate),
        candidates=args.candidates,
        history=40,
        history_days=1,
        days=hours / 24,
        seed=seed,
    )


if __name__ == "__main__":
    main()
