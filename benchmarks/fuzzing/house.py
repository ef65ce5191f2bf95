"""Odd messages on every input topic of a whole house, among good ones: what came of each, and whether all stood."""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fuzzing.giants import giants
from benchmarks.fuzzing.mutations import Fuzzed, Fuzzer
from benchmarks.fuzzing.samples import Samples
from benchmarks.lab.house import QUICK
from feature_store.log import LogWant, UserLog
from streams.audit.report import AuditReport
from streams.audit.run import run_audit
from streams.client import RankingClient
from streams.config.settings import Settings
from streams.errors import Refused
from streams.kafka.connection import Kafka
from streams.kafka.dead_letters import letter_place
from streams.kafka.scan import committed, ends, read_topic
from streams.local.house import WORKERS, open_house
from streams.local.workers import WorkerProcess
from streams.operations import dlq
from streams.runtime.redis_client import connect
from streams.wire.codec import decode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import Candidate, Conversion, Impression, RankingRequest, TrainingExample
from streams.wire.topics import (
    CONVERSIONS,
    DECISIONS,
    EXAMPLES,
    IMPRESSIONS,
    OUTCOMES,
    REQUESTS,
    REWARDS,
    ROUTER_MODEL,
    SERVED,
    TOPICS,
)

READERS: Mapping[str, str | None] = {
    REQUESTS: "rank",
    SERVED: "ingest",
    IMPRESSIONS: "ingest",
    CONVERSIONS: "ingest",
    EXAMPLES: "train",
    DECISIONS: "rewards",
    OUTCOMES: "rewards",
    REWARDS: "learn",
    ROUTER_MODEL: None,
}
"""Worker whose input a topic is; None: every ranking process reads it for itself, and skips what is odd, saying so."""
GOOD_EVERY = 10
"""Odd messages of each topic between two good requests."""
UNDER_WAY = 40
"""Good requests that may wait for their answers, so that the odd ones come no faster than they are handled."""
DEADLINE_MS = 600_000
QUIET_S = 300.0

_AUDITED = (
    *(("requests", name) for name in ("answered_ok", "answered_error", "unanswered")),
    *(("events", name) for name in ("distinct", "refused", "refused_without_dead_letter")),
)
"""Lines of an audit that odd records leave sound. Others tell of forged effects (examples, rewards) that have no cause,
and of events with one id and several contents, of which the first to come counts."""

Place = tuple[str, int, int]


@dataclass(slots=True)
class Outcome:
    """What came of one topic's odd messages."""

    sent: int = 0
    taken: int = 0
    letters: Counter[str] = field(default_factory=Counter)
    """Dead letters, by what was wrong."""
    lost: list[str] = field(default_factory=list)
    """Places of what cannot be decoded and has no dead letter."""
    wrong: list[str] = field(default_factory=list)
    """Places whose dead letter does not hold what was sent, or no reason."""


@dataclass(frozen=True, slots=True)
class Report:
    topics: dict[str, Outcome]
    good: int
    unanswered: int
    good_events: int
    good_faults: list[str]
    crashed: list[str]
    audit: AuditReport
    seconds: float

    def table(self) -> str:
        rows = [f"{'topic':<20}{'sent':>8}{'taken':>8}{'letters':>9}{'lost':>6}{'wrong':>7}  dead letters by reason"]
        for topic, found in self.topics.items():
            reasons = ", ".join(f"{reason} {count}" for reason, count in found.letters.most_common(6))
            places = f"{len(found.lost):>6}{len(found.wrong):>7}"
            counts = f"{found.sent:>8}{found.taken:>8}{found.letters.total():>9}{places}"
            rows.append(f"{topic:<20}{counts}  {reasons}")
        rows.append(f"good requests {self.good}, unanswered {self.unanswered}; workers that ended: {self.crashed or 0}")
        rows.append(f"good events {self.good_events}, with faults {len(self.good_faults)}")
        audited = self.audit.as_dict()
        for section, name in _AUDITED:
            rows.append(f"audit, {section.replace('_', ' ')}: {name.replace('_', ' ')} {audited[section][name]}")
        return "\n".join(rows)

    @property
    def faults(self) -> list[str]:
        """What must not be; empty where all is well."""
        found = [f"{topic}: lost {o.lost[:3]}" for topic, o in self.topics.items() if o.lost]
        found += [f"{topic}: wrong letters {o.wrong[:3]}" for topic, o in self.topics.items() if o.wrong]
        found += [f"{name} ended" for name in self.crashed]
        found += [f"{self.unanswered} good requests unanswered"] if self.unanswered else []
        found += [f"of good users: {what}" for what in self.good_faults]
        wrong = self.audit.as_dict()["fault"]
        return found + [f"audit: {line}" for line in wrong if (line["section"], line["name"]) in _AUDITED]


