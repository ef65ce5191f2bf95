"""What operators do to Kafka, and retention does by itself.

Each fault returns whether serving suffers.
"""

import time
from functools import partial

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition

from benchmarks.faults.target import Target, Wrong
from benchmarks.lab.judging import PATIENCE_S
from feature_store.config import JoinConfig, LogConfig
from feature_store.join import Joiner
from streams.kafka.scan import committed, ends
from streams.runtime.redis_client import connect
from streams.wire.topics import (
    CONVERSIONS,
    DECISIONS,
    EXAMPLES,
    IMPRESSIONS,
    OUTCOMES,
    REQUESTS,
    REWARDS,
    SERVED,
    TOPICS,
)

READS = {
    "ingest": (SERVED, IMPRESSIONS, CONVERSIONS),
    "train": (EXAMPLES,),
    "rewards": (DECISIONS, OUTCOMES),
    "learn": (REWARDS,),
}
"""Workers that know where they stand by themselves, or to whom a record that comes again is nothing new. Not rank: what
its group is moved past is never answered."""
READERS = {REQUESTS: "tiderank-rank", IMPRESSIONS: "tiderank-ingest", CONVERSIONS: "tiderank-ingest"}
"""Groups that read the topics that can be made anew without a loss, once their senders are silent and all is read.
Outsiders write them, and no offset of theirs is part of a model, as are those of training.examples and of
router.rewards."""
EVENTS = (IMPRESSIONS, CONVERSIONS)
EMPTY_S = 60.0
"""Seconds, at most, for a group whose only member was killed to be without members."""


def move_group(target: Target, worker: str, to: str) -> bool:
    """The offsets of its group are moved while it is down: to the end, the beginning, or somewhere; or deleted."""
    target.kill(worker)
    places = []
    for topic in READS[worker]:
        for partition, (low, high) in ends(target.house.kafka, topic).items():
            offset = {"end": high, "beginning": low}.get(to, target.rng.randint(low, high))
            places.append(TopicPartition(topic, partition, offset))
    group = f"tiderank-{worker}"
    attempt = partial(_deleted, target, group) if to == "deleted" else partial(_moved, target, group, places)
    if not target.until(attempt, EMPTY_S):
        raise Wrong(f"the offsets of tiderank-{worker} could not be moved")
    target.bring_back(worker)
    return False


def _moved(target: Target, group: str, places: list[TopicPartition]) -> bool:
    """False while the group has members."""
    admin, wish = target.house.kafka.admin(), ConsumerGroupTopicPartitions(group, places)
    try:
        done = admin.alter_consumer_group_offsets([wish])[group].result(PATIENCE_S)
    except KafkaException:
        return False
    return not any(place.error for place in done.topic_partitions)


def _deleted(target: Target, group: str) -> bool:
    """False while the group has members."""
    admin = target.house.kafka.admin()  # it has to outlive its answer
    return admin.delete_consumer_groups([group])[group].exception(PATIENCE_S) is None


def overtake(target: Target, worker: str) -> bool:
    """Retention deletes what the worker, which is down, has not read yet."""
    group, topic = f"tiderank-{worker}", target.rng.choice(READS[worker])
    read = _put_down(target, worker, topic)
    target.wait(target.rng.uniform(2.0, 5.0))
    wanted = {}
    for partition, (low, high) in ends(target.house.kafka, topic).items():
        reached = max(read[partition], low)
        wanted[partition] = target.rng.randint(min(reached, high), high)
    # What trains and is not read is not lost to the audit: that it was produced is what is proved of it.
    target.archive.delete(topic, wanted, read=read, loses=worker == "ingest")
    target.bring_back(worker)
    target.await_read(group, [topic])
    return False


def _put_down(target: Target, worker: str, topic: str) -> dict[int, int]:
    """Stops the worker where all that it has taken in is done with; returns how far it has read, by partition.

    What it has taken in and not committed it would have to read again, for the labels that may not have been delivered.
    And what Redis had forgotten it must have read again: retention has to outlast that.
    """
    wanted = {partition: high for partition, (_, high) in ends(target.house.kafka, topic).items()}
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        target.house.workers[worker].child.stop()
        read = committed(target.house.kafka, f"tiderank-{worker}", topic)
        if worker != "ingest":
            return read
        stored = Joiner(connect(target.house.stack.redis_url), LogConfig(), JoinConfig()).offsets()
        if all(stored.get((topic, p), 0) == offset >= wanted[p] for p, offset in read.items()):
            target.wait(1.5)  # and Redis has it on its disk
            return read
        target.bring_back(worker)
        target.tend(3.0)
    raise Wrong(f"{worker} does not commit what it has taken in of {topic}")


def recreate(target: Target, topic: str) -> bool:
    """Deleted and made again while its senders are silent, and all of it has been read."""
    kafka, admin = target.house.kafka, target.house.kafka.admin()
    with target.ad_system.silent():
        target.await_read(READERS[topic], [topic])
        target.archive.close(topic)
        admin.delete_topics([topic], operation_timeout=PATIENCE_S)[topic].result(PATIENCE_S)
        if not target.until(lambda: topic not in admin.list_topics(timeout=10.0).topics, PATIENCE_S):
            raise Wrong(f"{topic} is not deleted")
        kafka.create_topics([TOPICS[topic]])
    target.tend(3.0)
    target.await_read(READERS[topic], [topic])
    return topic == REQUESTS
