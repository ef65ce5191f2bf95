"""The connection to Redis, with timeouts that a serving loop can live with."""

from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from streams.errors import StartError

PATIENT_S = 30.0
"""For a tool that can wait, where a serving loop cannot: a busy machine may stall any server for seconds."""


def connect(url: str, *, timeout_s: float = 1.0) -> Redis:
    """One connection, never retried behind our back: whoever asks decides what an absent Redis means.

    TLS, users and passwords go into the URL (rediss://user:password@host:port/0?ssl_ca_certs=...).
    Raises StartError where it is no such URL.
    """
    try:
        return _connect(url, timeout_s)
    except ValueError as error:  # its text does not hold the URL, which may hold a password
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


def check(redis: Redis, url: str) -> None:
    """Raises StartError if Redis does not answer."""
    try:
        redis.ping()
    except RedisError as error:
        raise StartError(
            f"no Redis answers at {redacted(url)} ({error}); check TIDERANK_REDIS_URL, or unset it and run "
            "`tiderank up`"
        ) from error


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

    def _on_connect(self, connection: object) -> None:
        connection.on_connect()  # type: ignore[attr-defined]
        if not self._allowed:
            connection.disconnect()  # type: ignore[attr-defined]
            raise Reconnected("a new connection: check the stored offsets first")

    def __enter__(self) -> None:
        self._allowed = True

    def __exit__(self, *_: object) -> None:
        self._allowed = False
