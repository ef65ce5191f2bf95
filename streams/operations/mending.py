"""What a person can mend, said in one line. Knows of what a command uses only what it has imported."""

import errno
import sys

from streams.runtime.installed import line_for


def mendable(error: Exception) -> str | None:
    """One line for an error of a server, a setting, a disk or an install; None for a bug, whose traceback is wanted."""
    redis = sys.modules.get("redis.exceptions")  # imported by whoever talks to it, not by every command
    kafka = sys.modules.get("confluent_kafka")
    if isinstance(error, ModuleNotFoundError):
        return line_for(error.name)
    if redis is not None and isinstance(error, redis.AuthenticationError | redis.NoPermissionError):
        return f"Redis: {error}; `tiderank access redis` lists what each worker needs"
    if redis is not None and isinstance(error, redis.RedisError):
        from streams.runtime.redis_client import reason_of

        return f"Redis: {reason_of(error)[1]}; is it running, and not stalled?"
    if kafka is not None and isinstance(error, kafka.KafkaException):
        from streams.kafka.connection import is_denied

        if is_denied(error.args[0]):
            return f"Kafka: {error.args[0].str()}; `tiderank access kafka` lists what each worker needs"
        return f"Kafka: {error.args[0].str()}; check TIDERANK_BOOTSTRAP and TIDERANK_KAFKA_*, and that it is running"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; choose another place, or mend this one"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full; make room, or choose another place"
    return None
