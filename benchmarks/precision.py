"""What does selective low precision gain on this machine, and what does it cost?

    python -m benchmarks.precision [--widths 16,64,128] [--train 1000] [--responses 1000] [--loss 0.0002] [--layers]

The demo's heavy tier at several widths (hidden units and attention heads with them) learns from a simulated world;
then every layer is timed in bf16 and int8 on requests as they were asked, and what saves time is judged by the world's
true probabilities, as `tiderank precision` does. Prints for each width the layers that save time at all, those chosen,
the CPU time of a request in float32 and with the chosen set (medians, in turn), the loss with its 95 % interval, the
overlap of the best candidates, and what a refresh of the copies adds to an update. --layers prints every layer.
"""

import argparse
from dataclasses import replace

import torch

from ranker.tuning.precision import TOP_K
from streams.config.load import load_recipe
from streams.config.recipe import Recipe
from streams.machine import this_machine
from streams.tuning.precision import measure_tier, to_text
from streams.tuning.sample import take_sample
from streams.tuning.sample_options import SampleOptions

PER_HEAD = 16


def widened(recipe: Recipe, width: int) -> Recipe:
    """The heavy tier alone, its tokens of this width; the embeddings stay as they are."""
    heavy = recipe.model.tiers[-1]
    hidden = heavy.hidden * width // recipe.model.width
    tier = replace(heavy, width=width, hidden=hidden, heads=max(1, width // PER_HEAD))
    routing = replace(recipe.routing, tiers=(tier.name,), cascades=())
    return replace(recipe, model=replace(recipe.model, tiers=(tier,)), routing=routing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="16,64,128")
    parser.add_argument("--train", type=int, default=1_000, help="responses that the model learns from")
    parser.add_argument("--responses", type=int, default=1_000, help="sampled after that")
    parser.add_argument("--loss", type=float, default=2e-4, help="budget, of normalized entropy")
    parser.add_argument("--layers", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{this_machine()}; {args.train} responses learned, {args.responses} sampled; budget {args.loss:.3%}")
    print(f"width  save time  chosen  fp32 ms  chosen ms  saved    loss %  ± (95 %)  top-{TOP_K} overlap  refresh ms")
    for width in map(int, args.widths.split(",")):
        recipe = widened(load_recipe("demo"), width)
        sample = take_sample(recipe, None, SampleOptions(responses=args.responses, train=args.train))
        result = measure_tier(recipe, recipe.model.tiers[0].name, sample, max_loss=args.loss, repeats=15)
        saving = len({layer.path for layer in result.layers if layer.saves})
        layers = len({layer.path for layer in result.layers})
        saved = 1 - result.low_ms / result.full_ms if result.chosen else 0.0
        print(
            f"{width:>5}  {saving:>3} of {layers:>2}  {len(result.chosen):>6}  {result.full_ms:>7.2f}  "
            f"{result.low_ms:>9.2f}  {saved:>5.1%}  {100 * result.change.loss:>+8.4f}  "
            f"{100 * result.change.error:>8.4f}  {result.overlap:>14.4f}  {result.refresh_ms:>10.2f}",
            flush=True,
        )
        if args.layers:
            print(to_text(result))


if __name__ == "__main__":
    main()
