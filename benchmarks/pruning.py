"""How much of a tier is there for nothing? Linear operations removed within a budget of normalized entropy.

    python -m benchmarks.pruning [--recipe demo] [--tiers light,heavy] [--budgets 0.0002] [--train 4000] [--seeds 1]

For each seed a model learns from a simulated world; its tiers are pruned on traffic that comes after, and judged on
traffic after that, by the world's true probabilities. Prints the share of linear operations (of a request of 100
candidates with a full log) that is gone, the loss with its 95 % interval, and the CPU time of sampled requests after
over before (medians, in turn). Exit status 1 if a budget of 0.02 % removes less than 20 % of any tier.
"""

import argparse
import sys
from functools import partial

import numpy as np
import torch

from ranker.engine import predict
from ranker.inputs.features import Featurizer
from ranker.model.tier import Tier
from ranker.tuning.cost import cpu_times
from ranker.tuning.held_out import HeldOut
from ranker.tuning.pruning import Pruning, prune
from ranker.tuning.pruning_options import PruningOptions
from streams.config.load import load_recipe
from streams.config.recipe import Recipe
from streams.machine import this_machine
from streams.tuning.prune import trained_tier
from streams.tuning.sample import Sample, take_sample
from streams.tuning.sample_options import SampleOptions

AIM_LOSS, AIM_GONE = 2e-4, 0.2
TIMED = 8


def time_ratio(recipe: Recipe, sample: Sample, before: Tier, after: Tier) -> float:
    """Returns the ratio, after to before, of the medians of CPU time of some sampled requests."""
    featurizer, name, tables = Featurizer(recipe.model), before.config.name, sample.weights.image.tables
    keyed = [featurizer.keys([request], before.config.log_length) for request in sample.requests[:TIMED]]

    def score(tier: Tier) -> None:
        for one in keyed:
            predict(featurizer, {name: tier}, tables, name, one)

    times = cpu_times({"before": partial(score, before), "after": partial(score, after)}, 15)
    return float(np.median(times["after"]) / np.median(times["before"]))


def pruned(recipe: Recipe, sample: Sample, name: str, budget: float) -> tuple[Pruning, float]:
    tier = trained_tier(recipe, name, sample.weights)
    tables = sample.weights.image.tables
    measured, held_out = (HeldOut(recipe.model, name, tables, some) for some in (sample.measured, sample.held_out))
    pruning = prune(recipe.model, tier, measured, held_out, PruningOptions(max_loss=budget))
    return pruning, time_ratio(recipe, sample, tier.eval(), pruning.tier)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--tiers", help="tiers, with commas between them; all of the recipe's where absent")
    parser.add_argument("--budgets", default=str(AIM_LOSS))
    parser.add_argument("--train", type=int, default=4_000, help="responses that the model learns from")
    parser.add_argument("--responses", type=int, default=2_000, help="sampled after that, three of four held out")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{this_machine()}; recipe {args.recipe}, {args.train} responses learned, {args.responses} sampled")
    print(" seed     tier  budget %  linear operations gone  time left  entropy    loss %  ± (95 %)")
    recipe = load_recipe(args.recipe)
    names = args.tiers.split(",") if args.tiers else [tier.name for tier in recipe.model.tiers]
    reached = True
    for seed in range(args.seeds):
        options = SampleOptions(responses=args.responses, train=args.train, seed=seed)
        sample = take_sample(recipe, None, options)
        for name in names:
            for budget in map(float, args.budgets.split(",")):
                result, ratio = pruned(recipe, sample, name, budget)
                gone, change = 1 - result.operations, result.change
                reached &= budget > AIM_LOSS or gone >= AIM_GONE
                print(
                    f"{seed:>5} {name:>8} {100 * budget:>9.3f} {gone:>23.1%} {ratio:>10.2f} {result.entropy:>8.5f} "
                    f"{100 * change.loss:>+9.4f} {100 * change.error:>9.4f}",
                    flush=True,
                )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
