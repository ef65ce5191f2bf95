"""What do the tiers know beside the counts that an engineer takes in an afternoon, and beside the best there is?

    python -m benchmarks.ladder [--world rich] [--requests 6000] [--seeds 5,6,7] [--tiers light,medium,heavy]
                                [--histories 8,64]

On a stream of the world, its first half learned and its second graded: normalized entropy, the same on impressions of
new items (with fewer than 100 in the stream before; over their own mean click rate), and value (bid times true click
probability of the 4 of each page that bid times prediction puts first). By the log's length: the ideal reader, who
knows all but the users' passions, new items' quality too; two rivals on counts; and the tiers, which learn online, in
one pass. The rivals are a logistic regression and boosted trees (scikit-learn's), fitted to the whole first half: how
often the user's log has an impression and a click of the candidate's item, category and theme, as
log((clicks + 1) / (impressions + 10)), and the logarithm of the impressions, beside all categories; the regression has
crosses of request and candidate too. In a world whose items come and go (`catalogue`) they have the same two numbers of
what all earlier pages of the stream, of whichever users, show of the candidate's item and of its campaign. Most items
of a long log have left such a world before the stream begins (of the newest 2,048 events five in six name one), and
neither tiers nor rivals ever learn what they were; the ideal reader knows.

With --histories: the tiers again on streams whose users had been shown at most so many impressions before (at least a
tenth of them), for where a longer log pays.
"""

# R requests, k candidates of each, N impressions, n graded ones.

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.lab.arguments import settings
from benchmarks.lab.ceiling import ideal_reader
from benchmarks.lab.grades import entropy
from benchmarks.lab.records import NEW, is_new
from benchmarks.lab.report import cell
from benchmarks.lab.rivals import rivals
from benchmarks.lab.simulated import Plan, simulated
from benchmarks.lab.stream import Stream
from benchmarks.lab.training import alone, run
from ranker.arrays import F32, F64
from ranker.config import ITEM
from ranker.recipes import three_tiers
from streams.machine import this_machine
from streams.simulate.config import WORLDS

