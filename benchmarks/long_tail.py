"""Who gains by what the model knows? Exposure and value by decile of advertisers, from the smallest to the largest.

    python -m benchmarks.long_tail [--world catalogue] [--requests 6000] [--seeds 3] [--tier medium] [--json]

A tier learns a stream in one pass, once as it was (no evidence, crosses or statistics: embeddings and layers alone) and
once as it is; each orders the pages of the second half by bid times its prediction, and the first 4 are shown. Beside
them the truth, which knows every probability, and any order at random, which shows each advertiser as often as it is
offered. An advertiser's size is how often its ads are offered. Exposure is a decile's share of all that is shown; value
is bid times true click probability of what is shown, as a share of what the truth brings to that decile.
"""

# N candidates, n those of the second half, P pages, k candidates of a page, A advertisers.

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from benchmarks.lab.arguments import parser, settings
from benchmarks.lab.report import machine
from benchmarks.lab.simulated import Plan, simulated
from benchmarks.lab.training import alone, run
from ranker.arrays import F64, I64
from ranker.config import ModelConfig
from ranker.recipes import three_tiers

TOP = 4
DECILES = 10
READERS = ("as it was", "as it is", "the truth", "at random")


def main() -> None:
    arguments = parser(__doc__, requests=6_000)
    arguments.set_defaults(world="catalogue", dense_rate=1e-3, row_rate=0.1)
    arguments.add_argument("--tier", default="medium")
    arguments.add_argument("--json", action="store_true", help="print one object last")
    args = arguments.parse_args()
    print(f"{machine()}; world {args.world}, {args.requests} requests of {args.candidates}, {args.tier}", flush=True)
    whole = alone(three_tiers(), replace(three_tiers().tier(args.tier), distilled=False))
    models = {"as it was": replace(whole, evidence=(), crosses=(), statistics=()), "as it is": whole}
    each = [deciles(seed, models, args) for seed in range(args.seeds)]
    exposure = {reader: np.mean([found[reader][0] for found in each], axis=0) for reader in READERS}
    value = {reader: np.mean([found[reader][1] for found in each], axis=0) for reader in READERS}
    print(f"means over {len(each)} seeds; exposure, in % of all, and value, in % of the truth's there")
    print("decile " + "".join(f"{reader:>12}" for reader in READERS) + "  |" + "".join(f"{r:>12}" for r in READERS))
    for d in range(DECILES):
        shares = "".join(f"{100 * exposure[reader][d]:>12.1f}" for reader in READERS)
        print(f"{d + 1:>6} {shares}  |" + "".join(f"{100 * value[reader][d]:>12.1f}" for reader in READERS))
    if args.json:
        rounded = {
            reader: {"exposure": exposure[reader].round(4).tolist(), "value": value[reader].round(4).tolist()}
            for reader in READERS
        }
        print(json.dumps(rounded))


def deciles(seed: int, models: Mapping[str, ModelConfig], args: argparse.Namespace) -> dict[str, tuple[F64, F64]]:
    """By reader, exposure [deciles] and value [deciles]. models: by reader, those that learn."""
    plan = Plan(world=args.world, requests=args.requests, candidates=args.candidates, history=args.history, seed=seed)
    predicted: dict[str, F64] = {}
    for reader, model in models.items():
        stream = simulated(plan, model)  # the same impressions, with the keys that the model asks for
        predicted[reader] = run(stream, model, settings(args))[args.tier].p_n.astype(np.float64)
    n, rng = len(predicted["as it is"]), np.random.default_rng([seed, 11])
    truth_n, bid_n = stream.truth_N[-n:].astype(np.float64), np.exp(rng.standard_normal(n))
    orders = {reader: p_n * bid_n for reader, p_n in predicted.items()}
    orders |= {"the truth": truth_n * bid_n, "at random": rng.random(n)}
    decile_n = deciles_of(stream.keyed.slots["advertiser"].keys_T)[-n:]
    found = {}
    for reader, order_n in orders.items():
        shown = top_of(order_n, args.candidates)
        exposure = np.bincount(decile_n[shown], minlength=DECILES) / len(shown)
        found[reader] = exposure, np.bincount(decile_n[shown], (truth_n * bid_n)[shown], DECILES)
    best = found["the truth"][1]
    return {reader: (exposure, value / best) for reader, (exposure, value) in found.items()}


def deciles_of(advertiser_N: np.ndarray) -> I64:
    """[N]: the decile, from 0, of each candidate's advertiser, by how often it is offered; as many advertisers each."""
    _, advertiser, offered_A = np.unique(advertiser_N, return_inverse=True, return_counts=True)
    rank_A = np.argsort(np.argsort(offered_A, kind="stable"), kind="stable")
    decile_A: I64 = rank_A * DECILES // len(offered_A)
    return decile_A[advertiser]


def top_of(order_n: F64, candidates: int) -> I64:
    """Places of the first TOP of each page."""
    order_Pk = order_n.reshape(-1, candidates)
    best_PT = np.argsort(-order_Pk, axis=1, kind="stable")[:, :TOP]
    shown: I64 = (best_PT + candidates * np.arange(len(order_Pk))[:, None]).ravel()
    return shown


if __name__ == "__main__":
    main()
