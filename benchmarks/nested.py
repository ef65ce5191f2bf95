"""Nested tiers or separate ones: is one trunk, of whose layers each tier takes a prefix, as good as a trunk for each?

    python -m benchmarks.nested [--requests 6000] [--seeds 2]

Light, medium and heavy of one width, with 1, 2 and 3 layers over logs of 64, 512 and 2,048 events, learn together from
the same streams. Separate: each has layers of its own. Nested: the first layers are the same tensors in all tiers that
have them, with what makes their tokens. Heads are each tier's own in both. Normalized entropy of each tier, the paired
difference nested - separate, and what the dense weights cost in memory and in every update (bfloat16).
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from benchmarks.lab.arguments import parser, settings, streams
from benchmarks.lab.grades import difference, entropy
from benchmarks.lab.report import machine
from benchmarks.lab.training import Run, Settings, run
from kernels.linear_compress import bind
from ranker.config import ModelConfig
from ranker.model.tier import Tier
from ranker.recipes import three_tiers
from ranker.updates.image import build_tiers

_TRUNK = ("request_token", "request", "events", "user_dense", "item_dense")


class Nest:
    """A patch: gives a tier the layers of those it has seen before. To be used for one model."""

    def __init__(self) -> None:
        self._layers: dict[tuple[str, int], nn.Module] = {}
        self._inputs: dict[str, nn.Module | nn.Parameter | None] = {}

    def __call__(self, tier: Tier) -> None:
        for name in _TRUNK:
            setattr(tier, name, self._inputs.setdefault(name, getattr(tier, name)))
        for name in ("readers", "user_layers", "item_layers"):
            layers = getattr(tier.stack, name)
            for depth in range(len(layers)):
                layers[depth] = self._layers.setdefault((name, depth), layers[depth])


def same_width() -> ModelConfig:
    """A prefix must have the shapes of the whole, so all tiers get the medium one's."""
    model = three_tiers()
    medium = model.tier("medium")
    tiers = tuple(
        replace(medium, name=tier.name, layers=tier.layers, log_length=tier.log_length, distilled=False)
        for tier in model.tiers
    )
    return replace(model, tiers=tiers)


def dense_bytes(model: ModelConfig, nested: bool) -> int:
    """Returns the bytes of an update with all dense weights, 2 bytes each; shared ones once."""
    nest, tiers = Nest(), build_tiers(model, bind("decomposed"))
    if nested:
        for tier in tiers.values():
            nest(tier)
    sizes = {id(p): p.numel() for tier in tiers.values() for p in tier.parameters()}
    return 2 * sum(sizes.values())


def row(name: str, runs: Sequence[dict[str, Run]], tier: str) -> str:
    cells = " ".join(f"{entropy(r[tier].click_n, r[tier].p_n):.4f}" for r in runs)
    return f"{tier:<8}{name:<10}{cells}"


def main() -> None:
    args = parser(__doc__, requests=6_000).parse_args()
    chosen: Settings = settings(args)
    model = same_width()
    data = streams(args, model)
    print(f"{machine()}; {args.requests} requests of {args.candidates}; normalized entropy by seed", flush=True)
    separate = [run(stream, model, chosen, seed=seed) for seed, stream in data.items()]
    nested = [run(stream, model, chosen, seed=seed, patch=Nest()) for seed, stream in data.items()]
    for tier in (t.name for t in model.tiers):
        print(row("separate", separate, tier))
        gaps = [
            difference(own.click_n, own.p_n, other.p_n, own.request_n)
            for own, other in zip((n[tier] for n in nested), (s[tier] for s in separate), strict=True)
        ]
        print(row("nested", nested, tier), "  nested - separate:", ", ".join(map(str, gaps)), flush=True)
    print(
        f"dense weights of an update: {dense_bytes(model, False):,} bytes separate, {dense_bytes(model, True):,} nested"
    )


if __name__ == "__main__":
    main()
