"""Who can write the topic cannot write the weights, once a key is given."""

import time
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from ranker.updates.record import Open, encode_open
from streams.errors import StartError
from streams.kafka.connection import Kafka
from streams.kafka.outbox import Outbox
from streams.kafka.update_reader import UpdateReader
from streams.local.stack import local_stack
from streams.wire.codec import encode
from streams.wire.headers import SIGNATURE as HEADER
from streams.wire.messages import RouterModel
from streams.wire.record import Record
from streams.wire.signing import KEY_FILE, Signer, signer_from_environment
from streams.wire.topics import REQUESTS, ROUTER_MODEL, TOPICS, UPDATES
from streams.workers.rank.routing import RouterModelSource
from streams.workers.router.learn import newest_models

KEY, OTHER = b"k" * 32, b"o" * 32


def record(topic: str, value: bytes, headers: dict[str, bytes]) -> Record:
    return Record(topic, 0, 0, 0, None, value, tuple(headers.items()))


def test_a_signature_holds_for_its_key_topic_and_bytes_alone() -> None:
    signer, value = Signer(KEY), b"weights"
    signed = signer.headers(UPDATES, value)
    assert signer.vouches_for(record(UPDATES, value, signed))
    assert not Signer(OTHER).vouches_for(record(UPDATES, value, signed))
    assert not signer.vouches_for(record(ROUTER_MODEL, value, signed))
    assert not signer.vouches_for(record(UPDATES, b"weight", signed))
    assert not signer.vouches_for(record(UPDATES, value, {}))
    assert not signer.vouches_for(record(UPDATES, value, {HEADER: b""}))
    twice = Record(UPDATES, 0, 0, 0, None, value, ((HEADER, b"junk"), *signed.items()))
    assert not signer.vouches_for(twice)


def test_other_topics_need_none() -> None:
    assert Signer(KEY).headers(REQUESTS, b"") == {}
    assert Signer(KEY).vouches_for(record(REQUESTS, b"", {}))


def test_readers_with_the_key_take_what_is_signed_and_count_the_rest(tmp_path: Path) -> None:
    with local_stack(tmp_path, broker="memory") as stack:
        kafka, keyless = Kafka(stack.bootstrap, {}, Signer(KEY)), Kafka(stack.bootstrap, {})
        kafka.create_topics()
        for number, signer in enumerate((Signer(KEY), None, Signer(OTHER), Signer(KEY)), 1):
            producer = kafka.producer()
            outbox = Outbox(producer, signer=signer)
            outbox.send(UPDATES, encode_open(Open(epoch=number, digest="d", trainer="t", created_ms=0)))
            model = RouterModel(
                number=number, weights=b"", checksum="", price=0, budget_ms=1, spent_ms=0, learned=0, offsets={}
            )
            outbox.send(ROUTER_MODEL, encode(TOPICS[ROUTER_MODEL], model))
            assert producer.flush(10) == 0
        before = skipped()
        assert [r.offset for r in read_all(UpdateReader(kafka, start=0), 2)] == [0, 3]
        assert skipped() - before == 2
        assert [r.offset for r in read_all(UpdateReader(keyless, start=0), 4)] == [0, 1, 2, 3]
        assert [m.number for m in newest_models(kafka)] == [4, 1]
        source, deadline, newest = RouterModelSource(kafka), time.monotonic() + 20, None
        while newest is None and time.monotonic() < deadline:
            newest = source.poll()
        source.close()
        assert newest is not None
        assert newest.number == 4


def read_all(reader: UpdateReader, count: int) -> list[Record]:
    found: list[Record] = []
    deadline = time.monotonic() + 20
    while not (reader.at_end and len(found) >= count) and time.monotonic() < deadline:
        found += reader.poll(64, timeout_s=0.1)
    reader.close()
    return found


def skipped() -> float:
    return REGISTRY.get_sample_value("tiderank_updates_skipped_total", {"reason": "unsigned"}) or 0.0


class TestTheKeysFile:
    def test_none_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(KEY_FILE, raising=False)
        assert signer_from_environment() is None

    def test_its_key_is_used_whatever_newline_follows_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "key"
        path.write_bytes(KEY + b"\n")
        path.chmod(0o600)
        monkeypatch.setenv(KEY_FILE, str(path))
        signer = signer_from_environment()
        assert signer is not None
        assert signer.headers(UPDATES, b"x") == Signer(KEY).headers(UPDATES, b"x")
        assert KEY.decode() not in repr(Kafka("b", {}, signer))

    @pytest.mark.parametrize(
        ("content", "mode", "why"),
        [(b"short", 0o600, "at least 32 bytes"), (KEY, 0o644, "chmod 600"), (None, 0o600, "cannot be read")],
    )
    def test_what_is_no_good_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, mode: int, why: str
    ) -> None:
        path = tmp_path / "key"
        if content is not None:
            path.write_bytes(content)
            path.chmod(mode)
        monkeypatch.setenv(KEY_FILE, str(path))
        with pytest.raises(StartError, match=why):
            signer_from_environment()
