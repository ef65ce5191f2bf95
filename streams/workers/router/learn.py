"""`tiderank learn`: rewards in; the router's value model and the price of compute out. There is one learner.

router.model is what it knows: each record holds the whole value model, the price, and the offsets of router.rewards
that are in them. What a crash means: what was learned after the newest record is forgotten and learned again from
there, so nothing is lost and nothing counts twice.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import cast

from confluent_kafka import Consumer, KafkaError, TopicPartition

from router_bandit.budget import BudgetOptions, PriceController
from router_bandit.plans import Context
from router_bandit.value_model import ModelBytesError, ValueOptions, VWValueModel
from streams.config.settings import Settings
from streams.errors import Refused, StartError
from streams.kafka.connection import CONNECT_TIMEOUT_S, Kafka, watermarks
from streams.kafka.dead_letters import bury
from streams.kafka.loop import BaseWorker, Pace, run
from streams.kafka.outbox import Outbox
from streams.kafka.seen import SeenIds
from streams.kafka.topic_ids import TopicIds
from streams.runtime import metrics as metric
from streams.runtime.service import Heartbeat
from streams.wire.codec import decode, encode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import Reward, RouterModel
from streams.wire.record import Place, Record
from streams.wire.topics import GROUPS, REWARDS, ROUTER_MODEL, TOPICS

log = logging.getLogger(__name__)

GROUP = GROUPS["learn"]
OWNER = "owner"
"""The one member's name, whatever its process is called: a second learner takes its place, and does not join it."""
PACE = Pace(batch_max=1000, idle_s=0.1, rest_s=0.25)
KNOWN_IDS = 50_000
"""Rewards whose second delivery is recognized."""
READ_BEFORE = 5_000
"""At a start, so many records of each partition before the first unlearned one are read for their ids."""
MODELS_READ = 8
"""At a start, so many of the newest records of router.model are looked at for a good one."""


@dataclass(slots=True)
class Knowledge:
    """All that the learner knows: a record of router.model, unfolded."""

    model: VWValueModel
    prices: PriceController
    number: int = 0
    learned: int = 0
    offsets: dict[int, int] = field(default_factory=dict)
    """Next offset of router.rewards, by partition."""

    def to_message(self) -> RouterModel:
        weights = self.model.to_bytes()
        return RouterModel(
            number=self.number,
            weights=weights,
            checksum=_checksum(weights),
            price=self.prices.price,
            budget_ms=self.prices.options.budget_ms,
            spent_ms=self.prices.spent_ms,
            learned=self.learned,
            offsets={str(partition): offset for partition, offset in self.offsets.items()},
            price_history=self.prices.history,
        )


def resume(newest_first: Sequence[RouterModel], values: ValueOptions, budget: BudgetOptions) -> Knowledge:
    """Goes on where the newest good record stood; numbers never go back.

    Where no record has a value model that can be used (other options, damage), a new one is learned from the rewards
    that the broker still keeps; the price stays what it was.
    """
    for message in newest_first:
        if _checksum(message.weights) != message.checksum:
            log.warning("router.model %d is damaged: its checksum does not match", message.number)
            continue
        try:
            model = VWValueModel.from_bytes(message.weights, values)
        except ModelBytesError as error:
            log.warning("router.model %d is of no use: %s", message.number, error)
            continue
        if not all(partition.isascii() and partition.isdigit() for partition in message.offsets):
            log.warning("router.model %d is damaged: its offsets are of no partitions", message.number)
            continue
        offsets = {int(partition): offset for partition, offset in message.offsets.items()}
        return Knowledge(model, _prices(message, budget), newest_first[0].number, message.learned, offsets)
    if not newest_first:
        return Knowledge(VWValueModel(values), PriceController(budget))
    log.warning("learning a new value model from all rewards that are kept")
    return Knowledge(VWValueModel(values), _prices(newest_first[0], budget), newest_first[0].number)


def _prices(message: RouterModel, budget: BudgetOptions) -> PriceController:
    price = message.price if message.price > 0 else None
    return PriceController(budget, price=price, spent_ms=message.spent_ms, history=message.price_history)


def _checksum(weights: bytes) -> str:
    return blake2b(weights, digest_size=16).hexdigest()


