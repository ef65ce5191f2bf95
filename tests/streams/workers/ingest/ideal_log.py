"""A model of what ingest must come to, and the steps of senders, workers and time that hypothesis draws for it."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from feature_store.config import JoinConfig, LogConfig
from feature_store.events import RECORD_BYTES, with_item_of
from feature_store.facts import ActionFact, ImpressionFact, Position
from feature_store.log import LogSlice, LogWant, LogWantAsOf, UserLog
from streams.config.recipe import EventKinds
from streams.wire.codec import decode, encode
from streams.wire.headers import CLOSED_MS
from streams.wire.messages import Conversion, Impression, LogRef, ModelVersion, Served, ServedItem, TrainingExample
from streams.wire.record import Record
from streams.wire.topics import CONVERSIONS, DEAD_LETTERS, EXAMPLES, IMPRESSIONS, SERVED, TOPICS
from streams.workers.ingest.events import to_fact
from tests.streams.workers.ingest.ideal_labels import (
    ATTRIBUTION_MS,
    CLICK_MS,
    EARLY_MS,
    ELAPSED_MS,
    SECOND,
    Sent,
    is_in_time,
    may_label,
)
from tests.streams.workers.ingest.simulated_ingest import PARTITIONS, PLACES, SENT, TIMES, Broker, Member

LOG = LogConfig(length=500, slack=0)
USERS, ITEMS = ("u94", "u189"), ("a", "b")
BUCKETS = 2
"""Buckets of the timers: these users' are in the first two, and none of the others need be swept."""
TAKEN_OVER_MS = 8 * SECOND
"""The group gives a dead member's partitions away after 6 s."""
HANDED_OVER_MS = 9 * SECOND
"""And those that a living one gave up in the next round."""
BEAT_MS = 4 * SECOND
"""A member that is silent for longer is thrown out of its group."""

partitions = st.integers(0, PARTITIONS - 1)
skews = st.sampled_from([0, 0, 0, -3 * SECOND, 20 * SECOND, -50 * SECOND, 59 * SECOND, 90 * SECOND, -400 * SECOND])
"""Skews of the sender's clock, in milliseconds; 90 s ahead is refused."""


def served(name: str, user: str, event_ms: int, items: tuple[str, ...]) -> Served:
    return Served(
        response_id=name,
        request_id=name,
        user=user,
        surface="s",
        event_ms=event_ms,
        log=LogRef(),
        features={},
        context={},
        items=[ServedItem(item=item) for item in items],
        plan="light",
        tier="light",
        model=ModelVersion(epoch=1, number=1),
    )


