"""What does it gain to train a request's impressions together, and does it cost quality?

    python -m benchmarks.grouping [--tier light] [--requests 2000] [--candidates 16] [--seeds 3]

The same impressions through the same learner: grouped by request, whose side is computed once, against one example an
impression, in steps of as many impressions. Examples a second of processor time, and normalized entropies with the
paired 95 % interval of their difference.
"""

from dataclasses import replace

from benchmarks.lab.arguments import parser, settings, streams
from benchmarks.lab.report import Variant, compare, machine
from benchmarks.lab.stream import Stream, user_side
from benchmarks.lab.training import alone
from ranker.recipes import three_tiers


def main() -> None:
    arguments = parser(__doc__, requests=2_000)
    arguments.add_argument("--tier", default="light")
    args = arguments.parse_args()
    model = three_tiers()
    model = alone(model, replace(model.tier(args.tier), distilled=False))
    grouped = settings(args)
    apart = replace(grouped, batch=grouped.batch * args.candidates)

    def prepare(variant: Variant, stream: Stream) -> Stream:
        return stream if variant.settings is grouped else stream.split(user_side(model))

    print(f"{machine()}; tier {args.tier}, {args.requests} requests of {args.candidates} impressions")
    together, single = compare(
        [
            Variant(name="an example an impression", model=model, tier=args.tier, settings=apart),
            Variant(name="grouped by request", model=model, tier=args.tier, settings=grouped),
        ],
        streams(args, model),
        prepare=prepare,
    )[::-1]
    examples = grouped.batch * args.candidates * 1000
    print(
        f"examples/s: grouped {examples / together.step_ms:.0f}, apart {examples / single.step_ms:.0f}, "
        f"ratio {single.step_ms / together.step_ms:.2f}"
    )


if __name__ == "__main__":
    main()
