"""What does it gain to train a request's impressions together, and does it cost quality?

    python -m benchmarks.grouping [--tier light] [--requests 2000] [--candidates 16] [--seeds 3]

The same impressions through the same learner: grouped by request, whose side is computed once, against one example an
impression, in steps of as many impressions. Both without past pages, of which a request has some, so that apart would
have as many times more of them; then grouped with them, as it is by default. Examples a second of processor time, and
normalized entropies with the paired 95 % interval of their difference.
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
    default = settings(args)
    grouped = replace(default, learner=replace(default.learner, past_pages=0))
    apart = replace(grouped, batch=grouped.batch * args.candidates)

    def prepare(variant: Variant, stream: Stream) -> Stream:
        return stream.split(user_side(model)) if variant.settings is apart else stream

    print(f"{machine()}; tier {args.tier}, {args.requests} requests of {args.candidates} impressions")
    single, together, _ = results = compare(
        [
            Variant(name="an example an impression", model=model, tier=args.tier, settings=apart),
            Variant(name="grouped by request", model=model, tier=args.tier, settings=grouped),
            Variant(name="grouped, with past pages", model=model, tier=args.tier, settings=default),
        ],
        streams(args, model),
        prepare=prepare,
    )
    examples = grouped.batch * args.candidates * 1000
    rates = [f"{examples / result.step_ms:.0f}" for result in results]
    print(f"examples/s: {', '.join(rates)}; grouped over apart {single.step_ms / together.step_ms:.2f}")


if __name__ == "__main__":
    main()
