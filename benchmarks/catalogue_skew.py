"""What does it cost that the trainer counts the log by the newest catalogue, and not by the one that was served?

    python -m benchmarks.catalogue_skew [--world catalogue] [--lates 16,128,1024] [--seeds 3] [--json]

An item that has been learned since an impression was served has a category by now that it had not then, so what the
trainer counts in the same log can be more than what was served. One tier learns a stream whose labels come late by a
number of requests, once from the newest counts, as the house does, and once from those that were served. Printed: the
share of impressions whose counts differ, and what the difference costs in normalized entropy, paired by request.
"""

import argparse
import json
from dataclasses import replace

import numpy as np

from benchmarks.lab.arguments import parser, settings, streams
from benchmarks.lab.grades import difference, entropy
from benchmarks.lab.report import machine
from benchmarks.lab.stream import Stream
from benchmarks.lab.training import Run, alone, run
from ranker.recipes import three_tiers


def main() -> None:
    arguments = parser(__doc__, requests=6_000)
    arguments.set_defaults(world="catalogue", dense_rate=1e-3, row_rate=0.1)
    arguments.add_argument("--tier", default="medium")
    arguments.add_argument("--lates", default="16,128,1024", help="requests that labels come late by")
    arguments.add_argument("--json", action="store_true", help="print one object last")
    args = arguments.parse_args()
    print(f"{machine()}; world {args.world}, {args.requests} requests of {args.candidates}, {args.tier}", flush=True)
    print(f"{'requests late':>13}{'counts differ':>15}{'newest':>9}{'as served':>11}   newest - as served, by seed")
    data = streams(args, three_tiers())
    found = {late: measured(args, int(late), data) for late in args.lates.split(",")}
    if args.json:
        print(json.dumps(found))


def measured(args: argparse.Namespace, late: int, data: dict[int, Stream]) -> dict[str, object]:
    newest, served = [], []
    for seed, stream in data.items():
        newest.append(learned(args, late, seed, stream, as_served=False))
        served.append(learned(args, late, seed, stream, as_served=True))
    gaps = [difference(a.click_n, a.p_n, b.p_n, a.request_n) for a, b in zip(newest, served, strict=True)]
    entropies = [float(np.mean([entropy(r.click_n, r.p_n) for r in runs])) for runs in (newest, served)]
    skewed = float(np.mean([r.skewed for r in newest]))
    by_seed = "  ".join(f"{gap.mean:+.4f}±{gap.half_width:.4f}" for gap in gaps)
    print(f"{late:>13}{skewed:>15.1%}{entropies[0]:>9.4f}{entropies[1]:>11.4f}   {by_seed}", flush=True)
    return {
        "counts_differ": round(skewed, 4),
        "newest": round(entropies[0], 5),
        "as_served": round(entropies[1], 5),
        "newest_minus": [[round(gap.mean, 5), round(gap.half_width, 5)] for gap in gaps],
    }


def learned(args: argparse.Namespace, late: int, seed: int, stream: Stream, *, as_served: bool) -> Run:
    model = three_tiers()
    model = alone(model, replace(model.tier(args.tier), distilled=False))
    [result] = run(stream, model, replace(settings(args), late=late, as_served=as_served), seed=seed).values()
    return result


if __name__ == "__main__":
    main()
