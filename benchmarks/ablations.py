"""Does each part of a tier earn its place? One part less, or another in its stead, on the same streams.

    python -m benchmarks.ablations [--log world|ml-100k] [--tier medium] [--requests 4000] [--seeds 3] [--only gated]

A variant is a patch of this file or another configuration; the product has no switch for it. Normalized entropy (lower
is better) over the last half of the stream, of predictions made before learning; the difference to the whole tier on
the same impressions, its standard deviation over seeds, each seed's paired 95 % interval; mean prediction over mean
click; processor time of a training step.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.lab.arguments import chosen, parser, settings, streams
from benchmarks.lab.replayed import replayed
from benchmarks.lab.report import Variant, compare, machine, oracle
from benchmarks.lab.training import Patch, alone
from ranker.config import LearnerConfig, ModelConfig
from ranker.model.mlp import Mlp
from ranker.model.tier import Tier
from ranker.model.wukong import Blocks
from ranker.recipes import three_tiers
from streams.datasets.logs.sources import open_log


class _Zeros(nn.Module):
    """In place of a factorization machine's MLP: as many outputs, all 0."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, pairs_nP: Tensor) -> Tensor:
        return pairs_nP.new_zeros(len(pairs_nP), self.outputs)


def zero_factorization(tier: Tier) -> None:
    for module in list(tier.modules()):
        if isinstance(module, Blocks) and isinstance(module.fm, Mlp):
            module.fm = _Zeros(module.fm.down.out_features)  # type: ignore[assignment]


def no_pairs(tier: Tier) -> None:
    """Pairs start at zero; frozen, they stay there."""
    tier.direct.pairs_PU.requires_grad_(False)


def biases_back(tier: Tier) -> None:
    for module in tier.modules():
        if isinstance(module, nn.Linear) and "bias" not in dict(module.named_parameters(recurse=False)):
            module.bias = nn.Parameter(torch.zeros(module.out_features))


def variants(model: ModelConfig, name: str) -> Iterator[tuple[str, ModelConfig, Patch | None]]:
    """The whole tier first."""
    tier = model.tier(name)

    def of(**changes: object) -> ModelConfig:
        return alone(model, replace(tier, **changes))  # type: ignore[arg-type]

    yield "whole", of(), None
    yield "factorization machine zeroed", of(), zero_factorization
    yield "no pairwise terms", of(), no_pairs
    yield "no log", of(log_length=0), None
    yield "biases put back", of(), biases_back
    yield "log read, newest 64", of(read_length=min(64, tier.log_length), encoder_layers=0), None
    yield "log read, all of it", of(read_length=tier.log_length, encoder_layers=0), None
    yield "log read, softmax encoder", of(read_length=tier.log_length, encoder_layers=1), None
    yield "log read, gated encoder", of(read_length=tier.log_length, encoder_layers=1, encoder="gated"), None
    yield "other form", of(form="exact" if tier.form == "two_stack" else "two_stack"), None
    yield "attentive Y", of(attentive=True), None
    yield "2 layers", of(layers=2), None
    yield "embeddings twice as wide", replace(of(), width=2 * model.width), None


def main() -> None:
    arguments = parser(__doc__, requests=4_000)
    arguments.add_argument("--log", choices=("world", "ml-100k"), default="world", help="ml-100k: its own tier")
    arguments.add_argument("--tier", default="medium")
    arguments.add_argument("--log-length", type=int, default=256, help="of the tier, shortened to be quick")
    args = arguments.parse_args()
    chosen_settings, model = settings(args), three_tiers()
    if args.log == "ml-100k":
        log = open_log("ml-100k")
        model = log.model
        args.tier = model.tiers[0].name
        data = dict.fromkeys(range(args.seeds), replayed(log, model, args.requests * args.candidates))
        chosen_settings = replace(chosen_settings, learner=LearnerConfig())  # as benchmarks.logs
    else:
        data = streams(args, model)
    tiers = tuple(replace(tier, log_length=min(tier.log_length, args.log_length)) for tier in model.tiers)
    print(f"{machine()}; {args.log}, tier {args.tier}, log {args.log_length}; {len(data[0].click_N)} impressions")
    print(f"normalized entropy of the truth itself: {oracle(data, chosen_settings)}")
    compare(
        [
            Variant(name=name, model=config, tier=args.tier, settings=chosen_settings, patch=patch)
            for name, config, patch in variants(replace(model, tiers=tiers), args.tier)
            if name == "whole" or chosen(args, name)
        ],
        data,
    )


if __name__ == "__main__":
    main()