def run(home: Path, *, messages: int, seed: int, announce: Callable[[str], None] = print) -> Report:
    """Starts a real Kafka, a Redis and one worker of each kind, and sends `messages` odd ones to each topic."""
    began = time.monotonic()
    (home / "recipe.toml").write_text(QUICK)
    opened = open_house(
        home / "data", recipe=str(home / "recipe.toml"), workers=WORKERS, broker="kafka", announce=announce
    )
    with opened as house:
        settings, kafka, workers = house.settings, house.kafka, list(house.workers.values())
        pids = {worker.name: worker.child.pid for worker in workers}
        odd, good = _Odd(kafka, seed, settings), _Good(kafka)
        for number in range(messages):
            odd.send_round()
            if number % GOOD_EVERY == 0:
                good.send()
            while good.under_way > UNDER_WAY:
                good.poll(0.1)
            if number % 1_000 == 999:
                announce(f"{number + 1} of {messages} rounds, {time.monotonic() - began:.0f} s")
        odd.send_giants()
        good.finish()
        _await_read(kafka, workers)
        time.sleep(settings.recipe.join.attribution_window_ms / 1000 + 2)  # the windows of the last events
        crashed = [w.name for w in workers if not w.child.alive() or w.child.pid != pids[w.name]]
        for worker in workers:
            if worker.name in crashed:
                announce(f"{worker.name} ended{worker.child.last_words()}")
        topics = _outcomes(kafka, odd.places)
        return Report(
            topics,
            good.sent,
            good.under_way,
            good.events.total(),
            good.faults(settings),
            crashed,
            run_audit(settings),
            time.monotonic() - began,
        )


