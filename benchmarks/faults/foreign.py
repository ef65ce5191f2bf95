"""A stranger that sends in transactions, as stream processors and connectors do.

Each fault returns whether serving suffers: it never does.
"""

from benchmarks.faults.target import Target
from benchmarks.lab.transactions import transaction

OTHERS_S = 30.0
"""Within this other senders' requests are to be answered, while a transaction is open."""


def leave_open(target: Target) -> bool:
    """It is committed in the end; until then it must not hold up anybody's requests."""
    with transaction(target.house.kafka.bootstrap, "commit"):
        target.tend(target.rng.uniform(2.0, 6.0))
        target.await_answers(OTHERS_S)
    return False


def abort(target: Target) -> bool:
    with transaction(target.house.kafka.bootstrap, "abort"):
        target.tend(target.rng.uniform(0.0, 3.0))
    return False
