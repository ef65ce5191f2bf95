"""What a transaction that another sender leaves open costs everybody else's requests.

    python -m benchmarks.open_transaction --seconds 30 --rate 20

The same load twice in one house, in turns: without, and with a transaction that holds a request, an impression and a
conversion of five users open for as long as the load lasts. Times are from when a request was due. Then the same where
requests are read committed, as a consumer does that is given no thought.
"""

import time
from contextlib import nullcontext

import click

from benchmarks.lab.house import QUICK, house, traffic
from benchmarks.lab.transactions import transaction
from streams.local.house import WORKERS, House
from streams.simulate.report import percentiles

DRAIN_S = 5.0
"""How long answers are waited for at the load's end, before the transaction's. What is missing then took this long and
the whole load, at least."""


@click.command()
@click.option("--seconds", type=float, default=30.0, show_default=True, help="Length of each turn; a minute at most.")
@click.option("--rate", type=float, default=20.0, show_default=True, help="Requests a second.")
@click.option("--turns", type=click.IntRange(min=1), default=3, show_default=True)
def main(seconds: float, rate: float, turns: int) -> None:
    """Rank beside a transaction that is left open."""
    print(f"{'requests are read':26} {'sent':>6} {'ok':>6} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}")
    for read, module in (("uncommitted", "streams.cli"), ("committed", "benchmarks.lab.committed")):
        with house(QUICK, WORKERS, module=module) as up:
            _load(up, rate, 10.0, seed=0, name=f"{read}, warming up")
            for turn in range(turns):
                for left_open in (False, True):
                    name = f"{read}, {'one' if left_open else 'none'} open"
                    with transaction(up.stack.bootstrap, "abort") if left_open else nullcontext():
                        _load(up, rate, seconds, seed=2 * turn + left_open + 1, name=name)


def _load(up: House, rate: float, seconds: float, *, seed: int, name: str) -> None:
    with traffic(up.kafka, rate, seed=seed, drain_s=DRAIN_S) as asking:
        time.sleep(seconds)
    assert asking.report is not None, "the load ends within the time it was given"
    (tally,) = asking.report.phases
    missing = [1_000 * (seconds + DRAIN_S)] * (tally.requests - len(tally.latency_ms))
    times = percentiles(tally.latency_ms + missing) or {"p50": 0.0, "p99": 0.0, "max": 0.0}
    print(
        f"{name:26} {tally.requests:>6} {tally.responses.get('ok', 0):>6} "
        f"{times['p50']:>8.1f} {times['p99']:>8.1f} {times['max']:>8.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
