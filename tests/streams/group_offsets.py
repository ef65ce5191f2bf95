"""What an operator does to a group's offsets with Kafka's own tool."""

import time
from collections.abc import Mapping

from confluent_kafka import ConsumerGroupTopicPartitions

from streams.kafka.connection import Kafka, topic_partitions
from streams.kafka.scan import ends
from streams.wire.record import Place

PATIENCE_S = 60.0


def move_group_to_the_end(kafka: Kafka, group: str, topic: str) -> None:
    move_group(kafka, group, {(topic, partition): end for partition, (_, end) in ends(kafka, topic).items()})


def delete_group(kafka: Kafka, group: str) -> None:
    """As an operator does, or the broker by itself a week after its last member has gone."""
    admin, deadline = kafka.admin(), time.monotonic() + PATIENCE_S
    while (error := admin.delete_consumer_groups([group])[group].exception(PATIENCE_S)) is not None:
        assert time.monotonic() < deadline, f"{group} is not deleted: {error}"
        time.sleep(0.5)


def move_group(kafka: Kafka, group: str, offsets: Mapping[Place, int]) -> None:
    """Moves it once it is empty: a static member that was stopped counts as there until its session ends."""
    admin, deadline = kafka.admin(), time.monotonic() + PATIENCE_S
    while True:
        asked = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, topic_partitions(offsets))])
        if all(place.error is None for place in asked[group].result(PATIENCE_S).topic_partitions):
            return
        assert time.monotonic() < deadline, f"{group} is never empty"
        time.sleep(0.5)
