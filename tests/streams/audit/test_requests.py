"""Requests against responses."""

import msgspec
import pytest

from streams.audit.report import Section
from streams.audit.requests import GRACE_MS, Requests
from streams.wire.codec import encode
from streams.wire.headers import CONTENT_TYPE, DEADLINE_MS, MSGPACK
from streams.wire.messages import Candidate, RankingRequest, RankingResponse, Status
from streams.wire.record import Record
from streams.wire.topics import REQUESTS, RESPONSES, TOPICS
from tests.streams.audit.history import T0, counts, faults

DEADLINE = 2_000
DUE = T0 + DEADLINE + GRACE_MS


def request(name: str, offset: int = 0, *, value: bytes | None = None, deadline: str | None = None) -> Record:
    message = RankingRequest(request_id=name, user="u", candidates=[Candidate(item="a")])
    headers = () if deadline is None else ((DEADLINE_MS, deadline.encode()),)
    return Record(REQUESTS, 0, offset, T0, None, value or encode(TOPICS[REQUESTS], message), headers)


def response(name: str, status: Status = "ok", reason: str | None = None, *, at: int = 0) -> Record:
    message = RankingResponse(response_id=f"{name}:{at}", request_id=name, status=status, reason=reason)
    return Record(RESPONSES, 0, 0, T0 + at, None, encode(TOPICS[RESPONSES], message), ())


def audited(
    requests: list[Record],
    responses: list[Record],
    *,
    letters: int | None = None,
    now_ms: int = DUE,
    whole: bool = True,
) -> Section:
    places = frozenset() if letters is None else frozenset({(REQUESTS, 0, letters)})
    audit = Requests(places, default_deadline_ms=DEADLINE, now_ms=now_ms)
    for record in responses:
        audit.add_response(record)
    for record in requests:
        audit.add_request(record)
    return audit.section(requests_whole=whole, responses_whole=whole)


def test_answers_are_counted_by_status_and_reason() -> None:
    section = audited(
        [request("a"), request("b"), request("c")],
        [response("a"), response("b", "fallback", "expired"), response("c", "fallback", "redis_away")],
    )
    assert faults(section) == {}
    assert counts(section) == {
        "sent": 3, "answered": 3, "answered_ok": 1, "answered_fallback": 2, "fallback_expired": 1,
        "fallback_redis_away": 1,
    }  # fmt: skip


def test_the_first_answer_counts_and_further_ones_are_named() -> None:
    section = audited([request("a")], [response("a", at=5), response("a", "fallback", "expired", at=4)])
    found = counts(section)
    assert (found["answered_fallback"], found["answered_again"], faults(section)) == (1, 1, {})


def test_a_request_sent_twice_is_answered_twice() -> None:
    section = audited([request("a"), request("a")], [response("a"), response("a", at=1)])
    assert counts(section) == {"sent": 2, "sent_again": 1, "answered": 1, "answered_ok": 1}


@pytest.mark.parametrize(("now_ms", "deadline", "wrong"), [
    (DUE, None, False), (DUE + 1, None, True), (DUE + 1, "3000", False), (DUE + 1001, "3000", True),
    (DUE + 1, "nonsense", True),
])  # fmt: skip
def test_a_request_is_unanswered_once_its_deadline_and_the_grace_are_over(
    now_ms: int, deadline: str | None, wrong: bool
) -> None:
    section = audited([request("a", deadline=deadline)], [], now_ms=now_ms)
    assert faults(section) == ({"unanswered": ("a",)} if wrong else {})
    assert counts(section).get("pending", 0) == (not wrong)


def test_a_dead_letter_is_the_answer_to_what_names_nobody() -> None:
    garbage = request("", 7, value=b"\xff")
    assert faults(audited([garbage], [], letters=7)) == {}
    assert counts(audited([garbage], [], letters=7)) == {"refused": 1}
    assert faults(audited([garbage], [], now_ms=DUE + 1)) == {"unanswered": ("ranking.requests[0]@7",)}


def test_a_response_to_no_request_is_named_if_all_requests_are_there() -> None:
    section = audited([], [response("a")])
    assert faults(section) == {"responses_to_no_request": ("a",)}
    assert faults(audited([], [response("a")], whole=False)) == {}


def test_requests_of_the_array_form_and_records_of_others() -> None:
    value = msgspec.msgpack.encode(["a", "u", []])
    array = Record(REQUESTS, 0, 0, T0, None, value, ((CONTENT_TYPE, MSGPACK.encode()),))
    other = Record(RESPONSES, 0, 0, T0, None, b"not ours", ())
    assert counts(audited([array], [other, response("a")])) == {"sent": 1, "answered": 1, "answered_ok": 1}
