"""Times that cannot be true: refused with the unit that they look like."""

import pytest

from streams.config.builtin import RECIPES
from streams.config.load import load_recipe
from streams.errors import Refused
from streams.wire.event_time import TimeBounds
from streams.wire.record import Record
from streams.wire.topics import IMPRESSIONS

NOW_MS = 1_800_000_000_000
YEAR_MS = 365 * 24 * 3_600_000
RECORD = Record(IMPRESSIONS, 0, 0, NOW_MS, b"u", b"", ())
LIVE = load_recipe("default").times


@pytest.mark.parametrize(
    ("event_ms", "reason"),
    [
        (NOW_MS // 1000, "looks like seconds: send milliseconds"),
        ((NOW_MS - YEAR_MS) // 1000, "looks like seconds"),
        (NOW_MS * 1000, "looks like microseconds"),
        (NOW_MS * 10**6, "looks like nanoseconds"),
        (0, r"at least 1000000000000 \(the recipe's min_event_ms\), got 0$"),
        (NOW_MS + 60_001, f"ahead of the broker's {NOW_MS}, got {NOW_MS + 60_001}$"),
        (2**63 - 1, "ahead of the broker's"),
    ],
)
def test_a_time_that_cannot_be_true_is_refused_with_its_likely_unit(event_ms: int, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        LIVE.check(event_ms, RECORD)


@pytest.mark.parametrize("event_ms", [NOW_MS + 60_000, NOW_MS, NOW_MS - YEAR_MS, 10**12])
def test_an_old_event_is_not_an_implausible_one(event_ms: int) -> None:
    assert LIVE.check(event_ms, RECORD) == event_ms


def test_where_no_time_was_sent_it_is_the_brokers() -> None:
    assert TimeBounds(min_ms=2 * NOW_MS, max_future_ms=0).check(None, RECORD) == NOW_MS


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_no_live_recipe_takes_a_time_in_seconds(recipe: str) -> None:
    year_9999_s = 253_402_300_799
    with pytest.raises(Refused, match="min_event_ms"):
        load_recipe(recipe).times.check(year_9999_s, RECORD)
