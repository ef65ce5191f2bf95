"""Event time that jumps, after an ingest that was down for long or in a sparse replay: every timer of a user is due at
once, that of what was served among them, and the labels that need it still come, whenever what was swept is settled."""

from dataclasses import replace

import pytest
from redis import Redis

from feature_store import Fact, JoinConfig, Joiner, LogConfig, example_id
from feature_store.offline import expected_labels
from tests.feature_store.facts import MINUTE, T0, action, impression, served

CONFIG = JoinConfig(
    click_window_ms=10 * MINUTE, attribution_window_ms=60 * MINUTE, early_ms=5 * MINUTE, state_ttl_s=2 * 3600
)
ELAPSED = replace(CONFIG, click_elapsed_ms=2 * MINUTE, provisional="elapsed", elapsed_ms=15 * MINUTE)
SHOWN: list[Fact] = [served(), impression()]
CLICKED = [*SHOWN, action("c", at=MINUTE)]
CLICKED_LATE = [*SHOWN, action("c", at=5 * MINUTE)]
CONVERTED_LATE = [*CLICKED, action("v", "conversion", at=40 * MINUTE)]


@pytest.mark.parametrize("settled_after", [1, 2, 3], ids=["settled", "crashed once", "crashed twice"])
@pytest.mark.parametrize("config", [CONFIG, ELAPSED], ids=["final alone", "provisional"])
@pytest.mark.parametrize("facts", [SHOWN, CLICKED, CLICKED_LATE, CONVERTED_LATE])
def test_all_labels_come(redis: Redis, facts: list[Fact], config: JoinConfig, settled_after: int) -> None:
    join, now_ms = Joiner(redis, LogConfig(length=32, slack=8, tags=16), config), T0 + 200 * MINUTE
    labels = [label for reply in join.apply(facts, {}) for label in reply.labels]
    for sweep in range(1, 20):
        closed = join.sweep(now_ms, limit=1000)
        labels += [label for window in closed for label in window.labels]
        if sweep >= settled_after:
            join.settle(closed)
        if not closed:
            break
    assert not closed
    found = {example_id(label): label.label for label in labels}
    assert found == {name: e.label.label for name, e in expected_labels(facts, config, now_ms).items()}
    redis.delete(*redis.keys("log:*"))
    assert redis.keys("join:*") == []


def test_a_redelivery_after_what_was_served_is_gone_brings_no_label(redis: Redis) -> None:
    """Its pair may still be there: a crash kept its timer."""
    join = Joiner(redis, LogConfig(length=32, slack=8, tags=16), CONFIG)
    join.apply(CLICKED, {})
    (key,) = redis.keys("join:*")
    redis.hdel(key, "sr")
    (reply,) = join.apply(CLICKED[2:], {})
    assert reply.labels == ()
    assert all(not window.labels for window in join.sweep(T0 + 11 * MINUTE, limit=10))


def test_a_recipe_without_provisional_labels_makes_none_of_the_timers_of_one_that_had_them(redis: Redis) -> None:
    log = LogConfig(length=32, slack=8, tags=16)
    Joiner(redis, log, ELAPSED).apply(CLICKED_LATE, {})
    join = Joiner(redis, log, CONFIG)
    labels = [label for window in join.sweep(T0 + 30 * MINUTE, limit=10) for label in window.labels]
    assert not [label for label in labels if label.provisional]
