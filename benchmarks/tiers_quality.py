"""Is each tier better than the one below it, at what price, and how much of the gap can distillation close?

    python -m benchmarks.tiers_quality [--requests 6000] [--seeds 3] [--tiers light,medium,heavy] [--no-distillation]

First what a log can tell at best, by its length (an ideal reader that knows all but the users' passions). Then light,
medium and heavy of `three_tiers()`, each alone on the same streams: normalized entropy, the step from the tier below
with its paired 95 % interval for each seed, and the time to score 100 candidates with a full log. Then light beside
heavy, learning its scores as well and not: the share of the gap to heavy that this recovers.
"""

import statistics
from dataclasses import replace

from benchmarks.lab.arguments import parser, settings, streams
from benchmarks.lab.ceiling import ceilings
from benchmarks.lab.report import Variant, compare, machine, oracle
from benchmarks.lab.simulated import Plan
from benchmarks.lab.training import alone
from kernels.linear_compress import bind
from ranker.recipes import three_tiers
from ranker.tuning.cost import measure_tiers

_LENGTHS = [0, 64, 512, 2048]


def main() -> None:
    arguments = parser(__doc__, requests=6_000)
    arguments.add_argument("--tiers", default="light,medium,heavy")
    arguments.add_argument("--no-distillation", action="store_true")
    args = arguments.parse_args()
    model, base = three_tiers(), settings(args)
    names = args.tiers.split(",")
    print(f"{machine()}; {args.requests} requests of {args.candidates}, batch {args.batch}", flush=True)
    plan = Plan(world=args.world, requests=args.requests, candidates=args.candidates, history=args.history)
    at_best = ceilings(plan, _LENGTHS)
    print("ideal reader: " + ", ".join(f"log {n} {ne:.4f}" for n, ne in zip(_LENGTHS, at_best, strict=True)))
    data = streams(args, model)
    print(f"normalized entropy of the truth itself: {oracle(data, base)}")
    variants = [
        Variant(name=name, model=alone(model, replace(model.tier(name), distilled=False)), tier=name, settings=base)
        for name in names
    ]
    compare(variants, data, chain=True)
    for name in names:
        (cost,) = measure_tiers(alone(model, model.tier(name)), bind("decomposed"), candidates=100)
        print(f"{name}: {cost.median_ms:.2f} ms at 100 candidates")
    if args.no_distillation:
        return
    pair = replace(model, tiers=(replace(model.tiers[0], distilled=True), model.tiers[-1]))
    off = replace(base, learner=replace(base.learner, distillation_weight=0.0))
    taught = [
        Variant(name="light beside heavy", model=pair, tier="light", settings=off),
        Variant(name="light learning from heavy", model=pair, tier="light", settings=base),
        Variant(name="heavy itself, beside", model=pair, tier="heavy", settings=base),
    ]
    beside, learning, heavy = (result.entropies for result in compare(taught, data))
    gaps = [b - h for b, h in zip(beside, heavy, strict=True)]
    recovered = [(b - x) / gap for b, x, gap in zip(beside, learning, gaps, strict=True)]
    print(f"share of the gap recovered: {statistics.fmean(recovered):.2f}, by seed {[f'{r:.2f}' for r in recovered]}")


if __name__ == "__main__":
    main()