class _Odd:
    """The odd messages, and where the broker put each."""

    def __init__(self, kafka: Kafka, seed: int, settings: Settings) -> None:
        self.places: dict[Place, str] = {}
        """Mutation of each, by place."""
        self._samples = Samples(_now_ms, settings.recipe.routing.values)
        self._fuzzer = Fuzzer(seed, self._samples.samplers(), _now_ms)
        self._producer = kafka.producer(linger_ms=5.0)

    def send_round(self) -> None:
        for topic in READERS:
            self._send(self._fuzzer.record(topic))
        self._producer.poll(0)

    def send_giants(self) -> None:
        for topic in READERS:
            for giant in giants(topic, self._samples):
                self._send(giant)
        assert self._producer.flush(30.0) == 0

    def _send(self, one: Fuzzed) -> None:
        def delivered(error: object, message: object) -> None:
            assert error is None, f"{one.topic}: {error}"
            self.places[one.topic, message.partition(), message.offset()] = one.kind  # type: ignore[attr-defined]

        partition = 0 if TOPICS[one.topic].partitions == 1 else -1
        while True:
            try:
                self._producer.produce(
                    one.topic, one.value, one.key, partition, on_delivery=delivered, headers=list(one.headers)
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                return


class _Good:
    """A well-behaved ad system: requests, and an impression and a click for each first item."""

    def __init__(self, kafka: Kafka) -> None:
        self.sent = self.under_way = 0
        self.events: Counter[str] = Counter()
        """Events sent, by user."""
        self.clicked: set[str] = set()
        """Ids of the examples that the clicks must give."""
        self._client = RankingClient(kafka)

    def send(self) -> None:
        self.sent += 1
        self.under_way += 1
        items = [Candidate(item=f"item-{n}", features={"category": f"c{n % 3}"}) for n in range(5)]
        user = f"good-user-{self.sent % 50}"
        request = RankingRequest(request_id=f"good-{self.sent}", user=user, candidates=items)
        self._client.send(request, deadline_ms=DEADLINE_MS)
        self.poll(0.0)

    def poll(self, timeout_s: float) -> None:
        for response, _ in self._client.poll(timeout_s):
            self.under_way -= 1
            if response.status != "ok":
                continue
            name, first = response.request_id, response.items[0].item
            shown = Impression(
                event_id=f"shown-{name}", user=response.user, response_id=response.response_id, item=first, position=0,
                event_ms=_now_ms(),
            )  # fmt: skip
            self._client.send_impression(shown)
            click = Conversion(
                event_id=f"click-{name}", user=response.user, kind="click", impression_id=shown.event_id,
                event_ms=_now_ms(),
            )  # fmt: skip
            self._client.send_conversion(click)
            self.events[response.user] += 2
            self.clicked.add(f"click:{shown.event_id}")

    def faults(self, settings: Settings) -> list[str]:
        """Logs that do not hold each event once, and clicks without their one positive example."""
        log = UserLog(connect(settings.redis_url), settings.recipe.log)
        slices = log.read([LogWant(user, 0) for user in self.events])
        stored = {user: found.position.count for user, found in zip(self.events, slices, strict=True)}
        wrong = [
            f"{user}: {stored[user]} of {count} stored" for user, count in self.events.items() if stored[user] != count
        ]
        labels: defaultdict[str, list[float]] = defaultdict(list)
        for record in read_topic(settings.kafka, EXAMPLES):
            with suppress(Refused):
                example: TrainingExample = decode(TOPICS[EXAMPLES], record.value, record.header(CONTENT_TYPE))
                labels[example.example_id].append(example.label)
        return wrong + [f"{name}: labels {labels[name]}" for name in self.clicked if labels[name] != [1.0]]

    def finish(self) -> None:
        deadline = time.monotonic() + QUIET_S
        while self.under_way and time.monotonic() < deadline:
            self.poll(0.2)
        self._client.close()


def _await_read(kafka: Kafka, workers: list[WorkerProcess]) -> None:
    """Waits until every group has committed all that its topics hold, or a worker has ended, or it takes too long."""
    deadline = time.monotonic() + QUIET_S
    while time.monotonic() < deadline and all(worker.child.alive() for worker in workers):
        waiting = {topic: lag for topic, reader in READERS.items() if reader and (lag := _lag(kafka, topic, reader))}
        if not waiting:
            return
        time.sleep(0.5)


def _lag(kafka: Kafka, topic: str, reader: str) -> int:
    done = committed(kafka, f"tiderank-{reader}", topic)
    return sum(end - max(done[p], low) for p, (low, end) in ends(kafka, topic).items())


def _outcomes(kafka: Kafka, places: Mapping[Place, str]) -> dict[str, Outcome]:
    letters: defaultdict[Place, list[dlq.Letter]] = defaultdict(list)
    for letter in dlq.list_letters(kafka):
        place = letter_place(letter.record)
        if place is not None:
            letters[place].append(letter)
    found = {}
    for topic, reader in READERS.items():
        outcome = found[topic] = Outcome()
        for record in read_topic(kafka, topic):
            place = (topic, record.partition, record.offset)
            if place not in places:
                continue
            outcome.sent += 1
            for letter in letters[place][:1]:
                reason = letter.record.header("reason") or ""
                outcome.letters[_sort_of(reason)] += 1
                if letter.record.value != (record.value or b"") or not reason:
                    outcome.wrong.append(str(record))
                break
            else:
                try:
                    decode(TOPICS[topic], record.value, record.header(CONTENT_TYPE))
                    outcome.taken += 1
                except Refused as refused:
                    if reader is not None:
                        outcome.lost.append(f"{record} {places[place]}: {refused}")
    return found


def _sort_of(reason: str) -> str:
    """The reason without what is the sender's: which rule it is."""
    rule = re.sub(r"^not a \w+: ", "", reason)
    for pattern, sort in _SORTS:
        if re.search(pattern, rule):
            return sort
    return "a value"


_SORTS = (
    (r"without a value", "no value"),
    (r"malformed|truncated|trailing|recursion|invalid utf|utf-8", "not its encoding"),
    (r"bytes, got", "too large"),
    (r"content-type", "content-type"),
    (r"missing required|at least length", "field missing"),
    (r"ahead of the broker", "future"),
    (r"deadline-ms|reply-topic", "header"),
    (r"Expected `(int|float|str)` (of length|[<>]=)|length", "out of bounds"),
    (r"Expected|Invalid", "wrong type"),
)


def _now_ms() -> int:
    return int(time.time() * 1000)
