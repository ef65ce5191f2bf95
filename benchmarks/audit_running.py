"""Audits a house under load, again and again: each must say that nothing is wrong.

    python -m benchmarks.audit_running --audits 10 --rate 20

Everything runs: rank, ingest, train, rewards and learn. With --transactions another sender's transactions are beside
the load: one committed, one aborted, and one that is open while every second audit is made.
"""

import sys
import time
from contextlib import nullcontext

import click

from benchmarks.lab.house import QUICK, house, traffic
from benchmarks.lab.transactions import transaction
from streams.audit import AuditReport, run_audit
from streams.local.house import WORKERS, House


@click.command()
@click.option("--audits", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--rate", type=float, default=20.0, show_default=True, help="Requests a second.")
@click.option("--pause", type=float, default=3.0, show_default=True, help="Seconds before each audit.")
@click.option("--transactions", is_flag=True, help="Another sender's, beside the load.")
def main(audits: int, rate: float, pause: float, transactions: bool) -> None:
    """Audit a house under load."""
    wrong = 0
    with house(QUICK, WORKERS) as up, traffic(up.kafka, rate, seed=0, drain_s=20):
        if transactions:
            for end in ("commit", "abort"):
                with transaction(up.stack.bootstrap, end):
                    pass
        print(f"{'audit':>5}  {'verdict':7} {'seconds':>7} {'requests':>9} {'events':>7}  what is wrong, and unknown")
        for number in range(1, audits + 1):
            time.sleep(pause)
            left_open = transactions and number % 2 == 0
            with transaction(up.stack.bootstrap, "abort") if left_open else nullcontext():
                wrong += not _audited(number, up)
    print(f"{audits - wrong} of {audits} ok")
    sys.exit(1 if wrong else 0)


def _audited(number: int, up: House) -> bool:
    began = time.monotonic()
    report = run_audit(up.settings)
    print(
        f"{number:>5}  {'ok' if report.ok else 'NOT OK':7} {time.monotonic() - began:>7.1f} "
        f"{report.count('requests', 'sent'):>9,} {report.count('events', 'distinct'):>7,}  {_findings(report)}",
        flush=True,
    )
    return report.ok


def _findings(report: AuditReport) -> str:
    found = report.as_dict()
    return "; ".join(
        f"{verdict} {f['section']}.{f['name']} {f['count']}: {', '.join(f['ids'][:3])}"
        for verdict in ("fault", "unknown")
        for f in found[verdict]
    ) + (f"; let go {report.let_go}" if report.let_go else "")


if __name__ == "__main__":
    main()
