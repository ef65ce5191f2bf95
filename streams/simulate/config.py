"""What a simulated world is made of, and the named worlds."""

from dataclasses import dataclass, replace

SURFACES = ("feed", "search", "video", "stories")
DEVICES = ("phone", "tablet", "desktop")
SEGMENTS = ("value", "family", "sport", "tech", "style", "travel", "food", "home", "music", "games", "health", "auto")
"""Names of topics; worlds with more of them number the rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """Sizes, strengths and speeds. Strengths are standard deviations in click logits, so they can be compared."""

    users: int = 500
    items: int = 300
    topics: int = 8
    """Every item has one topic (its category); users are interested in all of them, more or less."""
    campaigns: int = 40
    advertisers: int = 15

    base_logit: float = -2.2
    """Click logit of an average item for an average user, if looked at."""
    quality: float = 0.3
    """Strength of items' own quality, which stays."""
    segment: float = 1.2
    """Strength of what all users of a segment like; their profiles name the segment."""
    interest: float = 0.4
    """Strength of a user's own lasting interest in the topics: only the user's log shows it."""
    interest_drift: float = 0.3
    """Strength of the part of that interest that changes."""
    interest_tau_s: float = 120.0
    """Seconds after which that part has forgotten itself to 1/e."""
    trend: float = 0.4
    """Strength of what is in fashion: topics rise and fall for all users alike."""
    trend_tau_s: float = 240.0
    quality_drift: float = 0.15
    """Strength of the wear of campaigns, which wear out and recover."""
    quality_tau_s: float = 120.0
    context: float = 0.2
    """Strength of each of these: device by topic, surface, and the hour of the day by topic."""

    themes: int = 0
    """Number of finer topics: an item has one of its topic's, and says so. 0: none, and no passions, crosses or price
    taste."""
    theme_interest: float = 0.0
    """Strength of a user's own passions: for few themes each, seldom met, so that only a long log shows which."""
    theme_share: float = 0.15
    """Share of the themes that a user has a passion for."""
    cross: float = 0.0
    """Strength of each of what no two features show alone: segment by topic by device, and topic by surface by quarter
    of the day."""
    price_taste: float = 0.0
    """Strength of each way in which liking changes with the price: a segment's for a topic, and a user's own."""
    fatigue: float = 0.0
    """Click logits that an ad loses for a user who was shown it this moment."""
    fatigue_tau_s: float = 3_600.0
    """Seconds after which that has faded to 1/e."""

    position_bias: float = 0.5
    """A place is looked at with probability (1 + position) ** -position_bias."""
    shown: int = 4
    """Places on a page: the best of the response that are shown. 0: nobody looks, so nothing is ever clicked."""

    explored: float = 0.1
    """Share of requests whose page is drawn from all that is returned, whatever its rank: a system that shows only what
    it believes in never learns what it is wrong about."""

    bid_spread: float = 1.0
    """Standard deviation of the logarithm of a bid. Wide bids show also what does not have the highest probability."""

    conversion_logit: float = -1.2
    """Logit of a conversion after a click."""
    conversion_spread: float = 0.7
    """Standard deviation of items' conversion logits."""
    conversion_delay_s: float = 5.0
    """Mean of the exponential delay between click and conversion."""
    click_delay_s: float = 0.7
    """Mean of the exponential delay between impression and click."""
    value_median: float = 20.0
    """Median value of a conversion; values are log-normal around the item's price."""
    value_spread: float = 1.0
    """Standard deviation of the logarithm of the value."""

    candidates_min: int = 20
    candidates_median: int = 100
    candidates_max: int = 1000
    """Candidates of a request: log-normal, cut to these bounds and to the ads that run."""
    candidates_spread: float = 0.5
    """Standard deviation of the logarithm of their number; 0: always the median."""

    sessions: int = 60
    """Users that are active at the same time."""
    session_requests: float = 8.0
    """Mean requests of a session."""
    search_share: float = 0.15
    """Share of requests that come after a search of the same user, which shows what interests them now."""

    flight_s: float = 120.0
    """Mean length of a campaign's flight: between two of them it pauses, and comes back with another bid."""
    flight_share: float = 0.8
    """Share of the time that a campaign runs."""

    life_s: float = 0.0
    """Mean time that an item is offered for: new ones keep arriving and old ones leave. 0: all items, always."""
    alive_share: float = 0.1
    """Share of the items that are offered at any time, of a world whose items come and go."""

    duplicate_share: float = 0.02
    """Share of events that are sent twice, under the same event id."""
    reorder_share: float = 0.02
    """Share of events that are sent late, so that later ones overtake them."""
    reorder_s: float = 2.0
    """How late, at most."""

    def __post_init__(self) -> None:
        for name in ("users", "items", "topics", "campaigns", "advertisers", "sessions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.themes and self.themes % self.topics:
            raise ValueError(f"themes must be a multiple of the {self.topics} topics, got {self.themes}")
        if self.shown < 0:
            raise ValueError(f"shown must be >= 0, got {self.shown}")
        if not self.items >= self.campaigns >= self.advertisers:
            raise ValueError(
                f"items >= campaigns >= advertisers must hold, got {self.items}, {self.campaigns}, {self.advertisers}"
            )
        if not 1 <= self.candidates_min <= self.candidates_median <= self.candidates_max <= 2000:
            raise ValueError(
                "1 <= candidates_min <= candidates_median <= candidates_max <= 2000 must hold, got "
                f"{self.candidates_min}, {self.candidates_median}, {self.candidates_max}"
            )
        for name in ("explored", "search_share", "duplicate_share", "reorder_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share and must be in [0, 1), got {getattr(self, name)}")
        for name in ("flight_share", "theme_share", "alive_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        for name in (
            "interest_tau_s",
            "trend_tau_s",
            "quality_tau_s",
            "flight_s",
            "conversion_delay_s",
            "click_delay_s",
            "fatigue_tau_s",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0 seconds, got {getattr(self, name)}")
        if self.life_s < 0:
            raise ValueError(f"life_s must be >= 0 seconds, got {self.life_s}")
        # Some campaigns pause, and lives differ: with fewer, a request could find too few.
        if self.life_s and self.items * self.alive_share < 4 * self.candidates_min:
            raise ValueError(
                "of items that come and go, items * alive_share must be >= 4 * candidates_min, got "
                f"{self.items} * {self.alive_share} and {self.candidates_min}"
            )
        if self.session_requests < 1:
            raise ValueError(f"session_requests must be >= 1, got {self.session_requests}")


def demo() -> WorldConfig:
    """Small and fast: what a model knew a minute ago is measurably out of date."""
    return WorldConfig()


def steady() -> WorldConfig:
    """The same world without drift: what was learned stays true."""
    return replace(demo(), interest_drift=0.0, trend=0.0, quality_drift=0.0)


def large() -> WorldConfig:
    """Thousands of ads and users, requests with up to 1000 candidates, a drift of hours: for load and for soak runs."""
    return WorldConfig(
        users=20_000,
        items=5_000,
        topics=24,
        campaigns=600,
        advertisers=120,
        candidates_median=300,
        sessions=1_000,
        interest_tau_s=14_400,
        trend_tau_s=3_600,
        quality_tau_s=14_400,
        flight_s=3_600,
        conversion_delay_s=120,
    )


def rich() -> WorldConfig:
    """What is worth a heavy tier: passions for themes that only a long log shows, of more users than ids can learn;
    crosses of three features; fatigue."""
    return replace(
        steady(),
        users=3_000,
        items=240,
        topics=8,
        campaigns=48,
        advertisers=12,
        base_logit=-1.2,
        position_bias=0.3,
        segment=0.7,
        themes=24,
        theme_interest=1.0,
        theme_share=0.2,
        cross=0.4,
        price_taste=0.2,
        fatigue=1.5,
        fatigue_tau_s=86_400.0,
    )


def catalogue() -> WorldConfig:
    """The rich world with ads that come and go, a hundred new ones a day, each of a quality that only its own record
    tells: what to do about new ads."""
    return replace(
        rich(),
        items=4_000,
        campaigns=200,
        advertisers=40,
        quality=0.6,
        life_s=345_600.0,
        alive_share=0.1,
    )


WORLDS = {"demo": demo, "steady": steady, "large": large, "rich": rich, "catalogue": catalogue}