class Exactly(RuleBasedStateMachine):
    """Members 0 and 1; what is sent is a model of its own: `sent`, `users`, and what they must come to."""

    redis: ClassVar[Any]
    clock: ClassVar[list[Broker]]
    """The newest machine's broker, whose time the workers' modules are given."""

    @initialize(provisional=st.sampled_from(["none", "click", "elapsed"]), both=st.booleans(), soon=st.booleans())
    def start(self, provisional: Any, both: bool, soon: bool = False) -> None:
        self.redis.flushall()
        self.broker = Broker()
        self.clock[:] = [self.broker]
        self.join = JoinConfig(
            click_window_ms=CLICK_MS,
            click_elapsed_ms=15 * SECOND if soon else 0,
            attribution_window_ms=ATTRIBUTION_MS,
            early_ms=EARLY_MS,
            provisional=provisional,
            elapsed_ms=ELAPSED_MS,
        )
        self.members = [Member(name, self.broker, self.redis, self.join, LOG) for name in ("a", "b")]
        self.free: dict[tuple[str, int], int] = {}
        """Partitions that are nobody's for the moment, and until when."""
        self.sent: dict[str, Sent] = {}
        self.logs: defaultdict[str, bytes] = defaultdict(bytes)
        self.used: set[int] = set()
        self.members[0].assign([place for place in PLACES if not (both and place[1])])
        if both:
            self.members[1].assign([place for place in PLACES if place[1]])

    # What senders do

    @rule(user=st.sampled_from(USERS), partition=partitions, skew=skews, items=st.sampled_from([ITEMS, ("a",)]))
    def serve(self, user: str, partition: int, skew: int, items: tuple[str, ...]) -> None:
        name = f"r{len(self.sent)}"
        self._send(name, SERVED, served(name, user, self._event_ms(skew), items), partition)

    @rule(data=st.data(), item=st.sampled_from(ITEMS), partition=partitions, skew=skews, unserved=st.booleans())
    def show(self, data: st.DataObject, item: str, partition: int, skew: int, unserved: bool) -> None:
        responses = [s.message for s in self.sent.values() if isinstance(s.message, Served)]
        shown = {
            (s.message.response_id, s.message.item) for s in self.sent.values() if isinstance(s.message, Impression)
        }
        free = [r for r in responses if (r.response_id, item) not in shown]
        if free and not unserved:
            of = data.draw(st.sampled_from(free))
            user, response = of.user, of.response_id
        else:  # its response never comes, or comes later under this name
            user, response = data.draw(st.sampled_from(USERS)), f"r{len(self.sent) + data.draw(st.integers(1, 2))}"
            if (response, item) in shown:
                return
        name = f"i{len(self.sent)}"
        message = Impression(
            event_id=name, user=user, response_id=response, item=item, position=0, event_ms=self._event_ms(skew)
        )
        self._send(name, IMPRESSIONS, message, partition)

    @rule(
        data=st.data(),
        kind=st.sampled_from(["click", "click", "purchase", "search"]),
        named=st.sampled_from([True, True, True, False]),
        partition=partitions,
        skew=skews,
        early=st.booleans(),
    )
    def act(self, data: st.DataObject, kind: str, named: bool, partition: int, skew: int, early: bool) -> None:
        shown = [s.message for s in self.sent.values() if isinstance(s.message, Impression)]
        name = f"x{len(self.sent)}"
        user, impression, item = data.draw(st.sampled_from(USERS)), None, data.draw(st.sampled_from(ITEMS))
        if named and early:  # of an impression that may come next, if it is of this user
            impression = f"i{len(self.sent) + 1}"
        elif named and shown:
            of = data.draw(st.sampled_from(shown))
            user, impression = of.user, of.event_id
        message = Conversion(
            event_id=name,
            user=user,
            kind=kind,
            event_ms=self._event_ms(skew),
            item=None if impression else item,
            impression_id=impression,
            value=float(len(self.sent)),
        )
        self._send(name, CONVERSIONS, message, partition)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), partition=partitions)
    def send_again(self, data: st.DataObject, partition: int) -> None:
        """A producer's retry, perhaps by another route: the same bytes at another offset, of any partition."""
        again = self.sent[data.draw(st.sampled_from(sorted(self.sent)))]
        if not again.refused:
            self._append(again, partition)

    def _event_ms(self, skew: int) -> int:
        """Each in a second of its own: so that log records tell events apart."""
        second = (self.broker.now_ms + skew) // SECOND
        while second in self.used:
            second -= 1
        self.used.add(second)
        return second * SECOND

    def _send(self, name: str, topic: str, message: Served | Impression | Conversion, partition: int) -> None:
        refused = message.event_ms > self.broker.now_ms + 60 * SECOND
        self.sent[name] = Sent(message, topic, encode(TOPICS[topic], message), refused)
        self._append(self.sent[name], partition)

    def _append(self, sent: Sent, partition: int) -> None:
        self.broker.append(sent.topic, partition, sent.value)
        sent.times_ms.append(self.broker.now_ms)
        self._pass_time(100)

    # What the machines do

    @rule(who=st.integers(0, 1), data=st.data())
    def deliver(self, who: int, data: st.DataObject) -> None:
        """A batch: partitions in any order, and each in its own."""
        member, records = self.members[who], list[Record]()
        places = [place for place in member.positions if member.positions[place] < len(self.broker.logs[place])]
        for place in data.draw(st.permutations(places)):
            records += member.poll(place, data.draw(st.integers(0, 4)))
        member.handle(records)

    @rule(who=st.integers(0, 1))
    def deliver_all(self, who: int) -> None:
        member = self.members[who]
        member.handle([record for place in list(member.positions) for record in member.poll(place, 100)])

    @rule(who=st.integers(0, 1))
    def tick(self, who: int) -> None:
        self.members[who].tick()

    @rule(who=st.integers(0, 1), arrived=st.sampled_from([0, 1, 3, 1_000]))
    def commit(self, who: int, arrived: int) -> None:
        self.members[who].commit(arrived)

    @rule(ms=st.sampled_from([1, 10, SECOND, 5 * SECOND, 30 * SECOND, 100 * SECOND]))
    def wait(self, ms: int) -> None:
        self._pass_time(ms)

    @rule(window_ms=st.sampled_from([CLICK_MS, ATTRIBUTION_MS]), ms=st.sampled_from([-10, 0, 1, SECOND]))
    def wait_for_a_window(self, window_ms: int, ms: int) -> None:
        """To about the end of the next one."""
        now_ms = self.broker.now_ms
        shown = [s.message.event_ms for s in self.sent.values() if isinstance(s.message, Impression)]
        ends = [at + window_ms + ms for at in shown if at + window_ms + ms > now_ms]
        self._pass_time(min(ends, default=now_ms) - now_ms)

    @rule(who=st.integers(0, 1), arrived=st.sampled_from([0, 1, 3, 1_000]))
    def kill(self, who: int, arrived: int) -> None:
        """Before its commit. Its partitions are nobody's until the group has noticed."""
        member = self.members[who]
        self.free |= dict.fromkeys(member.positions, self.broker.now_ms + TAKEN_OVER_MS)
        member.die(arrived)

    @rule(who=st.integers(0, 1), data=st.data(), drained=st.booleans())
    def give_up(self, who: int, data: st.DataObject, drained: bool) -> None:
        """A rebalance takes partitions away; drained: or the member had lost them before it knew."""
        member = self.members[who]
        places = [place for place in member.positions if data.draw(st.booleans())]
        member.give_up(places, drained=drained)
        self.free |= dict.fromkeys(places, self.broker.now_ms + HANDED_OVER_MS)

    @precondition(lambda self: self.free)
    @rule(who=st.integers(0, 1))
    def take_over(self, who: int) -> None:
        self.members[who].assign(list(self.free))
        self.free = {}

    @rule(who=st.integers(0, 1))
    def refuse_once(self, who: int) -> None:
        """An error of Redis, which has forgotten nothing."""
        self.members[who].notice_that_redis_forgot()

    @precondition(lambda self: self.free)
    @rule(data=st.data())
    def move_back(self, data: st.DataObject) -> None:
        """An operator moves the group back where it has no member."""
        place = data.draw(st.sampled_from(sorted(self.free)))
        if place in self.broker.committed:
            self.broker.committed[place] = data.draw(st.integers(0, self.broker.committed[place]))

    def _pass_time(self, ms: int) -> None:
        """Partitions find a member before their time, and who lives looks around now and then."""
        if self.free and self.broker.now_ms + ms > min(self.free.values()):
            self.take_over(who=0)
        while ms > BEAT_MS:
            self.broker.now_ms, ms = self.broker.now_ms + BEAT_MS, ms - BEAT_MS
            self.tick(0)
            self.tick(1)
        self.broker.now_ms += ms

    # What must hold

    @invariant()
    def logs_only_grow(self) -> None:
        reads = UserLog(self.redis, LOG).read([LogWant(user, LOG.length) for user in USERS])
        for user, now in zip(USERS, reads, strict=True):
            stored = now.events.tobytes()
            assert stored.startswith(self.logs[user]), f"the log of {user} was not appended to"
            self.logs[user] = stored

    @invariant()
    def outcomes_of_closed_windows_are_told(self) -> None:
        """For who only looks on at the clock: what comes of a closed window is on the broker, or came too late."""
        for outcome, (event_ms, late_ms) in self.broker.untold.items():
            assert event_ms >= self.broker.closed_ms or event_ms < late_ms, f"{outcome} is not told yet"

    def teardown(self) -> None:
        if not hasattr(self, "sent"):
            return
        if self.free:
            self.take_over(who=0)
        for _ in range(25):  # longer than any window, however far ahead its impression
            self._pass_time(30 * SECOND)
            for who in (0, 1):
                self.deliver_all(who)
                for _ in range(3):
                    self.tick(who)
                    self.commit(who, 1_000)
        self.logs_only_grow()
        self.every_event_is_stored_once()
        self.logs_can_be_read_as_of_every_position()
        self.what_is_refused_has_a_letter()
        self.every_impression_has_its_examples()

    def every_event_is_stored_once(self) -> None:
        for user in USERS:
            facts = [
                to_fact(Record(s.topic, 0, 0, s.first_ms, b"", s.value, ()), EventKinds(), TIMES)
                for s in self._taken()
                if s.message.user == user and not isinstance(s.message, Served)
            ]
            log = self.logs[user]
            stored = [log[at : at + RECORD_BYTES] for at in range(0, len(log), RECORD_BYTES)]
            left = Counter(stored)
            shown = {fact.event_id: fact.record for fact in facts if isinstance(fact, ImpressionFact)}
            for fact in sorted(facts, key=lambda fact: isinstance(fact, ActionFact) and fact.item is None):
                assert isinstance(fact, ImpressionFact | ActionFact)
                may_be = [fact.record]
                if isinstance(fact, ActionFact) and fact.item is None and fact.impression_id in shown:
                    may_be.append(with_item_of(fact.record, shown[fact.impression_id]))  # unless it came first
                left[next(record for record in may_be if left[record])] -= 1
            assert not +left

    def logs_can_be_read_as_of_every_position(self) -> None:
        for user in USERS:
            log = UserLog(self.redis, LOG)
            (now,) = log.read([LogWant(user, LOG.length)])
            wants = [
                LogWantAsOf(user, Position(now.position.generation, count), LOG.length)
                for count in range(1, now.position.count + 1)
            ]
            for want, then in zip(wants, log.read_as_of(wants), strict=True):
                assert isinstance(then, LogSlice)
                assert np.array_equal(then.events, now.events[: want.position.count])

    def what_is_refused_has_a_letter(self) -> None:
        letters = {value for value, headers in self.broker.arrived[DEAD_LETTERS] if headers["reason"]}
        assert letters == {s.value for s in self.sent.values() if s.refused}

    def every_impression_has_its_examples(self) -> None:
        examples: dict[str, TrainingExample] = {}
        for value, _ in self.broker.arrived[EXAMPLES]:
            example = decode(TOPICS[EXAMPLES], value)
            assert examples.setdefault(example.example_id, example) == example, "an id stands for one example"
        self._nothing_of_closed_windows_comes()
        wanted = {name for shown in self._taken() for name in self._examples_of(shown, examples)}
        assert examples.keys() == wanted

    def _nothing_of_closed_windows_comes(self) -> None:
        """Each example says before which event time all is closed: of what was handled before that, it is so."""
        said, seen = [(0, 0)], set[str]()
        for value, headers in self.broker.arrived[EXAMPLES]:
            example = decode(TOPICS[EXAMPLES], value)
            if example.kind == "click" and example.by_window and example.example_id not in seen:
                of = self.sent[example.example_id.partition(":")[2]], self.sent[example.response_id]
                known, late_ms = max(self.broker.handled[sent.value] for sent in of)
                closed_ms = max(closed_ms for sent, closed_ms in said if sent > known or closed_ms == 0)
                assert example.label_ms >= closed_ms or example.label_ms < late_ms
            seen.add(example.example_id)
            said.append((headers[SENT], int(headers[CLOSED_MS])))

    def _examples_of(self, shown: Sent, examples: dict[str, TrainingExample]) -> Iterator[str]:
        """The ids that an impression must have, given how its labels came out; asserts that they may be so."""
        if not isinstance(shown.message, Impression):
            return
        name = shown.message.event_id
        if not self._is_served(shown.message, f"click:{name}" in examples):
            return
        yield f"click:{name}"
        assert f"click:{name}" in examples
        clicked = examples[f"click:{name}"]
        self._check_label(shown, clicked, "click", CLICK_MS)
        if denied := f"unclicked:{name}" in examples:
            yield f"unclicked:{name}"
        assert denied == (clicked.corrects if clicked.label else self.join.click_elapsed_ms > 0)
        if not clicked.label:
            return
        yield f"conversion:{name}"
        assert f"conversion:{name}" in examples
        converted = examples[f"conversion:{name}"]
        self._check_label(shown, converted, "purchase", ATTRIBUTION_MS)
        provisional = f"provisional:{name}"
        if self.join.provisional == "click" or (self.join.provisional == "elapsed" and provisional in examples):
            yield provisional
        if converted.label:
            assert converted.corrects == (provisional in examples)

    def _check_label(self, shown: Sent, example: TrainingExample, kind: str, window_ms: int) -> None:
        valid = [s for s in self._taken() if may_label(s, shown, kind, window_ms)]
        sure = [s for s in valid if is_in_time(s, shown, window_ms)]
        assert example.label in ({1} if sure else {0, 1} if valid else {0})
        if example.label:
            assert example.trigger_ms in {ms for s in valid for ms in s.times_ms}
            assert example.value in {s.message.value for s in valid if isinstance(s.message, Conversion)}
        assert example.by_window == (example.label == 0)

    def _is_served(self, shown: Impression, labelled: bool) -> bool:
        of = self.sent.get(shown.response_id)
        if of is None or of.refused or not isinstance(of.message, Served):
            return False
        if of.message.user != shown.user or shown.item not in [item.item for item in of.message.items]:
            return False
        # Of two deliveries the one that is read first tells the request's time, which is no later than the broker's.
        least_ms = [min(of.message.event_ms, at_ms) - self.join.skew_ms for at_ms in of.times_ms]
        if min(least_ms) <= shown.event_ms < max(least_ms):
            return labelled
        return shown.event_ms >= min(least_ms)

    def _taken(self) -> list[Sent]:
        return [sent for sent in self.sent.values() if not sent.refused]
