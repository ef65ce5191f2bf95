"""What do the tiers know beside the counts that an engineer takes in an afternoon, and beside the best there is?

    python -m benchmarks.ladder [--requests 6000] [--seeds 5,6,7] [--tiers light,medium,heavy] [--histories 8,64]

On a stream of world `rich`, its first half learned and its second graded: normalized entropy, and value (bid times true
click probability of the 4 of each page that bid times prediction puts first). By the log's length: the ideal reader,
who knows all but the users' passions, two rivals on counts, and the tiers, which learn online, in one pass. The rivals
are a logistic regression and boosted trees (scikit-learn's), fitted to the whole first half: how often the user's log
has an impression and a click of the candidate's item, category and theme, as log((clicks + 1) / (impressions + 10)),
and the logarithm of the impressions, beside all categories; the regression has crosses of request and candidate too.

With --histories: the tiers again on streams whose users had been shown at most so many impressions before (at least a
tenth of them), for where a longer log pays.
"""

# R requests, k candidates of each, n graded impressions, E events.

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, hstack
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.lab.arguments import settings
from benchmarks.lab.ceiling import ceilings
from benchmarks.lab.grades import entropy
from benchmarks.lab.simulated import CLICK, IMPRESSION, Plan, simulated
from benchmarks.lab.stream import Stream
from benchmarks.lab.training import alone, run
from ranker.arrays import F32, F64
from ranker.config import CROSSES as CROSSED
from ranker.config import ITEM, LOG, USER
from ranker.recipes import three_tiers
from streams.machine import this_machine

