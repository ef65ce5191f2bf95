"""A Faust app, set up as the other clients are. Knows Faust; knows nothing of messages.

Faust is used for what it is good at here, agents over topics inside one event loop, and without its tables: the
in-memory broker cannot hold their changelog topics, so state lives in Redis.
"""

import asyncio
import atexit
import logging
import os
import shutil
import ssl
import tempfile
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import faust
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types.auth import CredentialsT

from streams.errors import StartError
from streams.kafka.connection import MAX_POLL_MS, MAX_RECORD_BYTES, SESSION_TIMEOUT_MS, Kafka
from streams.runtime.service import Heartbeat
from streams.runtime.sparing import Sparing
from streams.wire.record import Place
from streams.workers.router.strange_headers import let_strange_headers_pass

log = logging.getLogger(__name__)

_SSL_PROPERTIES = {
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
}


def make_app(kafka: Kafka, group: str, instance: str) -> faust.App:
    """An app that consumes as a static member of `group`, commits what was acknowledged, and has no web server."""
    let_strange_headers_pass()
    for chatty in ("faust", "mode", "aiokafka"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        if not any(isinstance(known, _Sparing) for known in handler.filters):
            handler.addFilter(_Sparing())
    return faust.App(
        group,
        broker="aiokafka://" + kafka.bootstrap.replace(",", ";"),
        broker_credentials=credentials(kafka.properties),
        broker_session_timeout=SESSION_TIMEOUT_MS / 1000,
        broker_heartbeat_interval=1.0,
        broker_max_poll_interval=MAX_POLL_MS / 1000,
        broker_commit_interval=1.0,
        producer_max_request_size=MAX_RECORD_BYTES,  # else 1 MB, and the dead letter of a large record is larger
        consumer_group_instance_id=f"{group}-{instance}",
        consumer_auto_offset_reset="earliest",
        topic_allow_declare=False,  # topics and their settings are made elsewhere
        topic_disable_leader=True,
        key_serializer="raw",
        value_serializer="raw",
        store="memory://",
        datadir=_own_folder(),
        stream_wait_empty=False,  # what was not taken in by the end is read again; and else it would wait for ever
        web_enabled=False,
        worker_redirect_stdouts=False,
        autodiscover=False,
    )


def _own_folder() -> str:
    """A folder for Faust's tables, of which there are none: else it makes one in the working folder."""
    folder = tempfile.mkdtemp(prefix="tiderank-faust-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class _Sparing(logging.Filter):
    """Lets each kind of line of aiokafka's pass once a minute: while the broker is away it logs each try."""

    def __init__(self) -> None:
        super().__init__()
        self._said = Sparing()

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.name.startswith("aiokafka") or self._said.due(record.msg)


FETCH_WAIT_MS = 300
FETCH_BYTES = 65_536


def gather_fetches(app: faust.App) -> None:
    """Has the broker hold each fetch until FETCH_BYTES are there, or FETCH_WAIT_MS are over.

    By default each record is answered to alone, which costs the broker and Faust several times what the record does.
    Faust has no setting for it.
    """
    transport: Any = app.transport

    class Thread(AIOKafkaConsumerThread):
        def _create_worker_consumer(self, transport: Any) -> Any:
            consumer = super()._create_worker_consumer(transport)
            consumer._fetch_max_wait_ms, consumer._fetch_min_bytes = FETCH_WAIT_MS, FETCH_BYTES
            return consumer

    class Consumer(transport.Consumer):  # type: ignore[misc]
        def _new_consumer_thread(self) -> Thread:
            return Thread(self, loop=self.loop, beacon=self.beacon)

    transport.Consumer = Consumer


Starts = Callable[[Mapping[Place, int]], Awaitable[Mapping[Place, int]]]
"""From where the group has committed of the assigned partitions (below 0: nothing), to where to begin."""


def begin_at(app: faust.App, starts: Starts) -> None:
    """Lets the app read from where `starts` says of the partitions assigned to it, and not from the group's offsets.

    Faust asks its consumer to go to where the group stands once all is assigned, and before anything is fetched. Where
    the two differ, that is committed, so that the group's lag says what is still to be read. And Faust has to know of
    it: what lies behind a gap after its last commit, it would never commit.
    """
    transport: Any = app.transport

    class Consumer(transport.Consumer):  # type: ignore[misc]
        async def perform_seek(self) -> None:
            await super().perform_seek()
            committed = await self.seek_to_committed()
            stands = {(tp.topic, tp.partition): -1 if at is None else at for tp, at in sorted(committed.items())}
            begins = {faust.types.TP(*place): offset for place, offset in (await starts(stands)).items()}
            for tp, offset in begins.items():
                await self.seek(tp, offset)
            self._committed_offset.update({tp: offset or None for tp, offset in begins.items()})
            ours = self.assignment()  # a rebalance may have taken some meanwhile
            moved = {
                tp: at for tp, at in begins.items() if tp in ours and stands[tp.topic, tp.partition] not in (-1, at)
            }
            if moved:
                await self._commit(moved)

    transport.Consumer = Consumer


def run_app(
    app: faust.App, heartbeat: Heartbeat, *, until: Sequence[threading.Event], check: Callable[[], None] = lambda: None
) -> None:
    """Runs the app until one of these is set, in an event loop of its own. Raises what it crashed of, and what `check`
    raises, which is called all the time and must not wait."""

    async def until_stopped() -> None:
        await app.start()
        try:
            while not any(event.is_set() for event in until) and not app.should_stop:
                heartbeat.beat()
                check()
                await asyncio.sleep(0.25)
        finally:
            crash = app.crash_reason
            await app.stop()
        if crash is not None:
            raise crash

    asyncio.run(until_stopped())


def credentials(properties: Mapping[str, str]) -> CredentialsT | None:
    """Faust's form of librdkafka's security properties. Raises StartError for a protocol that it cannot speak."""
    protocol = properties.get("security.protocol", "plaintext").lower()
    if protocol == "plaintext":
        return None
    if protocol not in ("ssl", "sasl_plaintext", "sasl_ssl"):
        raise StartError(f"security.protocol must be plaintext, ssl, sasl_plaintext or sasl_ssl, got {protocol!r}")
    context = _ssl_context(properties) if protocol.endswith("ssl") else None
    if protocol == "ssl":
        return faust.SSLCredentials(context=context)
    mechanism = properties.get("sasl.mechanism", properties.get("sasl.mechanisms", "PLAIN"))
    if mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise StartError(f"sasl.mechanism must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, got {mechanism!r}")
    return faust.SASLCredentials(
        username=properties.get("sasl.username"),
        password=properties.get("sasl.password"),
        mechanism=mechanism,
        ssl_context=context,
    )


def _ssl_context(properties: Mapping[str, str]) -> ssl.SSLContext:
    """Raises StartError for a setting that would be left out in silence, and for files that cannot be used."""
    unknown = {name for name in properties if name.startswith("ssl.")} - _SSL_PROPERTIES
    if unknown:
        raise StartError(
            f"tiderank rewards cannot take {', '.join(sorted(unknown))}: of librdkafka's ssl.* properties it knows "
            f"{', '.join(sorted(_SSL_PROPERTIES))}"
        )
    authority, certificate = properties.get("ssl.ca.location"), properties.get("ssl.certificate.location")
    folder = authority is not None and os.path.isdir(authority)
    try:
        context = ssl.create_default_context(
            cafile=None if folder else authority,
            capath=authority if folder else None,
            cadata=properties.get("ssl.ca.pem"),
        )
        if certificate is not None:
            context.load_cert_chain(certificate, properties.get("ssl.key.location"), properties.get("ssl.key.password"))
    except OSError as error:  # an SSLError is one
        raise StartError(f"the files of TIDERANK_KAFKA_SSL_* must be PEM files that can be read: {error}") from error
    if properties.get("ssl.endpoint.identification.algorithm", "https") == "none":
        context.check_hostname = False
    if properties.get("enable.ssl.certificate.verification", "true") == "false":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
