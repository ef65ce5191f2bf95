"""How does normalized entropy follow from operations, and from the length of the log? What does sharing buy?

    python -m benchmarks.scaling [--requests 8000] [--seeds 2] [--axis both|user|candidate|log|spend|all]

Sizes of one tier, user and candidate side grown together and apart: executed operations (a request's shared by its 100
candidates, and the candidate's own; counted by running the tier) against normalized entropy on the same streams. Then
the log: normalized entropy and the time to score 100 candidates, features to probabilities, at each length (long ones
want --history 8000).

spend: plain Wukong pair by pair, where all operations are each candidate's own, beside two stacks that execute no more
of them, what is shared having been spent on the request's side and its log.
"""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.lab.arguments import parser, settings, streams
from benchmarks.lab.report import Variant, compare, machine, oracle
from benchmarks.lab.training import alone
from kernels.linear_compress import bind
from ranker.config import ModelConfig, TierConfig
from ranker.recipes import three_tiers
from ranker.tuning.cost import measure_tiers

_SMALL = TierConfig(name="size", encoder_layers=0)
_CANDIDATES = 100
_PER_PAIR = "per pair"


def user_side(tier: TierConfig, step: int) -> TierConfig:
    return replace(tier, user_tokens=(4, 12, 24, 48)[step], log_length=(64, 256, 1024, 2048)[step])


def candidate_side(tier: TierConfig, step: int) -> TierConfig:
    return replace(
        tier,
        fm_tokens=(2, 4, 8, 16)[step],
        compressed_tokens=(2, 4, 8, 16)[step],
        fm_rank=(4, 8, 12, 16)[step],
        hidden=(16, 32, 64, 128)[step],
        layers=(1, 1, 2, 3)[step],
    )


def sizes(axis: str) -> Iterator[tuple[str, TierConfig]]:
    small = user_side(candidate_side(_SMALL, 0), 0)
    for step in range(4):
        if axis in ("both", "all"):
            yield f"both sides, size {step}", user_side(candidate_side(small, step), step)
        if axis in ("user", "all") and step:
            yield f"user side, size {step}", user_side(small, step)
        if axis in ("candidate", "all") and step:
            yield f"candidate side, size {step}", candidate_side(small, step)


def spent() -> Iterator[tuple[str, TierConfig]]:
    pair = replace(_SMALL, form="exact", layers=2, fm_tokens=4, compressed_tokens=4)
    yield f"{_PER_PAIR}, 1 layer", replace(pair, layers=1)
    yield f"{_PER_PAIR}, 2 layers", pair
    yield f"{_PER_PAIR}, 2 layers, log 256", replace(pair, log_length=256)
    for step in (1, 2, 3):
        tier = user_side(replace(_SMALL, layers=2), step)
        yield f"two stacks, log {tier.log_length}", tier


def logs(model: ModelConfig, lengths: list[int]) -> Iterator[tuple[str, TierConfig]]:
    tier = replace(model.tier("medium"), name="size", distilled=False)
    for length in lengths:
        yield f"medium, log {length}", replace(tier, log_length=length)


def main() -> None:
    arguments = parser(__doc__, requests=8_000)
    arguments.add_argument("--axis", choices=("both", "user", "candidate", "log", "spend", "all"), default="all")
    arguments.add_argument("--lengths", default="64,256,512,1024,2048")
    args = arguments.parse_args()
    model, chosen = three_tiers(), settings(args)
    data = streams(args, model)
    print(f"{machine()}; {args.requests} requests of {args.candidates}; the truth {oracle(data, chosen)}")
    tiers = list(sizes(args.axis))
    if args.axis in ("log", "all"):
        tiers += logs(model, [int(length) for length in args.lengths.split(",")])
    if args.axis in ("spend", "all"):
        tiers += spent()
    results = compare(
        [Variant(name=name, model=alone(model, tier), tier="size", settings=chosen) for name, tier in tiers], data
    )
    head = ("a request", "a candidate", "equivalent", "executed", "ms at 100", "NE", "spread")
    print(f"\n{'thousand operations of':<26}" + "".join(f"{name:>12}" for name in head))
    for (name, tier), result in zip(tiers, results, strict=True):
        config = alone(model, tier)
        (cost,) = measure_tiers(config, bind("decomposed"), candidates=_CANDIDATES)
        request, candidate = cost.operations.request / 1000, cost.operations.candidate / 1000
        shared_by = 1 if name.startswith(_PER_PAIR) else _CANDIDATES
        counts = (request, candidate, request + candidate, request / shared_by + candidate)
        print(
            f"{name:<26}" + "".join(f"{c:>12.1f}" for c in counts) + f"{cost.median_ms:>12.2f}"
            f"{result.mean:>12.4f}{result.spread:>12.4f}"
        )


if __name__ == "__main__":
    main()
