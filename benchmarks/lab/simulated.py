"""A stream of a simulated world, drawn all at once: users with a past, pages in no model's order, clicks by the truth.

What is shown is drawn from the popularity (a Zipf law of exponent 1/2) of the items alive then: no model is in the
loop, so every variant learns from, and is graded on, the same impressions.
"""

# R requests, k candidates of each, n impressions, U users, I items.

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.lab.stream import CACHE, Stream, encode, load, save
from ranker.arrays import F64, I64
from ranker.config import ModelConfig
from ranker.inputs.hashing import hash64
from ranker.inputs.requests import LOG_DTYPE, ScoringRequest
from streams.simulate.config import DEVICES, SURFACES, WORLDS
from streams.simulate.world import World, sigmoid

IMPRESSION, CLICK, SEARCH, PURCHASE = 1, 2, 3, 5
_DAY_MS = 86_400_000
_PAGES_OF_SESSION = 4


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of a world to see."""

    world: str = "rich"
    requests: int = 8_000
    candidates: int = 16
    history: int = 2_000
    """Impressions, at most, that a user saw before the stream begins; at least a tenth of it."""
    history_days: int = 30
    days: float = 4
    """Length of the stream, in days."""
    seed: int = 0


@dataclass(frozen=True)
class Shown:
    """Impressions [n], in the order of time."""

    user: I64
    item: I64
    at_ms: I64
    position: I64
    surface: I64
    device: I64

    def take(self, index: I64) -> "Shown":
        return Shown(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})


def simulated(plan: Plan, model: ModelConfig) -> Stream:
    """Returns the plan's stream, encoded for the model's slots; from the cache where it has been drawn before."""
    parts = [asdict(plan), asdict(WORLDS[plan.world]()), [asdict(s) for s in model.slots], model.crosses]
    text = json.dumps(parts + ([model.statistics] if model.statistics else []), sort_keys=True)
    path = CACHE / f"{plan.world}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}.npz"
    if not path.exists():
        save(draw(plan, model), path)
    return load(path)


@dataclass(frozen=True)
class Drawn:
    """All impressions [n], those before the stream first, with their truth and what became of them."""

    shown: Shown
    logit: F64
    """Log-odds of a click, if looked at."""
    truth: F64
    """Probability of a click at the position."""
    clicked: npt.NDArray[np.bool_]
    bought: npt.NDArray[np.bool_]


def draw_impressions(plan: Plan, world: World) -> Drawn:
    """Draws the plan's impressions; the same for the same plan."""
    rng = np.random.default_rng([plan.seed, 6])
    parts = _past(plan, world, rng), _pages(plan, world, rng)
    shown = Shown(**{f: np.concatenate([getattr(part, f) for part in parts]) for f in Shown.__dataclass_fields__})
    logit = _logits(world, shown)
    truth = world.examination(shown.position) * sigmoid(logit)
    clicked = rng.random(len(truth)) < truth
    buys = rng.random(len(truth)) < world.conversion_probability(shown.user, shown.item)
    return Drawn(shown, logit, truth, clicked, clicked & buys)


def draw(plan: Plan, model: ModelConfig) -> Stream:
    world = World(WORLDS[plan.world](), seed=plan.seed)
    drawn = draw_impressions(plan, world)
    R, k = plan.requests, plan.candidates
    ours = np.arange(len(drawn.truth) - R * k, len(drawn.truth))
    events, keys = _events(world, drawn, np.random.default_rng([plan.seed, 9]))
    pages = drawn.shown.take(ours)
    request_ms, first_key = pages.at_ms[::k], pages.user[::k] << _USER_BITS
    return Stream(
        keyed=encode(model, _requests(world, pages, R, k)),
        event_ms_R=request_ms,
        log_start_R=np.searchsorted(keys, first_key),
        log_end_R=np.searchsorted(keys, first_key + request_ms),
        events_E=events,
        position_N=pages.position,
        click_N=drawn.clicked[ours].astype(np.float32),
        conversion_N=np.where(drawn.clicked[ours], drawn.bought[ours], np.nan).astype(np.float32),
        truth_N=drawn.truth[ours].astype(np.float32),
    )


