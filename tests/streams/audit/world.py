"""A whole small history of a house that did everything right, its topics as copies, and the audit of those."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from msgspec import Struct, structs
from redis import Redis

from ranker.updates.changes import Changes
from ranker.updates.record import Open, Update, UpdateHeader, encode_open, encode_update
from router_bandit.windows import WindowOptions
from streams.audit import AuditReport
from streams.audit.patience import Patience
from streams.audit.run import Audit
from streams.audit.source import Source
from streams.config.load import load_recipe
from streams.kafka.connection import Kafka
from streams.kafka.dead_letters import letter_headers
from streams.wire.codec import decode, encode
from streams.wire.messages import Candidate, Decision, Outcome, RankingRequest, RankingResponse, Reward, TrainingExample
from streams.wire.record import Record
from streams.wire.topics import (
    CONVERSIONS,
    DEAD_LETTERS,
    DECISIONS,
    EXAMPLES,
    OUTCOMES,
    REQUESTS,
    RESPONSES,
    REWARDS,
    TOPICS,
    UPDATES,
)
from streams.workers.ingest.worker import GROUP as INGEST
from streams.workers.router.rewards import GROUP as REWARDS_GROUP
from tests.streams.audit.history import JOIN, KINDS, LOG, SECOND, T0, TIMES, History

CLOSED = 100 * SECOND
NOW = 3600 * SECOND
WINDOW_MS = 10 * SECOND
DUE = f"{WindowOptions().prefix}due"
RECIPE = replace(load_recipe("demo"), join=JOIN, kinds=KINDS, max_future_ms=TIMES.max_future_ms, clock="event")
RECIPE = replace(RECIPE, routing=replace(RECIPE.routing, reward_window_ms=WINDOW_MS))


class World(History):
    """One response was shown, clicked and bought, and its decision rewarded; another was clicked, without a decision.
    One user has more events than tags; one event was refused. A test spoils it."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis, JOIN)
        self.offsets: dict[tuple[str, str], int] = {}
        """By group and topic, the committed offset, where it is not that of the last record."""
        self.learned: int | None = None
        """Offset of the examples that the last update knows of, where it is not that of the last record."""
        self._request("r")
        self._request("q")
        refused = self.put(CONVERSIONS, b"garbage")
        headers = tuple((name, str(value).encode()) for name, value in letter_headers(refused, "why", "ingest").items())
        self.records[DEAD_LETTERS].append(Record(DEAD_LETTERS, 0, 0, T0, None, b"garbage", headers))
        self.serve("r")
        self.show("i", "a")
        self.show("j", "b")
        self.act("c", "i", at=SECOND)
        self.act("p", "i", kind="purchase", at=2 * SECOND)
        self.serve("q", user="x")
        self.show("k", "a", user="x", response="q")
        self.act("d", "k", user="x", at=SECOND)
        for number in range(LOG.tags + 2):
            self.act(f"s{number}", None, kind="search", item="a", user="w", at=number * SECOND)
        self.act("lone", None, kind="search", item="a", user="v")
        self.serve("later", user="y", at=CLOSED)
        for _ in range(2):
            self.sweep(CLOSED)
        self._told()

    def tell(self, topic: str, message: Struct, at: int = 0) -> None:
        self.put(topic, encode(TOPICS[topic], message), at)
        if topic in (DECISIONS, OUTCOMES):
            self.redis.hset(WindowOptions().places_key, f"{topic}:0", self.end(topic))

    def change(self, topic: str, place: int, **changes: object) -> None:
        """Falsifies a record where it lies."""
        record = self.records[topic][place]
        changed = structs.replace(decode(TOPICS[topic], record.value), **changes)
        self.records[topic][place] = replace(record, value=encode(TOPICS[topic], changed))

    def take_out(self, topic: str, says: str) -> None:
        """Takes out the records that hold this text; what remains keeps its offsets."""
        kept = [record for record in self.records[topic] if says.encode() not in (record.value or b"")]
        assert len(kept) == len(self.records[topic]) - 1, "one, and no other"
        self.records[topic] = kept

    def decide(self, response: str, at: int = 0) -> Decision:
        return Decision(
            response_id=response, user="u", event_ms=T0 + at, plan="light", probabilities={"light": 1.0}, values={},
            costs={}, measured_ms=1.0, price=0.0, context={}, router_number=0,
        )  # fmt: skip

    def update(self, epoch: int, number: int, offset: int, previous: int | None = None) -> None:
        header = UpdateHeader(
            epoch=epoch, number=number, previous=number - 1 if previous is None else previous,
            digest=RECIPE.model.digest, trainer=f"t{epoch}", offsets={"0": offset},
        )  # fmt: skip
        (record,) = encode_update(Update(header, Changes({}, {})))
        self.put(UPDATES, record)

    def open(self, epoch: int) -> None:
        self.put(UPDATES, encode_open(Open(epoch=epoch, digest=RECIPE.model.digest, trainer=f"t{epoch}", created_ms=0)))

    def audit(self, patience_s: float = 0.0) -> AuditReport:
        if self.learned != -1:
            self.open(9)
            self.update(9, 1, 0)
            self.update(9, 2, self.end(EXAMPLES) if self.learned is None else self.learned)
        return Audit(RECIPE, Copies(self), self.redis, Patience(patience_s), T0 + NOW).run()

    def end(self, topic: str) -> int:
        return self.records[topic][-1].offset + 1 if self.records[topic] else 0

    def _request(self, name: str) -> None:
        self.tell(REQUESTS, RankingRequest(request_id=f"asked {name}", user="u", candidates=[Candidate(item="a")]))
        self.tell(RESPONSES, RankingResponse(response_id=name, request_id=f"asked {name}", status="ok"))

    def _told(self) -> None:
        """The outcomes of what was clicked and bought, and the reward of the one decision."""
        outcomes = [
            Outcome(
                outcome_id=e.example_id, response_id=e.response_id, user=e.user, kind=e.kind, value=1.5, event_ms=T0
            )
            for record in self.records[EXAMPLES]
            if (e := _example(record)).label > 0
        ]
        for outcome in outcomes:
            self.tell(OUTCOMES, outcome)
        self.tell(DECISIONS, self.decide("r"))
        self.tell(DECISIONS, self.decide("later", CLOSED), CLOSED)  # closes its window, and has one of its own
        self.redis.zadd(DUE, {"later": CLOSED})
        earned = [outcome.value for outcome in outcomes if outcome.response_id == "r"]
        self.tell(REWARDS, Reward(reward_id="r", decision=self.decide("r"), earned=sum(earned), outcomes=len(earned)))


class Copies(Source):
    """The topics of a world, as a broker with one partition each would hand them out."""

    def __init__(self, world: World) -> None:
        super().__init__(Kafka("", {}))
        self._world = world

    def topics(self, prefix: str) -> list[str]:
        return [RESPONSES]

    def committed(self, group: str, *topics: str) -> dict[tuple[str, int], int]:
        assert group in (INGEST, REWARDS_GROUP)
        return {(topic, 0): self._world.offsets.get((group, topic), self._world.end(topic)) for topic in topics}

    def _ends(self, topic: str, *, uncommitted: bool = False) -> dict[int, tuple[int, int]]:
        return {0: (0, self._world.end(topic))}

    def _read(
        self,
        topic: str,
        since: Mapping[int, int] | None = None,
        until: Mapping[int, int] | None = None,
        *,
        uncommitted: bool = False,
    ) -> Iterator[Record]:
        first, end = (since or {}).get(0, 0), (until or {}).get(0, self._world.end(topic))
        return (record for record in self._world.records[topic] if first <= record.offset < end)


def _example(record: Record) -> TrainingExample:
    example: TrainingExample = decode(TOPICS[EXAMPLES], record.value)
    return example