CANDIDATES = 16
LENGTHS = (0, 64, 512, 2_048)
TOP = 4
GRADES = ("entropy", "new", "value")
Grade = dict[str, float]
"""By name of GRADES; nan where there is none."""
Found = dict[str, Grade]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="rich", choices=[name for name in WORLDS if WORLDS[name]().themes])
    parser.add_argument("--requests", type=int, default=6_000)
    parser.add_argument("--seeds", default="5,6,7")
    parser.add_argument("--tiers", default="light,medium,heavy")
    parser.add_argument("--histories", default="", help="such as 8,64,512")
    parser.add_argument("--dense-rate", type=float, default=1e-3)
    parser.add_argument("--row-rate", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", action="store_true", help="print one object last, of means over the seeds")
    args = parser.parse_args()
    print(
        f"{this_machine()}; world {args.world}, {args.requests} requests of {CANDIDATES}; normalized entropy, that of "
        f"items new within {NEW} impressions, value of the top {TOP}",
        flush=True,
    )
    found = [ladder(int(seed), args) for seed in args.seeds.split(",")]
    print(f"\nover {len(found)} seeds{'':<10}" + "".join(f"{name:>10}{'spread':>9}" for name in GRADES))
    means: dict[str, Found] = {}
    for group, rows in found[0].items():
        for name in rows:
            drawn = {grade: [one[group][name][grade] for one in found] for grade in GRADES}
            means.setdefault(group, {})[name] = {grade: statistics.fmean(each) for grade, each in drawn.items()}
            print(
                f"{group:<12}{name:<12}"
                + "".join(cell(statistics.fmean(e), "10.4f") + cell(_spread(e), "9.4f") for e in drawn.values())
            )
    if args.json:
        print(json.dumps(_as_json(means)))


def _spread(values: list[float]) -> float:
    return float(np.ptp(values)) if len(values) > 1 else math.nan


def ladder(seed: int, args: argparse.Namespace) -> dict[str, Found]:
    plan, model = Plan(world=args.world, requests=args.requests, candidates=CANDIDATES, seed=seed), three_tiers()
    stream = simulated(plan, model)
    graded, recorded = Graded(stream, seed), bool(WORLDS[args.world]().life_s)
    found: dict[str, Found] = {}

    def add(group: str, name: str, grade: Grade) -> None:
        found.setdefault(group, {})[name] = grade
        said = "  ".join(f"{what} {cell(value, '7.4f')}" for what, value in grade.items())
        print(f"seed {seed}: {group:<12}{name:<12}{said}", flush=True)

    add("truth", "", graded(stream.truth_N))
    ideal = ideal_reader(plan, list(LENGTHS))
    for length, p_n in zip(LENGTHS, ideal.p_Ln, strict=True):
        new_n = graded.new_N[ideal.place_n]
        entropies = {"entropy": entropy(ideal.click_n, p_n), "new": entropy_of(ideal.click_n, p_n, new_n)}
        add("ideal", str(length), entropies | {"value": math.nan})
    for length in LENGTHS:
        for rival, p_n in rivals(stream, length, graded.half, recorded=recorded).items():
            add(rival, str(length), graded(p_n))
    for name, p_n in tiers_alone(stream, args):
        add("tiers", name, graded(p_n))
    for history in filter(None, args.histories.split(",")):
        of_history = simulated(replace(plan, history=int(history)), model)
        for name, p_n in tiers_alone(of_history, args):
            add(f"history {history}", name, Graded(of_history, seed)(p_n))
    return found


def tiers_alone(stream: Stream, args: argparse.Namespace) -> Iterator[tuple[str, F32]]:
    """What each tier predicted, learning alone."""
    model = three_tiers()
    for name in args.tiers.split(","):
        tier = replace(model.tier(name), distilled=False)
        yield name, run(stream, alone(model, tier), settings(args))[name].p_n


class Graded:
    """Grades predictions of a stream's second half."""

    def __init__(self, stream: Stream, seed: int) -> None:
        self.half = len(stream.click_N) // 2
        self.new_N = is_new(stream.keyed.slots[ITEM].keys_T, stream.keyed.request_of_N)
        self._click_n, self._truth_n = stream.click_N[self.half :], stream.truth_N[self.half :]
        self._bid_n = np.exp(np.random.default_rng([seed, 11]).standard_normal(len(stream.click_N)))[self.half :]

    def __call__(self, p_n: npt.NDArray[np.floating[Any]]) -> Grade:
        """p_n: of the second half, behind anything else."""
        p_n = p_n[-self.half :]
        return {
            "entropy": entropy(self._click_n, p_n),
            "new": entropy_of(self._click_n, p_n, self.new_N[self.half :]),
            "value": value_of_top(p_n, self._truth_n, self._bid_n),
        }


def entropy_of(click_n: F32, p_n: npt.NDArray[np.floating[Any]], chosen_n: npt.NDArray[np.bool_]) -> float:
    """Entropy of the chosen impressions; nan where none or all of them were clicked."""
    click, p = click_n[chosen_n], p_n[chosen_n]
    return entropy(click, p) if 0 < click.sum() < len(click) else math.nan


def value_of_top(p_n: npt.NDArray[np.floating[Any]], truth_n: F32, bid_n: F64) -> float:
    """Bid times true click probability of the top places of each page, ordered by bid times prediction: the mean."""
    rank_Rk = (p_n * bid_n).reshape(-1, CANDIDATES).argsort(axis=1)[:, -TOP:]
    worth_Rk = (truth_n * bid_n).reshape(-1, CANDIDATES)
    return float(np.take_along_axis(worth_Rk, rank_Rk, axis=1).sum(axis=1).mean())


def _as_json(means: Mapping[str, Found]) -> dict[str, Any]:
    def of(group: str, grade: str = "entropy", digits: int = 4) -> dict[str, float | None]:
        rows = means[group].items()
        return {name: None if math.isnan(row[grade]) else round(row[grade], digits) for name, row in rows}

    readers = [group for group in means if not group.startswith("history ")]
    return {
        "tiers": of("tiers"),
        "regression": of("regression"),
        "trees": of("trees"),
        "ideal": of("ideal"),
        "truth": of("truth")[""],
        "histories": {group.removeprefix("history "): of(group) for group in means if group not in readers},
        "value": {group: of(group, "value", 3) for group in means if group != "ideal"},
        "new": {group: of(group, "new") for group in readers},
    }


if __name__ == "__main__":
    main()
