"""Decisions and outcomes against rewards: one reward a decision, each outcome in one of them.

Of Redis it knows which windows still stand and which late outcomes still wait.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from redis import Redis

from router_bandit.windows import WindowOptions
from streams.audit.events import ClockBound, RecordPlace
from streams.audit.joins import OVERDUE_MS
from streams.audit.patience import Patience
from streams.audit.report import Section
from streams.errors import Refused
from streams.wire.codec import decode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import Decision, Outcome, Reward
from streams.wire.record import Record
from streams.wire.topics import DECISIONS, TOPICS

PREFIX = WindowOptions().prefix


class Rewards:
    """Feed it all rewards, then outcomes and decisions: so no reward comes without what it is made of."""

    def __init__(
        self,
        letters: Collection[RecordPlace],
        frontier: Mapping[tuple[str, int], int],
        *,
        window_ms: int,
        wall_lag_ms: int | None,
    ) -> None:
        """frontier: by (topic, partition), the offset before which the rewards worker has surely taken all in."""
        self._letters = set(letters)
        self._frontier = frontier
        self._window_ms = window_ms
        self._wall_lag_ms = wall_lag_ms
        self._rewards: dict[str, Reward] = {}
        self._of_response: defaultdict[str, list[Reward]] = defaultdict(list)
        self._decided: dict[str, int] = {}
        """Event time by response id."""
        self._outcomes: dict[str, Outcome] = {}
        self._unsure: dict[RecordPlace, tuple[str, str]] = {}
        """What may not have been taken in yet: its response, and its own id."""
        self._since: dict[str, str] = {}
        """By outcome id, the response of those that came behind the cut."""
        self._strangers: list[str] = []
        self._overdue: list[str] = []
        self._moments: list[tuple[int, int]] = []
        self._counts: Counter[str] = Counter()
        self._again: list[str] = []
        self._changed: list[str] = []
        self._missing: list[str] = []
        self._miscounted: dict[str, list[str]] = {"outcomes_lost": [], "outcomes_twice": [], "earned_wrongly": []}

    def add_reward(self, record: Record) -> None:
        try:
            reward: Reward = decode(TOPICS[record.topic], record.value, record.header(CONTENT_TYPE))
        except Refused:
            self._counts["refused"] += 1  # none of ours
            return
        first = self._rewards.setdefault(reward.reward_id, reward)
        if first is reward:
            self._of_response[reward.decision.response_id].append(reward)
        else:
            self._again.append(reward.reward_id)
            if first != reward:
                self._changed.append(reward.reward_id)

    def add_fact(self, record: Record) -> None:
        """A decision or an outcome."""
        place = (record.topic, record.partition, record.offset)
        fact = None if place in self._letters else _fact(record)
        if fact is None:
            return  # a dead letter, or one to be: once it is read
        self._moments.append((min(fact.event_ms, record.timestamp_ms), record.timestamp_ms))
        if record.offset >= self._frontier.get(place[:2], 0):
            name = fact.response_id if isinstance(fact, Decision) else fact.outcome_id
            self._unsure[place] = (fact.response_id, name)
        if isinstance(fact, Decision):
            self._decided.setdefault(fact.response_id, fact.event_ms)
        else:
            self._outcomes.setdefault(fact.outcome_id, fact)

    def settle(self, frontier: Mapping[tuple[str, int], int], letters: Collection[RecordPlace]) -> None:
        """Says what has become of the facts before the cut; as in events. Then compare."""
        for place in self._unsure.keys() & set(letters):
            _, name = self._unsure.pop(place)
            (self._decided if place[0] == DECISIONS else self._outcomes).pop(name, None)
        self._unsure = {place: names for place, names in self._unsure.items() if place[2] >= frontier.get(place[:2], 0)}

    def without_outcome(self, positives: Iterable[str]) -> list[str]:
        """Those positive examples that no outcome was told of, now that all was compared."""
        return [name for name in positives if name not in self._outcomes and name not in self._since]

    def compare(
        self,
        redis: Redis,
        now_ms: int,
        *,
        read_on: Callable[[], Iterable[Record]],
        catch_up: Callable[[], Iterable[Record]],
        patience: Patience,
    ) -> None:
        """A window stands from the moment that its decision is taken in until its reward is delivered, whatever the
        clock that it closes by.

        read_on: the rewards that came since, read after Redis: a window that no longer stands has delivered.
        catch_up: the outcomes that came since, read after those: they may be in such a reward."""
        clock = ClockBound(self._moments, self._wall_lag_ms)
        unsure = {response for response, _ in self._unsure.values()}
        self._strangers = [name for name in self._of_response if name not in self._decided]
        missing = [name for name in self._decided if name not in self._rewards]
        taken = [name for name in missing if name not in unsure]
        of_response: defaultdict[str, list[Outcome]] = defaultdict(list)
        for outcome in self._outcomes.values():
            of_response[outcome.response_id].append(outcome)
        closed = [name for name in of_response if name in self._rewards and name not in unsure]
        closing_ms = {name: clock.passed_ms(self._decided[name] + self._window_ms) for name in taken}
        overdue = {name for name in taken if closing_ms[name] + OVERDUE_MS < now_ms}
        standing = self._await_windows(redis, taken, overdue, patience)
        waiting = _members(redis, f"{PREFIX}late", closed)
        for record in read_on():
            self.add_reward(record)
        self._since = {f.outcome_id: f.response_id for record in catch_up() if isinstance(f := _fact(record), Outcome)}
        later = Counter(response for name, response in self._since.items() if name not in self._outcomes)
        self._missing = [name for name in taken if name not in standing and name not in self._rewards]
        self._counts["pending"] = len(missing) - len(taken) + len(standing)
        for name in closed:
            if name not in waiting:
                self._check_outcomes(name, of_response[name], later[name])

    def _await_windows(self, redis: Redis, taken: Sequence[str], overdue: set[str], patience: Patience) -> set[str]:
        """Those whose window stands. One that is overdue is given time to go."""
        standing = _members(redis, f"{PREFIX}due", taken)

        def left() -> int:
            self._overdue = sorted(_members(redis, f"{PREFIX}due", self._overdue))
            return len(self._overdue)

        self._overdue = sorted(standing & overdue)
        patience.wait(left)
        return (standing - overdue) | set(self._overdue)

    def _check_outcomes(self, response: str, outcomes: Sequence[Outcome], later: int) -> None:
        """later: how many more outcomes came behind the cut."""
        rewards = self._of_response[response]
        counted = sum(reward.outcomes for reward in rewards)
        if counted < len(outcomes):
            self._miscounted["outcomes_lost"].append(response)
        elif counted > len(outcomes) + later:
            self._miscounted["outcomes_twice"].append(response)
        elif later:
            return  # which of them are in it cannot be told yet
        elif not math.isclose(math.fsum(r.earned for r in rewards), math.fsum(o.value for o in outcomes), abs_tol=1e-6):
            self._miscounted["earned_wrongly"].append(response)

    def section(self, *, facts_whole: bool, rewards_whole: bool, held: bool) -> Section:
        """held: as in joins, whose outcomes the windows wait for."""
        section = Section("rewards")
        section.count("decisions", len(self._decided))
        section.count("outcomes", len(self._outcomes))
        section.count("rewarded", sum(not reward.late for reward in self._rewards.values()))
        section.count("late", sum(reward.late for reward in self._rewards.values()))
        for name in ("pending", "refused"):
            section.count(name, self._counts[name])
        section.count("delivered_again", len(self._again), self._again)
        section.fault("delivered_again_changed", self._changed)
        section.fault("missing", self._missing, verifiable=rewards_whole)
        section.fault("not_read", [name for _, name in self._unsure.values()])
        section.waits("overdue", self._overdue, held=held)
        section.fault("of_no_decision", self._strangers, verifiable=facts_whole)
        for name, ids in self._miscounted.items():
            section.fault(name, ids, verifiable=facts_whole and rewards_whole)
        return section


def _fact(record: Record) -> Decision | Outcome | None:
    """None where it is none."""
    try:
        fact: Decision | Outcome = decode(TOPICS[record.topic], record.value, record.header(CONTENT_TYPE))
    except Refused:
        return None
    return fact


def _members(redis: Redis, key: str, names: Sequence[str]) -> set[str]:
    """Those of the names that the sorted set holds."""
    found = set()
    for start in range(0, len(names), 1_000):
        some = names[start : start + 1_000]
        with redis.pipeline(transaction=False) as pipe:
            for name in some:
                pipe.zscore(key, name)
            found |= {name for name, score in zip(some, pipe.execute(), strict=True) if score is not None}
    return found
