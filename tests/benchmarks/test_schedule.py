"""Which faults a run of chaos inflicts, and in which order."""

import random
from collections import Counter

from benchmarks.faults.schedule import drawn, faults
from tests.e2e.test_chaos import SEED

KNOWN = faults(slow_disk=True)


def test_the_short_form_takes_one_of_each_family_and_over_the_seeds_every_one() -> None:
    runs = [drawn(KNOWN, None, random.Random(seed)) for seed in range(200)]
    families = sorted({fault.family for fault in KNOWN})
    assert all(sorted(fault.family for fault in run) == families for run in runs)
    assert {fault.name for run in runs for fault in run} == {fault.name for fault in KNOWN}


def test_a_run_of_two_decks_holds_each_twice() -> None:
    run = drawn(KNOWN, 2 * len(KNOWN), random.Random(0))
    assert Counter(run) == dict.fromkeys(KNOWN, 2)


def test_nothing_that_redis_may_yet_forget_is_deleted() -> None:
    for seed in range(50):
        run = drawn(KNOWN, 100, random.Random(seed))
        forgets = [i for i, fault in enumerate(run) if fault.forgets]
        deletes = [i for i, fault in enumerate(run) if fault.deletes]
        assert forgets, seed
        assert deletes, seed
        assert max(forgets) < min(deletes)


def test_the_seed_of_the_tests_draws_what_was_once_a_fault() -> None:
    names = {fault.name for fault in drawn(KNOWN, None, random.Random(SEED))}
    assert {"move ingest to deleted", "overtake ingest", "recreate ads.impressions", "refuse writes full"} <= names
