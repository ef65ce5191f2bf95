"""What `tiderank freshness` says where nothing reached what is served, and when it is interrupted."""

from collections import Counter
from pathlib import Path

import pytest

from streams.freshness.feed import Watched, measure
from streams.kafka.connection import Kafka
from streams.kafka.tail import Tail
from streams.local.stack import local_stack
from streams.wire.topics import EXAMPLES, RESPONSES, UPDATES


@pytest.mark.parametrize(
    ("came", "named"),
    [
        ({}, "is ingest well"),
        ({UPDATES: 5, RESPONSES: 5}, "is ingest well"),
        ({EXAMPLES: 7, RESPONSES: 5}, "7 examples came and no update of the weights: is train well"),
        ({EXAMPLES: 7, UPDATES: 3}, "3 updates came and no response"),
        ({EXAMPLES: 7, UPDATES: 3, RESPONSES: 5}, "watch longer"),
    ],
)
def test_it_names_the_stage_that_nothing_came_out_of(came: dict[str, int], named: str) -> None:
    assert named in Watched({}, Counter(came)).what_is_missing()


def test_an_interrupt_shows_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_stack(tmp_path, broker="memory") as stack:
        kafka = Kafka(stack.bootstrap, {})
        kafka.create_topics()

        def interrupted(tail: Tail, **_: object) -> object:
            raise KeyboardInterrupt

        monkeypatch.setattr(Tail, "poll", interrupted)
        watched = measure(kafka, seconds=3600)
    assert watched.by_tier == {None: []}
    assert not watched.records