class LearnWorker(BaseWorker):
    def __init__(self, knowledge: Knowledge, outbox: Outbox, *, publish_s: float, heartbeat: Heartbeat) -> None:
        self._knowledge = knowledge
        self._outbox = outbox
        self._publish_s = publish_s
        self._heartbeat = heartbeat
        self._ids = SeenIds(KNOWN_IDS)
        self._publish_due = 0.0
        # The first record of all tells the ranking processes the price.
        self._changed = knowledge.number == 0

    def handle(self, records: Sequence[Record]) -> None:
        for record in records:
            try:
                reward: Reward = decode(TOPICS[REWARDS], record.value, record.header(CONTENT_TYPE))
                self._take(record, reward)
            except (Refused, ValueError) as reason:
                if self._is_new(record):
                    metric.REFUSED.labels("learn").inc()
                    bury(self._outbox, record, str(reason), worker="learn")
            if self._is_new(record):
                self._knowledge.offsets[record.partition] = record.offset + 1
                self._changed = True
        self._outbox.seal({(r.topic, r.partition): r.offset + 1 for r in records})

    def tick(self) -> None:
        self._heartbeat.beat()
        now = time.monotonic()
        if self._changed and now >= self._publish_due:
            self._publish_due = now + self._publish_s
            self._publish()

    def assigned(self, consumer: Consumer, partitions: Sequence[Place]) -> dict[Place, int]:
        """From a little before what was learned, to know the ids of what was delivered last."""
        return {place: self._start(consumer, *place) for place in partitions}

    def _start(self, consumer: Consumer, topic: str, partition: int) -> int:
        first, end = watermarks(consumer, topic, partition)
        learned = self._knowledge.offsets.get(partition, first)
        if learned > end:
            log.warning("%s[%d] was made anew: reading all of it", topic, partition)
            learned = self._knowledge.offsets[partition] = first
        # From before `first` where what was not learned is kept no more: who reads it notices and says so.
        return min(learned, max(learned - READ_BEFORE, first))

    def _is_new(self, record: Record) -> bool:
        return record.offset >= self._knowledge.offsets.get(record.partition, 0)

    def _take(self, record: Record, reward: Reward) -> None:
        """Raises ValueError for a reward that makes no sense."""
        first_delivery = self._ids.add(reward.reward_id)
        if not self._is_new(record):
            return
        if not first_delivery:
            metric.ROUTER_SKIPPED.labels("duplicate").inc()
        elif reward.late:
            # Its decision was learned with what was known when the window closed, and its cost was counted then.
            metric.ROUTER_SKIPPED.labels("late").inc()
        else:
            self._learn(reward)

    def _learn(self, reward: Reward) -> None:
        decision = reward.decision
        self._knowledge.prices.observe(decision.measured_ms, decision.price)  # forced ones cost as much
        if decision.forced:
            metric.ROUTER_SKIPPED.labels("forced").inc()
            return
        self._knowledge.model.learn(
            cast(Context, decision.context),  # the model itself refuses what is not a context
            list(decision.probabilities),
            decision.plan,
            decision.probabilities.get(decision.plan, 0.0),
            reward.earned,
        )
        self._knowledge.learned += 1
        metric.ROUTER_LEARNED.inc()

    def _publish(self) -> None:
        self._knowledge.number += 1
        message = self._knowledge.to_message()
        self._outbox.send(ROUTER_MODEL, encode(TOPICS[ROUTER_MODEL], message))
        self._outbox.seal({})
        self._changed = False
        metric.ROUTER_NUMBER.set(message.number)
        metric.ROUTER_PRICE.set(message.price)
        metric.ROUTER_SPENT_MS.set(message.spent_ms)


def newest_models(kafka: Kafka) -> list[RouterModel]:
    """The newest records of router.model that decode, the newest first.

    Raises StartError if they cannot be read: to begin anew then would be to forget everything.
    """
    reader = kafka.reader()
    try:
        first, end = watermarks(reader, ROUTER_MODEL, 0)
        reader.assign([TopicPartition(ROUTER_MODEL, 0, max(first, end - MODELS_READ))])
        models: list[RouterModel] = []
        while (message := reader.poll(CONNECT_TIMEOUT_S)) is not None:
            error = message.error()
            if error is None:
                record = Record.of(message)
                if kafka.signer is not None and not kafka.signer.vouches_for(record):
                    log.warning("%s: skipped, it is not signed with this key", record)
                    continue
                try:
                    models.append(decode(TOPICS[ROUTER_MODEL], record.value))
                except Refused as reason:
                    log.warning("router.model@%s: %s", message.offset(), reason)
            elif error.code() == KafkaError._PARTITION_EOF:
                return models[::-1]
        raise StartError(f"router.model could not be read to its end at {end}; start again when the broker is well")
    finally:
        reader.close()


def run_learn(settings: Settings, stop: threading.Event, heartbeat: Heartbeat) -> None:
    """Runs the learner until `stop`. Raises StartError where the broker does not answer."""
    routing, kafka = settings.recipe.routing, settings.kafka
    metric.begin("learn")
    kafka.check()
    knowledge = resume(newest_models(kafka), routing.values, routing.budget)
    log.info(
        "router.model %d: %d rewards learned, price %g", knowledge.number, knowledge.learned, knowledge.prices.price
    )
    outbox = Outbox(kafka.producer(), signer=kafka.signer)
    worker = LearnWorker(knowledge, outbox, publish_s=routing.publish_s, heartbeat=heartbeat)
    ids = TopicIds(kafka, [REWARDS, ROUTER_MODEL])
    consumer = kafka.group_consumer(GROUP, OWNER)
    run(consumer, [REWARDS], worker, outbox, PACE, check_topics=ids.check, stop=stop)
