"""The truth of a simulated world: who likes what, when, and what it brings. Knows numpy; nothing of Kafka.

    click logit = base + quality(item) + interest(user, topic) + trend(topic) + wear(campaign) + context
                  [+ passion(user, theme) + crosses + price taste - fatigue]      of a rich world, see riches.py
    P(click)    = P(looked at | position) · sigmoid(click logit)          position-based model, Richardson et al. 2007

Interest has a lasting and a drifting part; trend and wear drift; in some worlds items come and go. All of it is a pure
function of configuration, seed and time, so the probability of any pair can be asked at any time, and nothing depends
on what was asked before.
"""

import numpy as np
import numpy.typing as npt

from ranker.arrays import F64, I64
from streams.simulate.config import DEVICES, SEGMENTS, SURFACES, WorldConfig
from streams.simulate.drift import Drift
from streams.simulate.lives import Lives
from streams.simulate.riches import Riches

DAY_S = 86_400
_FLIGHTS = 64  # distinct bids of a campaign before they repeat


def sigmoid(x: F64) -> F64:
    value: F64 = 1 / (1 + np.exp(-x))
    return value


class World:
    """Users 0..users-1 and items 0..items-1; times are integer milliseconds since the Unix epoch."""

    def __init__(self, config: WorldConfig, *, seed: int, start_ms: int = 0, users: str = "u") -> None:
        """
        Args:
            start_ms: where the drifting paths begin; worlds of one seed differ only by that shift of time.
            users: what users' ids begin with.
        """
        self.config = config
        self.seed = seed
        self.start_ms = start_ms
        rng = np.random.default_rng([seed, 1])
        c = config
        self.topics = tuple(SEGMENTS[k] if k < len(SEGMENTS) else f"topic{k}" for k in range(c.topics))
        self.user_ids = [f"{users}{seed}-{i:05d}" for i in range(c.users)]
        self.item_ids = [f"ad{seed}-{i:05d}" for i in range(c.items)]
        # A campaign sells one topic, and an advertiser runs several campaigns: dealt out evenly, then shuffled.
        self.campaign_topic: I64 = rng.permutation(np.arange(c.campaigns) % c.topics)
        self.campaign_advertiser: I64 = rng.permutation(np.arange(c.campaigns) % c.advertisers)
        self.item_campaign: I64 = rng.permutation(np.arange(c.items) % c.campaigns)
        self.item_topic: I64 = self.campaign_topic[self.item_campaign]
        self.item_price: F64 = c.value_median * np.exp(c.value_spread / 2 * rng.standard_normal(c.items))

        self._quality = c.quality * rng.standard_normal(c.items)
        self._conversion = c.conversion_logit + c.conversion_spread * rng.standard_normal(c.items)
        # As many segments as topics: one that loves each, and what else it likes is its own.
        taste = rng.standard_normal((c.topics, c.topics)) + 1.5 * np.eye(c.topics)
        self.user_segment: I64 = rng.integers(0, c.topics, c.users)
        self._lasting = c.segment * taste[self.user_segment] + c.interest * rng.standard_normal((c.users, c.topics))
        self._passing = Drift((c.users, c.topics), tau_s=c.interest_tau_s, rng=rng)
        self._trend = Drift((c.topics,), tau_s=c.trend_tau_s, rng=rng)
        self._wear = Drift((c.campaigns,), tau_s=c.quality_tau_s, rng=rng)
        self._surface = c.context * rng.standard_normal(len(SURFACES))
        self._device = c.context * rng.standard_normal((len(DEVICES), c.topics))
        self._peak_hour = rng.uniform(0, 24, c.topics)

        self.riches = Riches(c, seed) if c.themes else None
        self.lives = Lives(c, seed) if c.life_s else None
        # Themes of a topic are its number, and every `topics` further on; dealt out to its items in turn.
        by_topic = np.argsort(np.argsort(self.item_topic, kind="stable"), kind="stable")
        self.item_theme: I64 = self.item_topic + c.topics * (by_topic % max(1, c.themes // c.topics))
        self._dearness: F64 = np.log(self.item_price / c.value_median) / max(c.value_spread / 2, 1e-9)

        # A few users make much of the traffic.
        activity = (np.arange(c.users) + 10.0) ** -0.7
        self.user_activity: F64 = rng.permutation(activity / activity.sum())

        self._bid: F64 = np.exp(c.bid_spread * rng.standard_normal((c.campaigns, _FLIGHTS)))
        self._period_s: F64 = c.flight_s / c.flight_share * rng.uniform(0.5, 1.5, c.campaigns)
        self._flight_phase: F64 = rng.uniform(0, _FLIGHTS, c.campaigns)

    def user_features(self, user: int) -> dict[str, str]:
        return {"segment": self.topics[self.user_segment[user]]}

    def item_features(self, item: int) -> dict[str, str | float]:
        campaign = int(self.item_campaign[item])
        features: dict[str, str | float] = {
            "category": self.topics[self.item_topic[item]],
            "campaign": f"c{campaign}",
            "advertiser": f"a{self.campaign_advertiser[campaign]}",
            "price": round(float(np.log(self.item_price[item])), 3),
        }
        if self.config.themes:
            features["theme"] = f"theme{self.item_theme[item]}"
        return features

    def interest(self, user: int, now_ms: int) -> F64:
        """[topics]: what this user likes now, in click logits."""
        c = self.config
        value: F64 = self._lasting[user] + c.interest_drift * self._passing.at(self._seconds(now_ms), user)
        return value

    def click_logit(
        self,
        user: int | I64,
        items: I64,
        now_ms: int | I64,
        *,
        surface: str | I64 = "feed",
        device: str | I64 = "phone",
        idle_s: F64 | None = None,
    ) -> F64:
        """[n] of items [n]: log-odds of a click, given that the ad is looked at.

        One user and moment for all, or [n] of each (surface and device then as places in SURFACES and DEVICES).
        idle_s: seconds since this user was last shown the item, inf if never; None: never, for all.
        """
        c = self.config
        at_surface = SURFACES.index(surface) if isinstance(surface, str) else surface
        on_device = DEVICES.index(device) if isinstance(device, str) else device
        seconds: float | F64 = (now_ms - self.start_ms) / 1000
        hour = now_ms / 1000 % DAY_S / 3600
        topic, campaign = self.item_topic[items], self.item_campaign[items]
        logit: F64 = (
            c.base_logit
            + self._quality[items]
            + self._lasting[user, topic]
            + self._surface[at_surface]
            + self._device[on_device, topic]
            + c.context * np.sqrt(2) * np.cos(2 * np.pi * (hour - self._peak_hour[topic]) / 24)
        )
        if c.interest_drift:
            logit += c.interest_drift * self._passing.at(seconds, (user, topic))
        if c.trend:
            logit += c.trend * self._trend.at(seconds, topic)
        if c.quality_drift:
            logit += c.quality_drift * self._wear.at(seconds, campaign)
        if self.riches is not None:
            segment, dearness = self.user_segment[user], self._dearness[items]
            logit += self.riches.logit(
                user, segment, topic, self.item_theme[items], at_surface, on_device, hour, dearness
            )
        if idle_s is not None:
            logit -= c.fatigue * np.exp(-idle_s / c.fatigue_tau_s)
        return logit

    def examination(self, positions: I64) -> F64:
        """Probability that a place is looked at; 1 at position 0."""
        value: F64 = (1 + positions.astype(np.float64)) ** -self.config.position_bias
        return value

    def click_probability(
        self,
        user: int | I64,
        items: I64,
        positions: I64,
        now_ms: int | I64,
        *,
        surface: str | I64 = "feed",
        device: str | I64 = "phone",
        idle_s: F64 | None = None,
    ) -> F64:
        """[n]: probability of a click on items[n] shown at positions[n] (0 is the top); the rest as click_logit."""
        logit = self.click_logit(user, items, now_ms, surface=surface, device=device, idle_s=idle_s)
        return self.examination(positions) * sigmoid(logit)

    def conversion_probability(self, user: int | I64, items: I64) -> F64:
        """[n]: probability that a click of this user on items[n] is followed by a purchase, however late."""
        return sigmoid(self._conversion[items] + 0.5 * self._lasting[user, self.item_topic[items]])

    def alive(self, now_ms: int) -> npt.NDArray[np.bool_]:
        """[items]: whether each is offered now, its campaign permitting."""
        return self.alive_of(np.arange(self.config.items), now_ms)

    def alive_of(self, items: I64, now_ms: int | I64) -> npt.NDArray[np.bool_]:
        """[n]: whether each of these items is offered at its moment, or all at one."""
        if self.lives is None:
            return np.ones(len(items), np.bool_)
        age_s = self.lives.age_s(items, (now_ms - self.start_ms) / 1000)
        alive: npt.NDArray[np.bool_] = age_s < self.lives.life_s[items]
        return alive

    def running(self, now_ms: int) -> npt.NDArray[np.bool_]:
        """[campaigns]: whether each runs now."""
        flight = self._flight(now_ms)
        value: npt.NDArray[np.bool_] = flight % 1 < self.config.flight_share
        return value

    def bids(self, now_ms: int) -> F64:
        """[campaigns]: the bid of the current flight, around 1."""
        flight = self._flight(now_ms).astype(np.int64) % _FLIGHTS
        return self._bid[np.arange(self.config.campaigns), flight]

    def correlation(self, lag_s: float, *, pairs: int = 4_000, moments: int = 16) -> float:
        """Returns the correlation of click logits with what they were lag_s seconds before, over sampled (user, item)
        pairs and moments.

        1: nothing has changed; the lower, the faster the world drifts. This is the drift rate that is reported.
        """
        rng = np.random.default_rng([self.seed, 2])
        then: list[F64] = []
        now: list[F64] = []
        for start in (self.start_ms + rng.integers(0, 3_600_000, moments)).tolist():
            for user in rng.integers(0, self.config.users, max(1, pairs // (20 * moments))).tolist():
                items = rng.integers(0, self.config.items, 20)
                then.append(self.click_logit(user, items, start))
                now.append(self.click_logit(user, items, start + round(lag_s * 1000)))
        return float(np.corrcoef(np.concatenate(then), np.concatenate(now))[0, 1])

    def _seconds(self, now_ms: int) -> float:
        return (now_ms - self.start_ms) / 1000

    def _flight(self, now_ms: int) -> F64:
        return self._seconds(now_ms) / self._period_s + self._flight_phase
