"""Is the model worth it on real logs? Beside what a good engineer builds in an afternoon, each label as late for all.

    python -m benchmarks.logs [--logs ml-100k,obd/random/all] [--lags 0,16,128] [--limit 20000] [--seeds 3] [--json]
    python -m benchmarks.logs --logs ratings.csv --map ratings.toml

The model of `tiderank replay`, in process: one pass through the log in the order of time, each impression predicted by
what was learned before, as at an average place, and graded. At lag 0 each label is learned before the next impression
is predicted; at lag L in steps of 16, and a step once L - 16 further impressions were predicted.

Weights learn each label as late, in the model and in the rivals: running means of user and item, Vowpal Wabbit with
crosses (-q ug -q if), and boosted trees on counts and means as of the moment, fitted anew each 5,000 labels. But the
model reads the user's log, which has each event at once, as it has when the house runs. Two rows take that apart:
Vowpal Wabbit that is told counts of the same log, at once as well, and the model with a log that ends before the first
impression whose label is not known. Differences have 95 % intervals of 1,000 bootstrap resamples of whole users.
"""

# n impressions.

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab.replayed import replayed
from benchmarks.lab.stream import Stream
from benchmarks.lab.training import Settings, run
from ranker.arrays import F64
from ranker.config import LearnerConfig
from streams.datasets.logs.sources import open_log
from streams.datasets.logs.traffic import LoggedImpression, TrafficLog
from streams.errors import StartError
from streams.machine import this_machine
from streams.replay.baselines import Schedule, known_after
from streams.replay.metrics import auc_interval, normalized_entropies
from streams.replay.report import BASELINES

STEP = 16
OBD = [f"obd/{policy}/{campaign}" for policy in ("random", "bts") for campaign in ("all", "men", "women")]
MODEL = "model"
LATE_LOG = "model, its log as late"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", default=",".join(["ml-100k", *OBD]))
    parser.add_argument("--map", type=Path, help="of a file among --logs: its columns, as tiderank replay takes them")
    parser.add_argument("--lags", default="0,16,128")
    parser.add_argument("--limit", type=int, help="only the first so many impressions")
    parser.add_argument("--seeds", type=int, default=3, help="of the model's initial weights")
    parser.add_argument("--json", action="store_true", help="print one object last")
    args = parser.parse_args()
    print(f"{this_machine()}; normalized entropy, lower is better", flush=True)
    found = {}
    for name in args.logs.split(","):
        try:
            log = open_log(name, args.map)
            rows = list(log.read())[: args.limit]
        except (ValueError, OSError, StartError) as unreadable:
            raise SystemExit(f"benchmarks.logs: {unreadable}") from None
        clicks = sum(row.clicked for row in rows)
        if not 0 < clicks < len(rows):
            raise SystemExit(
                f"benchmarks.logs: {name} has {len(rows)} rows and {clicks} clicks: grades need both kinds"
            )
        found[name] = {lag: graded(log, rows, int(lag), args.seeds) for lag in args.lags.split(",")}
    if args.json:
        print(json.dumps(found))


def graded(log: TrafficLog, rows: list[LoggedImpression], lag: int, seeds: int) -> dict[str, Any]:
    """Grades of the model, mean over the seeds, and of each rival, with how the model differs."""
    schedule, predicted, took_s = schedule_of(len(rows), lag), {}, {}
    for seed in range(seeds):
        began_s = time.process_time()
        predicted[f"{MODEL} {seed}"] = model_on(log, len(rows), lag, seed)
        took_s[MODEL] = time.process_time() - began_s
    for name, rival in BASELINES.items():
        began_s = time.process_time()
        predicted[name] = rival(rows, schedule, log.model)
        took_s[name] = time.process_time() - began_s
    if lag:
        began_s = time.process_time()
        predicted[LATE_LOG] = model_on(log, len(rows), lag, 0, late_log=True)
        took_s[LATE_LOG] = time.process_time() - began_s
    labels: F64 = np.array([row.clicked for row in rows], np.float64)
    users = np.unique([row.user for row in rows], return_inverse=True)[1].astype(np.int64)
    entropies = normalized_entropies(labels, np.stack(list(predicted.values())), users)
    aucs = [auc_interval(labels, p_n).value for p_n in predicted.values()]
    print(f"\n{log.name}, lag {lag}: {len(rows)} impressions, {int(labels.sum())} clicks, {users.max() + 1} users")
    print(f"{'':36}{'AUC':>8}{'entropy':>9}{'s':>7}   model - rival in entropy, 95 %")
    ours = {"auc": float(np.mean(aucs[:seeds])), "normalized_entropy": float(entropies.values_K[:seeds].mean())}
    spread = float(np.ptp(entropies.values_K[:seeds]))
    said = f"seeds differ by {spread:.4f}" if seeds > 1 else "one seed"
    print(f"{MODEL:36}{ours['auc']:>8.4f}{ours['normalized_entropy']:>9.4f}{took_s[MODEL]:>7.0f}   {said}")
    out: dict[str, Any] = {MODEL: {**ours, "spread": spread, "seconds": round(took_s[MODEL], 1)}}
    for k, name in enumerate(list(predicted)[seeds:], seeds):
        differences = [entropies.difference(seed, k) for seed in range(seeds)]
        low, high = min(d.low for d in differences), max(d.high for d in differences)
        mean = float(np.mean([d.value for d in differences]))
        entropy = float(entropies.values_K[k])
        verdict = "model better" if high < 0 else "model worse" if low > 0 else "no difference shown"
        print(f"{name:36}{aucs[k]:>8.4f}{entropy:>9.4f}{took_s[name]:>7.0f}   {mean:+.4f} ", end="")
        print(f"[{low:+.4f}, {high:+.4f}]: {verdict}")
        out[name] = {
            "auc": aucs[k],
            "normalized_entropy": entropy,
            "seconds": round(took_s[name], 1),
            "model_minus": [round(x, 5) for x in (mean, low, high)],
        }
    return out


def schedule_of(impressions: int, lag: int) -> Schedule:
    """Says which labels are known when each impression is predicted."""
    return known_after(impressions, lag - STEP, STEP) if lag else known_after(impressions, 0)


def model_on(log: TrafficLog, impressions: int, lag: int, seed: int, *, late_log: bool = False) -> F64:
    """[n] predictions. late_log: the user's log has nothing that the labels do not say."""
    if lag and (lag < STEP or lag % STEP):
        raise SystemExit(f"a lag is 0 or a multiple of {STEP}, got {lag}")
    settings = Settings(
        batch=STEP if lag else 1, late=max(0, lag - STEP), graded=1.0, at_average_place=True, learner=LearnerConfig()
    )
    stream = replayed(log, log.model, impressions)
    if late_log:
        stream = with_late_log(stream, schedule_of(impressions, lag))
    [learned] = run(stream, log.model, settings, seed=seed).values()
    return learned.p_n.astype(np.float64)


def with_late_log(stream: Stream, schedule: Schedule) -> Stream:
    """Ends each request's log before the first impression whose label is not known."""
    known_s_R = stream.event_ms_R[np.minimum(schedule.known_n, stream.requests - 1)] // 1000
    ends = [
        start + int(np.searchsorted(stream.events_E["time_s"][start:end], known_s))
        for start, end, known_s in zip(
            stream.log_start_R.tolist(), stream.log_end_R.tolist(), known_s_R.tolist(), strict=True
        )
    ]
    return replace(stream, log_end_R=np.array(ends))


if __name__ == "__main__":
    main()
