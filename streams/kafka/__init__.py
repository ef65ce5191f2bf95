"""Kafka, as all workers use it: clients, the loop of a worker, reading from outside of groups."""

from streams.kafka.connection import Kafka

__all__ = ["Kafka"]
