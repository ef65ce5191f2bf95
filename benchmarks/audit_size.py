"""How long an audit of many records takes, and how much memory.

    python -m benchmarks.audit_size --records 1000000

The history is made up, and right: visits with a request, its response, what was served, an impression, every tenth time
a click, the decision and its reward; the join in Redis makes the examples. No worker runs. The audit is the command, in
a process of its own.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

import click
from confluent_kafka import ConsumerGroupTopicPartitions, Producer
from msgspec import Struct

from benchmarks.lab.house import QUICK, house
from feature_store.facts import Label
from feature_store.join import Joiner
from ranker.updates.changes import Changes
from ranker.updates.record import Open, Update, UpdateHeader, encode_open, encode_update
from router_bandit.windows import WindowOptions
from streams.kafka.connection import topic_partitions
from streams.local.house import House
from streams.runtime.redis_client import connect
from streams.wire.codec import encode
from streams.wire.messages import (
    Candidate,
    Conversion,
    Decision,
    Impression,
    LogRef,
    ModelVersion,
    RankingRequest,
    RankingResponse,
    Reward,
    Served,
    ServedItem,
)
from streams.wire.record import Record, next_offsets
from streams.wire.topics import (
    CONVERSIONS,
    DECISIONS,
    EXAMPLES,
    IMPRESSIONS,
    OUTCOMES,
    REQUESTS,
    RESPONSES,
    REWARDS,
    SERVED,
    TOPICS,
    UPDATES,
    USER_PARTITIONS,
)
from streams.workers.ingest.events import to_example, to_fact, to_outcome
from streams.workers.ingest.worker import GROUP as INGEST
from streams.workers.router.rewards import GROUP as REWARDS_GROUP

VISITS_AT_ONCE = 500
VISITS_OF_A_USER = 20
CLICK_EVERY = 10
BID = 0.5
EVENTS = (SERVED, IMPRESSIONS, CONVERSIONS)


@click.command()
@click.option(
    "--records", type=click.IntRange(min=1_000), default=1_000_000, show_default=True, help="Over all topics."
)
def main(records: int) -> None:
    """Audit a long history."""
    with house(QUICK, ()) as up:
        began, history = time.monotonic(), History(up)
        while history.sent.total() < records:
            history.visits(VISITS_AT_ONCE)
        history.end()
        print(f"{history.sent.total():,} records made in {time.monotonic() - began:.0f} s", flush=True)
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = _audit(up)
        took_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"ok: {json.loads(done.stdout)['ok']}; {took_s:.1f} s ({cpu_s:.1f} s of processor), "
        f"{history.sent.total() / took_s:,.0f} records/s, {after.ru_maxrss / 1024:,.0f} MB"
    )
    sys.exit(done.returncode)


def _audit(up: House) -> subprocess.CompletedProcess[str]:
    recipe = up.home.parent / "recipe.toml"
    where = {"TIDERANK_BOOTSTRAP": up.stack.bootstrap, "TIDERANK_REDIS_URL": up.stack.redis_url}
    command = [sys.executable, "-m", "streams.cli", "audit", "--recipe", str(recipe), "--json"]
    return subprocess.run(command, env=os.environ | where, stdout=subprocess.PIPE, text=True, check=False)


class History:
    """Sends what workers and an ad system would have sent, and stores what ingest would have stored."""

    def __init__(self, up: House) -> None:
        self.sent: Counter[str] = Counter()
        """Records by topic."""
        self._up = up
        self._ends: Counter[tuple[str, int]] = Counter()
        self._producer: Producer = up.kafka.producer(linger_ms=20.0)
        self._joiner = Joiner(connect(up.stack.redis_url), up.settings.recipe.log, up.settings.recipe.join)
        self._begin_ms = int(time.time() * 1000) - 3_600_000
        self._visits = 0

    def visits(self, count: int) -> None:
        records = []
        for number in range(self._visits, self._visits + count):
            records += self._visit(number)
        self._visits += count
        facts = [to_fact(record, self._up.settings.recipe.kinds, self._up.settings.recipe.times) for record in records]
        for reply in self._joiner.apply(facts, next_offsets(records)):
            self._deliver(reply.labels)
        self._sweep(self._begin_ms + self._visits)

    def end(self) -> None:
        """Closes all windows, and commits and learns all."""
        for _ in range(2):
            self._sweep(int(time.time() * 1000))
        self._put(UPDATES, 0, encode_open(Open(epoch=1, digest=self._digest, trainer="t", created_ms=0)))
        offsets = {str(p): self._ends[EXAMPLES, p] for p in range(USER_PARTITIONS)}
        header = UpdateHeader(epoch=1, number=1, previous=0, digest=self._digest, trainer="t", offsets=offsets)
        (update,) = encode_update(Update(header, Changes({}, {})))
        self._put(UPDATES, 0, update)
        self._producer.flush()
        admin = self._up.kafka.admin()
        for group, topics in ((INGEST, EVENTS), (REWARDS_GROUP, (DECISIONS, OUTCOMES))):
            ends = topic_partitions({place: end for place, end in self._ends.items() if place[0] in topics})
            admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, ends)])[group].result()
        redis = connect(self._up.stack.redis_url)
        for (topic, partition), end in self._ends.items():
            if topic in (DECISIONS, OUTCOMES):
                redis.hset(WindowOptions().places_key, f"{topic}:{partition}", end)

    @property
    def _digest(self) -> str:
        return self._up.settings.recipe.model.digest

    def _visit(self, number: int) -> list[Record]:
        """Sends all of one visit; returns what ingest reads of it."""
        user, name, at_ms = f"user-{number // VISITS_OF_A_USER}", f"visit-{number}", self._begin_ms + number
        clicked = number % CLICK_EVERY == 0
        self._send(REQUESTS, user, RankingRequest(request_id=name, user=user, candidates=[Candidate(item="a")]))
        self._send(RESPONSES, user, RankingResponse(response_id=name, request_id=name, status="ok"))
        decision = Decision(
            response_id=name, user=user, event_ms=at_ms, plan="light", probabilities={"light": 1.0}, values={},
            costs={}, measured_ms=1.0, price=0.0, context={}, router_number=0,
        )  # fmt: skip
        self._send(DECISIONS, user, decision)
        earned = BID if clicked else 0.0
        self._send(REWARDS, user, Reward(reward_id=name, decision=decision, earned=earned, outcomes=int(clicked)))
        served = Served(
            response_id=name, request_id=name, user=user, surface="feed", event_ms=at_ms, log=LogRef(), features={},
            context={}, items=[ServedItem(item="a", bid=BID)], plan="light", tier="light",
            model=ModelVersion(epoch=1, number=1),
        )  # fmt: skip
        shown = Impression(
            event_id=f"shown-{number}", user=user, response_id=name, item="a", position=0, event_ms=at_ms
        )
        records = [self._send(SERVED, user, served), self._send(IMPRESSIONS, user, shown)]
        if clicked:
            acted = Conversion(
                event_id=f"click-{number}", user=user, kind="click", impression_id=shown.event_id, event_ms=at_ms + 1
            )
            records.append(self._send(CONVERSIONS, user, acted))
        return records

    def _sweep(self, now_ms: int) -> None:
        while closed := self._joiner.sweep(now_ms, 1_000):
            self._deliver([label for window in closed for label in window.labels])
            self._joiner.settle(closed)

    def _deliver(self, labels: Sequence[Label]) -> None:
        for label in labels:
            example = to_example(label)
            self._send(EXAMPLES, example.user, example)
            if example.label > 0:
                self._send(OUTCOMES, example.user, to_outcome(label))

    def _send(self, topic: str, user: str, message: Struct) -> Record:
        return self._put(topic, hash(user) % USER_PARTITIONS, encode(TOPICS[topic], message))

    def _put(self, topic: str, partition: int, value: bytes) -> Record:
        while True:
            try:
                self._producer.produce(topic, value, partition=partition)
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)
        self.sent[topic] += 1
        self._ends[topic, partition] += 1
        offset = self._ends[topic, partition] - 1
        return Record(topic, partition, offset, int(time.time() * 1000), None, value, ())


if __name__ == "__main__":
    main()
