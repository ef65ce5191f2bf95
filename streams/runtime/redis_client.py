"""The connection to Redis, with timeouts that a serving loop can live with, and what its errors mean."""

import logging
import ssl
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.retry import Retry

from streams.errors import StartError

log = logging.getLogger(__name__)

PATIENT_S = 30.0
"""For a tool that can wait, where a serving loop cannot: a busy machine may stall any server for seconds."""

FORBIDDEN = (AuthenticationError, NoPermissionError)
_CODES: dict[type[RedisError], str] = {OutOfMemoryError: "OOM", ReadOnlyError: "READONLY"}
"""Codes that redis-py takes off the error's text."""
_ADVICE = {
    "OOM": "raise its maxmemory",
    "READONLY": "it is a replica; point TIDERANK_REDIS_URL at the master",
    "MISCONF": "it cannot save its data; mend its disk",
    "NOREPLICAS": "bring its replicas back, or lower its min-replicas-to-write",
}


def connect(url: str, *, timeout_s: float = 1.0) -> Redis:
    """One connection, never retried behind our back: whoever asks decides what an absent Redis means.

    TLS, users and passwords go into the URL (rediss://user:password@host:port/0?ssl_ca_certs=...).
    Raises StartError where it is no such URL.
    """
    try:
        redis = _connect(url, timeout_s)
        redis.connection_pool.make_connection()  # opens nothing, and takes every option of the URL: all are known
        return redis
    except (ValueError, TypeError) as error:  # its text does not hold the URL, which may hold a password
        raise StartError(f"TIDERANK_REDIS_URL must be like redis://host:6379/0: {error}") from error


def _connect(url: str, timeout_s: float) -> Redis:
    return Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        single_connection_client=False,
        max_connections=2,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )


def check(redis: Redis, url: str, *, may_be_away: bool = False) -> None:
    """Raises StartError if Redis does not let us in, or does not answer.

    may_be_away: the caller can do without it for a while; but a wrong password does not mend itself.
    """
    try:
        redis.ping()
    except FORBIDDEN as error:
        raise StartError(
            f"Redis at {redacted(url)} does not let us in ({error}); check user and password in TIDERANK_REDIS_URL"
        ) from error
    except RedisError as error:
        if may_be_away and not isinstance(error.__context__, ssl.SSLError | FileNotFoundError):
            return
        raise StartError(
            f"no Redis answers at {redacted(url)} ({error}); check TIDERANK_REDIS_URL (and, for TLS, the rediss:// and "
            "ssl_ca_certs in it), or unset it and run `tiderank up`"
        ) from error


def raise_if_forbidden(error: RedisError) -> None:
    """Raises StartError for what waiting does not mend: a wrong password, a missing right."""
    if isinstance(error, FORBIDDEN):
        raise StartError(f"Redis forbids it: {error}; `tiderank access redis` lists what each worker needs") from error


def reason_of(error: RedisError) -> tuple[str, str]:
    """(kind, reason): the kind is the server's code, such as OOM, or else the error's class; the reason says what to do
    where that is known. Neither holds the command, which may hold a user's data."""
    text = str(error).rpartition(" of pipeline caused error: ")[2]
    first_word = text.partition(" ")[0]
    kind = _CODES.get(type(error)) or (first_word if first_word.isupper() else type(error).__name__)
    advice = _ADVICE.get(kind)
    return kind, f"{kind}: {text.removeprefix(kind).lstrip()}" + (f" ({advice})" if advice else "")


def memory_policy(redis: Redis) -> tuple[str, int]:
    """(maxmemory-policy, maxmemory in bytes, 0 for no bound). Asks INFO, which managed servers allow, unlike CONFIG."""
    memory = redis.info("memory")
    return str(memory.get("maxmemory_policy", "unknown")), int(memory.get("maxmemory", 0))


def warn_of_eviction(redis: Redis) -> None:
    """One line in the log where a full Redis would drop keys, or where that cannot be known."""
    try:
        policy, max_bytes = memory_policy(redis)
    except RedisError as error:
        log.info("redis: whether it drops keys when it is full is unknown: %s", reason_of(error)[1])
        return
    if policy != "noeviction" and max_bytes:
        log.warning(
            "redis: at %d bytes it drops keys, user logs among them (maxmemory-policy %s); "
            "CONFIG SET maxmemory-policy noeviction",
            max_bytes,
            policy,
        )


def redacted(url: str) -> str:
    """The URL without its password, fit for a log."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}").geturl()


class Reconnected(RedisError):
    """The connection is a new one: a server that was restarted may have forgotten its last second."""


class ReconnectGuard:
    """Makes every new connection fail until someone has looked what the server still knows.

    The client reopens a lost connection by itself and in silence. For the one worker whose stored offsets must stay
    true, that hides a restart; so each connection but those opened inside `allow` raises Reconnected.
    """

    def __init__(self, redis: Redis) -> None:
        self._allowed = False
        redis.connection_pool.connection_kwargs["redis_connect_func"] = self._on_connect
        # Connections that are there already were made without it, and would come back in silence.
        redis.connection_pool.disconnect()
        redis.connection_pool.reset()

    def _on_connect(self, connection: object) -> None:
        connection.on_connect()  # type: ignore[attr-defined]
        if not self._allowed:
            connection.disconnect()  # type: ignore[attr-defined]
            raise Reconnected("a new connection: check the stored offsets first")

    def __enter__(self) -> None:
        self._allowed = True

    def __exit__(self, *_: object) -> None:
        self._allowed = False
