"""The topics: their names, encodings, and settings. Knows nothing of workers."""

from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from streams.wire import messages as m

Encoding = Literal["json", "msgpack", "raw"]

REQUESTS = "ranking.requests"
RESPONSES = "ranking.responses"
SERVED = "ranking.served"
DECISIONS = "router.decisions"
OUTCOMES = "router.outcomes"
REWARDS = "router.rewards"
ROUTER_MODEL = "router.model"
IMPRESSIONS = "ads.impressions"
CONVERSIONS = "ads.conversions"
EXAMPLES = "training.examples"
UPDATES = "model.updates"
DEAD_LETTERS = "dead.letters"

GROUPS = {worker: f"tiderank-{worker}" for worker in ("rank", "ingest", "train", "rewards", "learn", "dlq")}
"""Consumer groups by who reads: the broker keeps under their names how far that is."""
READER_GROUP = "tiderank-reader"
"""What clients outside of any group call themselves: the client asks for a name, and never joins it."""

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
USER_PARTITIONS = 4
"""Partitions of every user-keyed topic. The in-memory broker makes 4 whatever is asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    name: str
    message: type[Struct] | None
    """None: not one of our structs (model.updates has its own codec, dead.letters holds the original bytes)."""
    encoding: Encoding
    """Encoding of records without a `content-type` header."""
    partitions: int = USER_PARTITIONS
    retention_ms: int = 7 * DAY_MS
    retention_bytes: int | None = None
    """Most bytes that a partition keeps; None: limited by time alone."""
    max_bytes: int = 1_000_000
    """Largest record the topic takes."""
    unpacked: bool = False
    """The broker unpacks what senders compressed, and so holds `max_bytes` against what a reader will have in memory. A
    megabyte on the wire may be a gigabyte there; of what outsiders send, none of it may be."""
    public: bool = False
    """Part of the contract with other systems: documented by AsyncAPI."""


TOPICS: dict[str, Topic] = {
    t.name: t
    for t in (
        Topic(
            name=REQUESTS, message=m.RankingRequest, encoding="json", retention_ms=DAY_MS, unpacked=True, public=True
        ),
        Topic(name=RESPONSES, message=m.RankingResponse, encoding="json", retention_ms=DAY_MS, public=True),
        # A request of 1 MB whose numbers are written in one digit takes more in MessagePack: 8 bytes each.
        Topic(name=SERVED, message=m.Served, encoding="msgpack", max_bytes=1_500_000),
        Topic(name=DECISIONS, message=m.Decision, encoding="json", public=True),
        Topic(name=OUTCOMES, message=m.Outcome, encoding="json", public=True),
        # A decision, and what is said of it.
        Topic(name=REWARDS, message=m.Reward, encoding="json", max_bytes=1_010_000, public=True),
        Topic(name=ROUTER_MODEL, message=m.RouterModel, encoding="msgpack", partitions=1, max_bytes=4_100_000),
        Topic(name=IMPRESSIONS, message=m.Impression, encoding="json", unpacked=True, public=True),
        Topic(name=CONVERSIONS, message=m.Conversion, encoding="json", unpacked=True, public=True),
        Topic(name=EXAMPLES, message=m.TrainingExample, encoding="msgpack", max_bytes=1_500_000),
        # Several updates a second with all dense weights: a day of them would fill a disk. Snapshots come far sooner.
        Topic(
            name=UPDATES,
            message=None,
            encoding="raw",
            partitions=1,
            retention_ms=DAY_MS,
            retention_bytes=8_000_000_000,
        ),
        # Above every input limit, so that no refused record is itself refused.
        Topic(name=DEAD_LETTERS, message=None, encoding="raw", partitions=1, max_bytes=5_000_000),
    )
}
