"""How soon is a new ad known, and what does it cost to find out? A closed loop of which the policies alone differ.

    python -m benchmarks.new_ads [--seeds 0,1,2] [--hours 1] [--rate 5] [--life-h 2] [--prior 5] [--json]

World `catalogue` in simulated time, its items' lives shortened to --life-h, so that hundreds arrive within the hour.
Requests come at an even rate, each with 50 candidates that are alive; the light tier, without logs, predicts them, a
policy says what they are ordered by, and the first 4 are shown; clicks follow the truth, and reach the learner after
2 s, in steps of a second. After a warm-up on random pages all policies start from the same model and meet the same
requests:

    greedy      bid times prediction
    one in ten  the same, but one page in ten is drawn at random, as the simulated ad system does
    posterior   bid times a draw, as where a recipe sets ranking.thompson_clicks = --prior
    oracle      bid times the truth: the most that can be had

Of items that arrive during the loop: after how many impressions and minutes their mean prediction over fixed contexts
is within 20 % of the truth's, and stays so for three probes (medians over all of them, one that never was counting as
infinite); how many got there, and how many were never shown. Value is bid times true click probability of what was
shown, as a share of the oracle's; lost is what a policy has less than greedy, of the same seed.
"""

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks.lab.closed import Asked, House, Policy, one_tier, visits
from benchmarks.lab.newcomers import Learned, Newcomers
from benchmarks.lab.report import cell, machine
from ranker.arrays import F32, F64
from streams.simulate.config import WorldConfig, catalogue
from streams.simulate.outcomes import uniform
from streams.simulate.world import World, sigmoid
from streams.workers.rank.exploration import drawn_probabilities, normal_draws

