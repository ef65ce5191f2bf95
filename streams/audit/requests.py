"""Requests against responses: what was answered, how, how often, and what was not. Knows nothing of Kafka."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from streams.audit.events import RecordPlace
from streams.audit.report import Section
from streams.errors import Refused
from streams.wire.codec import address_of, decode
from streams.wire.headers import CONTENT_TYPE, DEADLINE_MS, MAX_DEADLINE_MS
from streams.wire.messages import RankingResponse, Status
from streams.wire.record import Record
from streams.wire.topics import RESPONSES, TOPICS

GRACE_MS = 5_000
"""After its deadline a request still has this long until it counts as unanswered."""


@dataclass(slots=True)
class _Answers:
    """To one request."""

    count: int
    first_ms: int
    status: Status
    reason: str | None


class Requests:
    """Feed it all responses before the requests: then every response finds its request."""

    def __init__(self, letters: Collection[RecordPlace], *, default_deadline_ms: int, now_ms: int) -> None:
        """now_ms: when the reading of responses began; what was due shortly before is not judged."""
        self._letters = letters
        self._default_deadline_ms = default_deadline_ms
        self._now_ms = now_ms
        self._answers: dict[str, _Answers] = {}
        self._sent: Counter[str] = Counter()
        self._refused = self._pending = self._aborted = self._held_back = 0
        self._late: set[str] = set()
        """Requests that were answered behind the cut."""
        self._unanswered: dict[RecordPlace, str] = {}

    def add_response(self, record: Record) -> None:
        response = _response(record)
        if response is None:
            return
        known = self._answers.get(response.request_id)
        if known is None:
            answers = _Answers(1, record.timestamp_ms, response.status, response.reason)
            self._answers[response.request_id] = answers
            return
        known.count += 1
        if record.timestamp_ms < known.first_ms:
            known.first_ms, known.status, known.reason = record.timestamp_ms, response.status, response.reason

    def add_request(self, record: Record) -> None:
        refused = (record.topic, record.partition, record.offset) in self._letters
        self._refused += refused
        address = address_of(record.value or b"", record.header(CONTENT_TYPE))
        if address is not None:
            self._sent[address.request_id] += 1
        if refused or (address is not None and address.request_id in self._answers):
            return
        if record.timestamp_ms + self._deadline_ms(record) + GRACE_MS >= self._now_ms:
            self._pending += 1
        else:
            place = (record.topic, record.partition, record.offset)
            self._unanswered[place] = address.request_id if address is not None else str(record)

    def unanswered(self, responses: Iterable[Record] = (), letters: Collection[RecordPlace] = ()) -> list[RecordPlace]:
        """Where the requests are that had to be answered and are not, now that these have come behind the cut."""
        for record in responses:
            response = _response(record)
            if response is not None:
                self._late.add(response.request_id)
        settled = {p for p, name in self._unanswered.items() if name in self._late or p in letters}
        for place in settled:
            del self._unanswered[place]
        return list(self._unanswered)

    def excuse(self, committed: Collection[RecordPlace], stable: Mapping[tuple[str, int], int]) -> None:
        """Requests of aborted transactions may be answered or not; those of open ones cannot be told yet.

        Args:
            committed: places of the records, among those unanswered, that no transaction holds back or took back.
            stable: by (topic, partition), the offset before which all transactions have ended.
        """
        for place in self._unanswered.keys() - set(committed):
            del self._unanswered[place]
            if place[2] < stable[place[:2]]:
                self._aborted += 1
            else:
                self._held_back += 1

    def section(self, *, requests_whole: bool, responses_whole: bool) -> Section:
        section = Section("requests")
        answered = [self._answers[name] for name in self._sent if name in self._answers]
        section.count("sent", self._sent.total())
        section.count("sent_again", self._sent.total() - len(self._sent), [i for i, n in self._sent.items() if n > 1])
        section.count("refused", self._refused)
        section.count("answered", len(answered))
        for status, count in sorted(Counter(a.status for a in answered).items()):
            section.count(f"answered_{status}", count)
        for reason, count in sorted(Counter(a.reason for a in answered if a.status == "fallback").items()):
            section.count(f"fallback_{reason}", count)
        again = {name: a.count - self._sent[name] for name, a in self._answers.items() if name in self._sent}
        section.count("answered_again", sum(n for n in again.values() if n > 0), [i for i, n in again.items() if n > 0])
        section.count("pending", self._pending)
        section.count("aborted_unanswered", self._aborted)
        section.count("behind_open_transaction", self._held_back)
        section.fault("unanswered", self._unanswered.values(), verifiable=responses_whole)
        strangers = [name for name in self._answers if name not in self._sent]
        section.fault("responses_to_no_request", strangers, verifiable=requests_whole)
        return section

    def _deadline_ms(self, record: Record) -> int:
        text = record.header(DEADLINE_MS) or ""
        if text.isascii() and text.isdigit() and len(text) <= 9:
            return min(int(text), MAX_DEADLINE_MS)
        return self._default_deadline_ms


def _response(record: Record) -> RankingResponse | None:
    """None where it is somebody else's record, on a shared reply topic."""
    try:
        response: RankingResponse = decode(TOPICS[RESPONSES], record.value, record.header(CONTENT_TYPE))
    except Refused:
        return None
    return response