def _popularity(world: World, rng: np.random.Generator) -> F64:
    weight = (1.0 + rng.permutation(world.config.items)) ** -0.5
    popularity: F64 = weight / weight.sum()
    return popularity


def _past(plan: Plan, world: World, rng: np.random.Generator) -> Shown:
    """What each user was shown before: sessions of a few pages, spread over the days."""
    users, k = world.config.users, plan.candidates
    counts = np.ceil(plan.history * rng.uniform(0.1, 1.0, users)).astype(np.int64)
    user = np.repeat(np.arange(users), counts)
    n = len(user)
    page = (np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)) // k
    session = page // _PAGES_OF_SESSION
    of_session = np.unique(user * (plan.history + 1) + session, return_inverse=True)[1]
    draws = int(of_session[-1]) + 1 if n else 0
    start_ms = rng.integers(0, plan.history_days * _DAY_MS, draws)
    at_ms = start_ms[of_session] + (page % _PAGES_OF_SESSION) * 45_000
    return Shown(
        user=user,
        item=_drawn_items(plan, world, at_ms, rng),
        at_ms=at_ms,
        position=np.arange(n) % k,
        surface=rng.integers(0, len(SURFACES), draws)[of_session],
        device=rng.integers(0, len(DEVICES), draws)[of_session],
    )


def _drawn_items(plan: Plan, world: World, at_ms: I64, rng: np.random.Generator) -> I64:
    """An item for each moment: drawn again while it is not alive then."""
    items, popularity = world.config.items, _popularity(world, np.random.default_rng([plan.seed, 7]))
    item: I64 = rng.choice(items, len(at_ms), p=popularity)
    gone = np.flatnonzero(~world.alive_of(item, at_ms))
    while len(gone):
        item[gone] = rng.choice(items, len(gone), p=popularity)
        gone = gone[~world.alive_of(item[gone], at_ms[gone])]
    return item


def _pages(plan: Plan, world: World, rng: np.random.Generator) -> Shown:
    R, k = plan.requests, plan.candidates
    # Times come after the items, as ever, but where they say which items there are.
    at_ms = None if world.lives is None else _times(plan, rng)
    items_Rk = _page_items(plan, world, at_ms, rng)
    at_ms = _times(plan, rng) if at_ms is None else at_ms
    return Shown(
        user=np.repeat(rng.choice(world.config.users, R, p=world.user_activity), k),
        item=rng.permuted(items_Rk, axis=1).ravel(),
        at_ms=np.repeat(at_ms, k),
        position=np.tile(np.arange(k), R),
        surface=np.repeat(rng.integers(0, len(SURFACES), R), k),
        device=np.repeat(rng.integers(0, len(DEVICES), R), k),
    )


def _times(plan: Plan, rng: np.random.Generator) -> I64:
    begin = plan.history_days * _DAY_MS
    return np.sort(rng.integers(begin, begin + int(plan.days * _DAY_MS), plan.requests))