CANDIDATES = 50
LABEL_S = 2
RANDOM_SHARE = 0.1
FIGURES = {
    "minutes": "minutes until right",
    "impressions": "impressions until right",
    "right": "share that got there",
    "never_shown": "share never shown",
    "value": "value, of the oracle's",
    "value_last_third": "the same, last third",
    "lost": "lost against greedy",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--hours", type=float, default=1.0, help="of simulated time, after the warm-up")
    parser.add_argument("--rate", type=float, default=5.0, help="requests a simulated second")
    parser.add_argument("--warm-up", type=int, default=4_000, help="requests whose pages are random, before the loop")
    parser.add_argument("--life-h", type=float, default=2.0, help="mean life of an item")
    parser.add_argument("--prior", type=float, default=5.0, help="clicks that a prediction counts as")
    parser.add_argument("--contexts", type=int, default=200, help="of requests, over which predictions are averaged")
    parser.add_argument("--probe-s", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="print one object last")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{machine()}; {args.hours:g} h at {args.rate:g} requests/s of {CANDIDATES}, after {args.warm_up} random "
        f"pages; lives of {args.life_h:g} h",
        flush=True,
    )
    found: dict[str, list[dict[str, float]]] = {}
    for seed in map(int, args.seeds.split(",")):
        for name, row in one_seed(seed, args).items():
            found.setdefault(name, []).append(row)
            print(f"seed {seed}: {name:<11}" + ", ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    report(found)
    if args.json:
        print(json.dumps(as_json(found)))


def one_seed(seed: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Figures by policy."""
    world = World(world_of(args.life_h), seed=seed)
    asked = visits(world, args.rate, args.warm_up / args.rate + 3600 * args.hours)
    warm_up, loop = asked[: args.warm_up], asked[args.warm_up :]
    oracle_R = np.array([best_value(world, one) for one in loop])
    played = {}
    for name, policy in policies(seed, args.prior).items():
        # Each is warmed up anew, to the same bits: a learner has no copy.
        played[name] = play(warmed_up(world, warm_up), loop, policy, args)
    greedy_R = played["greedy"][0]
    return {name: figures(value_R, learned, greedy_R, oracle_R) for name, (value_R, learned) in played.items()}


def warmed_up(world: World, asked: list[Asked]) -> House:
    """A house that has learned random pages."""
    house = House(world, one_tier(), LABEL_S)
    for second in seconds(asked):
        house.serve(second, at_random(world.seed), predicted=False)
        house.learn(second[-1].request.event_ms)
    return house


def play(house: House, loop: list[Asked], policy: Policy, args: argparse.Namespace) -> tuple[F64, Learned]:
    """Value of each request, and what became of the newcomers."""
    first_ms, last_ms = (one.request.event_ms for one in (loop[0], loop[-1]))
    contexts = [loop[i] for i in np.linspace(0, len(loop) - 1, args.contexts).astype(int)]
    newcomers = Newcomers(house, contexts, first_ms, last_ms)
    values, probe_ms = [], first_ms
    for second in seconds(loop):
        now_ms = second[-1].request.event_ms
        values.append(house.serve(second, policy))
        house.learn(now_ms)
        if now_ms >= probe_ms:
            newcomers.probe(now_ms)
            probe_ms += 1000 * args.probe_s
    return np.concatenate(values), newcomers.learned()


def figures(value_R: F64, learned: Learned, greedy_R: F64, oracle_R: F64) -> dict[str, float]:
    """By name of FIGURES; nan where nothing arrived."""
    third = len(value_R) * 2 // 3
    known = len(learned.shown_J) > 0
    return {
        "minutes": float(np.median(learned.minutes_J)) if known else math.nan,
        "impressions": float(np.median(learned.impressions_J)) if known else math.nan,
        "right": float(np.isfinite(learned.minutes_J).mean()) if known else math.nan,
        "never_shown": float((learned.shown_J == 0).mean()) if known else math.nan,
        "value": float(value_R.sum() / oracle_R.sum()),
        "value_last_third": float(value_R[third:].sum() / oracle_R[third:].sum()),
        "lost": float(1 - value_R.sum() / greedy_R.sum()),
    }


def policies(seed: int, prior: float) -> dict[str, Policy]:
    drawn = at_random(seed)

    def greedy(asked: Asked, p_k: F32, shown_k: F32) -> F64:
        return p_k * asked.bid_k

    def one_in_ten(asked: Asked, p_k: F32, shown_k: F32) -> F64:
        chosen = uniform(seed, "explored", f"r{asked.number}") < RANDOM_SHARE
        return drawn(asked, p_k, shown_k) if chosen else greedy(asked, p_k, shown_k)

    def posterior(asked: Asked, p_k: F32, shown_k: F32) -> F64:
        normal_k = normal_draws(f"{seed}/r{asked.number}", len(p_k))
        return drawn_probabilities(p_k, shown_k, normal_k, prior) * asked.bid_k

    return {"greedy": greedy, "one in ten": one_in_ten, "posterior": posterior}


def at_random(seed: int) -> Policy:
    """Any order of the candidates is as likely."""

    def drawn(asked: Asked, p_k: F32, shown_k: F32) -> F64:
        return np.random.default_rng([seed, 13, asked.number]).random(len(p_k))

    return drawn


def best_value(world: World, asked: Asked) -> float:
    """What the oracle's page is worth."""
    looks_K = world.examination(np.arange(world.config.shown))
    worth_k = np.sort(sigmoid(asked.logit_k) * asked.bid_k)[::-1]
    return float(looks_K @ worth_k[: len(looks_K)])


def world_of(life_h: float) -> WorldConfig:
    return replace(
        catalogue(),
        life_s=3600 * life_h,
        candidates_min=CANDIDATES,
        candidates_median=CANDIDATES,
        candidates_max=CANDIDATES,
        candidates_spread=0.0,
    )


def seconds(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Yields the requests of each second that has any."""
    for _, second in itertools.groupby(asked, lambda one: one.request.event_ms // 1000):
        yield list(second)


def report(found: dict[str, list[dict[str, float]]]) -> None:
    seeds = len(next(iter(found.values())))
    print(f"\nmean over {seeds} seeds, and spread{'':<4}" + "".join(f"{name:>20}" for name in found))
    for figure, words in FIGURES.items():
        cells = []
        for each in found.values():
            values = [one[figure] for one in each]
            known = len(values) > 1 and all(map(math.isfinite, values))
            spread = max(values) - min(values) if known else math.nan
            cells.append(f"{cell(statistics.fmean(values), '11.4g')} {cell(spread, '8.3g')}")
        print(f"{words:<35}" + "".join(cells))


def as_json(found: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    """Means over the seeds; None where one is not finite."""
    means = {
        name: {figure: statistics.fmean(one[figure] for one in each) for figure in FIGURES}
        for name, each in found.items()
    }
    return {
        name: {figure: round(mean, 4) if math.isfinite(mean) else None for figure, mean in row.items()}
        for name, row in means.items()
    }


if __name__ == "__main__":
    main()
