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
from ranker.model.reader import Grouping, StateReader
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


class _Deaf(nn.Module):
    """In place of a reader: reads nothing."""

    def forward(
        self, states: Tensor, mask: Tensor | None, user_BUD: Tensor, item_NVD: Tensor, grouping: Grouping
    ) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(user_BUD[:, :1]), torch.zeros_like(item_NVD[:, :1])


class _CandidatesOnly(nn.Module):
    """A reader whose request has no query of its own."""

    def __init__(self, reader: StateReader) -> None:
        super().__init__()
        self.reader = reader

    def forward(
        self, states: Tensor, mask: Tensor | None, user_BUD: Tensor, item_NVD: Tensor, grouping: Grouping
    ) -> tuple[Tensor, Tensor]:
        user_B1D, item_N1D = self.reader(states, mask, user_BUD, item_NVD, grouping)
        return torch.zeros_like(user_B1D), item_N1D


def zero_factorization(tier: Tier) -> None:
    for module in list(tier.modules()):
        if isinstance(module, Blocks) and isinstance(module.fm, Mlp):
            module.fm = _Zeros(module.fm.down.out_features)  # type: ignore[assignment]


def no_pairs(tier: Tier) -> None:
    """Pairs start at zero; frozen, they stay there."""
    tier.direct.pairs_PU.requires_grad_(False)


def read_nothing(tier: Tier) -> None:
    for depth in range(len(tier.stack.readers)):
        tier.stack.readers[depth] = _Deaf()


def read_at_first_layer_only(tier: Tier) -> None:
    for depth in range(1, len(tier.stack.readers)):
        tier.stack.readers[depth] = _Deaf()


def no_request_query(tier: Tier) -> None:
    for depth, reader in enumerate(list(tier.stack.readers)):
        assert isinstance(reader, StateReader)
        tier.stack.readers[depth] = _CandidatesOnly(reader)


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
    yield "log counted, not read", of(), read_nothing
    yield "log read at the first layer only", of(), read_at_first_layer_only
    yield "no request query", of(), no_request_query
    yield "biases put back", of(), biases_back
    yield "encoder: softmax, 1 layer", of(encoder_layers=1, encoder="softmax"), None
    yield "encoder: gated, 1 layer", of(encoder_layers=1, encoder="gated"), None
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