def _page_items(plan: Plan, world: World, at_ms: I64 | None, rng: np.random.Generator) -> I64:
    """[R, k]: items of each page, none twice, of those alive at its time; at_ms: None where all always are."""
    R, k = plan.requests, plan.candidates
    log_popularity = np.log(_popularity(world, np.random.default_rng([plan.seed, 7])))
    parts = []
    for some in np.array_split(np.arange(R), max(1, R // 2_000)):
        # Gumbel's trick: the k largest of log p + noise are k draws without replacement.
        score = log_popularity + rng.gumbel(size=(len(some), len(log_popularity)))
        if at_ms is not None:
            score[~np.stack([world.alive(int(now_ms)) for now_ms in at_ms[some]])] = -np.inf
        parts.append(np.argpartition(-score, k)[:, :k])
    return np.concatenate(parts)


def _logits(world: World, shown: Shown) -> F64:
    idle_s = _idle_s(shown, world.config.items)
    logit = np.empty(len(idle_s))
    for part in np.array_split(np.arange(len(logit)), max(1, len(logit) // 200_000)):
        s = shown.take(part)
        logit[part] = world.click_logit(
            s.user, s.item, s.at_ms, surface=s.surface, device=s.device, idle_s=idle_s[part]
        )
    return logit


def _idle_s(shown: Shown, items: int) -> F64:
    """[n]: seconds since the user was last shown the item; inf where never."""
    pair = shown.user * items + shown.item
    order = np.lexsort([shown.at_ms, pair])
    again = np.r_[False, pair[order][1:] == pair[order][:-1]]
    gap = np.r_[0, np.diff(shown.at_ms[order])] / 1000
    idle_s = np.empty(len(pair))
    idle_s[order] = np.where(again, gap, np.inf)
    return idle_s


_USER_BITS = 40  # of a sort key, below the user's number: milliseconds


def _events(world: World, drawn: Drawn, rng: np.random.Generator) -> tuple[npt.NDArray[np.void], I64]:
    """All users' events (LOG_DTYPE) by user and time, and the keys that they are sorted by."""
    shown = drawn.shown
    ids = np.array([hash64(i) for i in world.item_ids], np.uint64)
    first = np.flatnonzero((shown.position == 0) & (rng.random(len(shown.user)) < world.config.search_share))
    queries = np.array([hash64(f"query:{t}") for t in world.topics], np.uint64)[
        _searched(world, shown.user[first], rng)
    ]
    clicks, sales = np.flatnonzero(drawn.clicked), np.flatnonzero(drawn.bought)
    each = [
        (np.arange(len(shown.user)), IMPRESSION, 0, ids[shown.item]),
        (clicks, CLICK, 700, ids[shown.item[clicks]]),
        (sales, PURCHASE, 5_700, ids[shown.item[sales]]),
        (first, SEARCH, -500, queries),
    ]
    index, delay = np.concatenate([i for i, *_ in each]), np.concatenate([np.full(len(i), d) for i, _, d, _ in each])
    at_ms = np.maximum(shown.at_ms[index] + delay, 0)
    events = np.zeros(len(index), LOG_DTYPE)
    events["time_s"] = at_ms // 1000
    events["item"] = np.concatenate([item for *_, item in each])
    events["action"] = np.concatenate([np.full(len(i), action) for i, action, _, _ in each])
    events["surface"] = shown.surface[index] + 1
    keys = (shown.user[index] << _USER_BITS) + at_ms
    order = np.argsort(keys, kind="stable")
    return events[order], keys[order]


def _searched(world: World, users: I64, rng: np.random.Generator) -> I64:
    """A topic for each user, by interest: P(topic) ∝ exp(2 · interest)."""
    interest_UT = np.stack([world.interest(user, 0) for user in range(world.config.users)])
    noise = rng.gumbel(size=(len(users), interest_UT.shape[1]))
    topics: I64 = (2 * interest_UT[users] + noise).argmax(axis=1)
    return topics


def _requests(world: World, pages: Shown, R: int, k: int) -> list[ScoringRequest]:
    features = [world.item_features(item) for item in range(world.config.items)]
    users = [world.user_features(user) for user in range(world.config.users)]
    items_Rk = pages.item.reshape(R, k).tolist()
    return [
        ScoringRequest(
            user=world.user_ids[pages.user[r * k]],
            event_ms=int(pages.at_ms[r * k]),
            items=[world.item_ids[i] for i in items],
            item_features=[features[i] for i in items],
            features=users[pages.user[r * k]],
            context={"device": DEVICES[pages.device[r * k]]},
            surface=SURFACES[pages.surface[r * k]],
        )
        for r, items in enumerate(items_Rk)
    ]