COUNTED = (ITEM, "category", "theme")
CROSSES = [(a, b) for a in ("segment", "surface", "device", "hour") for b in ("category", "theme")]
LENGTHS = (0, 64, 512, 2_048)
TOP = 4
Found = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6_000)
    parser.add_argument("--seeds", default="5,6,7")
    parser.add_argument("--tiers", default="light,medium,heavy")
    parser.add_argument("--histories", default="", help="such as 8,64,512")
    parser.add_argument("--dense-rate", type=float, default=1e-3)
    parser.add_argument("--row-rate", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", action="store_true", help="print one object last, of means over the seeds")
    args = parser.parse_args()
    print(f"{this_machine()}; {args.requests} requests of 16; normalized entropy, value of the top {TOP}", flush=True)
    found = [ladder(int(seed), args) for seed in args.seeds.split(",")]
    print(f"\nover {len(found)} seeds{'':<10}{'entropy':>10}{'spread':>9}{'value':>9}{'spread':>9}")
    means: dict[str, Found] = {}
    for group, rows in found[0].items():
        for name in rows:
            drawn = [one[group][name] for one in found]
            entropies, values = [d["entropy"] for d in drawn], [d.get("value", float("nan")) for d in drawn]
            means.setdefault(group, {})[name] = {"entropy": _mean(entropies), "value": _mean(values)}
            print(
                f"{group:<12}{name:<12}{_mean(entropies):>10.4f}{np.ptp(entropies):>9.4f}"
                f"{_mean(values):>9.3f}{np.ptp(values):>9.3f}"
            )
    if args.json:
        print(json.dumps(_as_json(means)))


def ladder(seed: int, args: argparse.Namespace) -> dict[str, Found]:
    plan, model = Plan(requests=args.requests, candidates=16, seed=seed), three_tiers()
    stream, base = simulated(plan, model), settings(args)
    half = len(stream.click_N) // 2
    click_n, truth_n = stream.click_N[half:], stream.truth_N[half:]
    bid_n = np.exp(np.random.default_rng([seed, 11]).standard_normal(len(stream.click_N)))[half:]

    def graded(p_n: npt.NDArray[np.floating[Any]]) -> dict[str, float]:
        p_n = p_n[-half:]
        return {"entropy": entropy(click_n, p_n), "value": value_of_top(p_n, truth_n, bid_n)}

    found: dict[str, Found] = {"truth": {"": graded(truth_n)}}
    ideal = ceilings(plan, list(LENGTHS))
    found["ideal"] = {str(length): {"entropy": ne} for length, ne in zip(LENGTHS, ideal, strict=True)}
    for length in LENGTHS:
        for rival, p_n in rivals(stream, length, half).items():
            found.setdefault(rival, {})[str(length)] = graded(p_n)
            print(f"seed {seed}: {rival:<12}{length:<12}{found[rival][str(length)]}", flush=True)
    for name in args.tiers.split(","):
        learned = run(stream, alone(model, replace(model.tier(name), distilled=False)), base)[name]
        found.setdefault("tiers", {})[name] = graded(learned.p_n)
        print(f"seed {seed}: {'tier':<12}{name:<12}{found['tiers'][name]}", flush=True)
    for history in filter(None, args.histories.split(",")):
        found[f"history {history}"] = _with_history(int(history), plan, args)
        print(f"seed {seed}: history {history}: {found[f'history {history}']}", flush=True)
    return found


def _with_history(history: int, plan: Plan, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    model, seed = three_tiers(), plan.seed
    stream = simulated(replace(plan, history=history), model)
    half = len(stream.click_N) // 2
    bid_n = np.exp(np.random.default_rng([seed, 11]).standard_normal(len(stream.click_N)))[half:]
    found = {}
    for name in args.tiers.split(","):
        p_n = run(stream, alone(model, model.tier(name)), settings(args))[name].p_n[-half:]
        value = value_of_top(p_n, stream.truth_N[half:], bid_n)
        found[name] = {"entropy": entropy(stream.click_N[half:], p_n), "value": value}
    return found


def value_of_top(p_n: npt.NDArray[np.floating[Any]], truth_n: F32, bid_n: F64) -> float:
    """Bid times true click probability of the top places of each page, ordered by bid times prediction: the mean."""
    rank_Rk = (p_n * bid_n).reshape(-1, 16).argsort(axis=1)[:, -TOP:]
    worth_Rk = (truth_n * bid_n).reshape(-1, 16)
    return float(np.take_along_axis(worth_Rk, rank_Rk, axis=1).sum(axis=1).mean())


def rivals(stream: Stream, length: int, half: int) -> Mapping[str, F64]:
    """Predictions [n] of the second half, of models fitted to the first."""
    counts_NF = np.zeros((len(stream.click_N), 0)) if length == 0 else counts(stream, length)
    owner_N = stream.keyed.request_of_N
    columns = {
        name: slot.keys_T if len(slot.keys_T) == len(owner_N) else slot.keys_T[owner_N]
        for name, slot in stream.keyed.slots.items()
        if name not in (LOG, USER, CROSSED)
    }
    crosses = [columns[of_request] * np.uint64(3) ^ columns[of_item] for of_request, of_item in CROSSES]
    keys = [*columns.values(), *crosses]
    codes_NC = np.stack([np.unique(key_N, return_inverse=True)[1] for key_N in keys] + [stream.position_N], axis=1)
    numbers_NF = np.concatenate([counts_NF, stream.keyed.dense_item_NF], axis=1)
    click = stream.click_N[:half]
    scaled = StandardScaler().fit(numbers_NF[:half])
    ones = OneHotEncoder(handle_unknown="ignore").fit(codes_NC[:half])
    wide = hstack([csr_matrix(scaled.transform(numbers_NF)), ones.transform(codes_NC)]).tocsr()
    regression = LogisticRegression(C=0.03, max_iter=500).fit(wide[:half], click)
    deep_NF = np.concatenate([numbers_NF, codes_NC[:, : len(columns)], codes_NC[:, -1:]], axis=1)
    trees = HistGradientBoostingClassifier(learning_rate=0.05, max_iter=300, early_stopping=True, random_state=0)
    trees.fit(deep_NF[:half], click)
    return {
        "regression": regression.predict_proba(wide[half:])[:, 1],
        "trees": trees.predict_proba(deep_NF[half:])[:, 1],
    }


def counts(stream: Stream, length: int) -> F64:
    """[N, 2 a slot]: how often the newest `length` events show, and click, what has the candidate's value."""
    value_of = {slot: _value_of_item(stream, slot) for slot in COUNTED}
    item_E, starts = stream.events_E["item"], stream.candidate_starts
    items, item_of_E = np.unique(item_E, return_inverse=True)
    found = np.zeros((len(stream.click_N), 2 * len(COUNTED)))
    known = {slot: np.array([value_of[slot].get(int(item), 0) for item in items], np.uint64) for slot in COUNTED}
    for r in range(stream.requests):
        end = int(stream.log_end_R[r])
        begin = max(int(stream.log_start_R[r]), end - length)
        action = stream.events_E["action"][begin:end]
        for s, slot in enumerate(COUNTED):
            value_E = known[slot][item_of_E[begin:end]]
            cut = slice(int(starts[r]), int(starts[r + 1]))
            same_kE = stream.keyed.slots[slot].keys_T[cut, None] == value_E
            shown_k = (same_kE & (action == IMPRESSION)).sum(axis=1)
            clicked_k = (same_kE & (action == CLICK)).sum(axis=1)
            found[cut, 2 * s] = np.log((clicked_k + 1) / (shown_k + 10))
            found[cut, 2 * s + 1] = np.log1p(shown_k)
    return found


def _value_of_item(stream: Stream, slot: str) -> dict[int, int]:
    """Key of the slot by the item of an event: what the whole stream's candidates say."""
    key_of = dict(zip(stream.keyed.slots[ITEM].keys_T.tolist(), stream.keyed.slots[slot].keys_T.tolist(), strict=True))
    logged = np.unique(stream.events_E["item"])
    return {
        int(item): key_of[int(key)]
        for item, key in zip(logged, stream.item_keys(logged), strict=True)
        if int(key) in key_of
    }


def _as_json(means: Mapping[str, Found]) -> dict[str, Any]:
    def entropies(group: str) -> dict[str, float]:
        return {name: round(row["entropy"], 4) for name, row in means[group].items()}

    return {
        "tiers": entropies("tiers"),
        "regression": entropies("regression"),
        "trees": entropies("trees"),
        "ideal": entropies("ideal"),
        "truth": round(means["truth"][""]["entropy"], 4),
        "histories": {
            group.removeprefix("history "): entropies(group) for group in means if group.startswith("history ")
        },
        "value": {
            group: {name: round(row["value"], 3) for name, row in rows.items()}
            for group, rows in means.items()
            if group != "ideal"
        },
    }


def _mean(values: list[float]) -> float:
    return statistics.fmean(values)


if __name__ == "__main__":
    main()
