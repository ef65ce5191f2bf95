"""What happens to a page of ads: impressions, clicks, purchases, and when each is heard of. Knows no Kafka.

Every draw is a hash of seed and ids, so the same page shown again has the same fate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from statistics import NormalDist

import numpy as np
import xxhash

from ranker.arrays import F64, I64
from streams.simulate.traffic import Visit
from streams.simulate.world import World
from streams.wire.messages import Conversion, Impression

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Event:
    """A message and the time, in ms since the epoch, at which it is sent: at least its event time."""

    send_ms: int
    message: Impression | Conversion
    repeated: bool = False
    """Sent once before, under the same event id."""
    overtaken: bool = False
    """Held back, so that later events are sent before it."""


def uniform(seed: int, draw: str, name: str) -> float:
    """The draw of this name: uniform in (0, 1), the same for the same arguments."""
    return (xxhash.xxh3_64_intdigest(f"{seed}:{draw}:{name}".encode()) + 0.5) / 2**64


@dataclass(frozen=True, slots=True)
class Page:
    """The places of a response that are shown, with what is true of them."""

    request_id: str
    response_id: str
    visit: Visit
    items: I64
    """[places]; item numbers of the world, the top first."""
    click: F64
    """[places]: true probability of a click."""
    shown_ms: int


def explored(world: World, request_id: str) -> bool:
    """Whether the page of this request is drawn from all that is returned."""
    return uniform(world.seed, "explored", request_id) < world.config.explored


def show(world: World, visit: Visit, request_id: str, response_id: str, items: I64, now_ms: int) -> Page:
    """The page of a response whose items are, best first, `items`: as many as the world has places."""
    if explored(world, request_id):
        items = items[np.argsort([uniform(world.seed, "place", f"{request_id}.{item}") for item in items.tolist()])]
    items = items[: world.config.shown]
    click = world.click_probability(
        visit.user, items, np.arange(len(items)), now_ms, surface=visit.surface, device=visit.device
    )
    return Page(request_id, response_id, visit, items, click, now_ms)


def search_event(world: World, visit: Visit, request_id: str, now_ms: int) -> Conversion | None:
    """The search that led to this visit; None where there was none."""
    if visit.search is None:
        return None
    user = world.user_ids[visit.user]
    return Conversion(
        event_id=f"{request_id}.s", user=user, kind="search", event_ms=now_ms, item=visit.search, surface=visit.surface
    )


def events(world: World, page: Page, poisoned: float = 0.0) -> list[Event]:
    """All that this page will bring, in event time; each sent when it happens, late, or twice.

    poisoned: share of the places whose click is a lie: there where there was none, missing where there was one.
    """
    buys = world.conversion_probability(page.visit.user, page.items)
    happened: list[Impression | Conversion] = []
    for position in range(len(page.items)):
        happened += _place(world, page, position, float(buys[position]), poisoned)
    return [event for message in happened for event in _sendings(world, message)]


def _place(world: World, page: Page, position: int, buys: float, poisoned: float) -> Iterator[Impression | Conversion]:
    c, seed = world.config, world.seed
    name = f"{page.request_id}.{position}"
    user, item = world.user_ids[page.visit.user], world.item_ids[page.items[position]]
    surface = page.visit.surface
    shown = Impression(
        event_id=f"{name}.i",
        user=user,
        response_id=page.response_id,
        item=item,
        position=position,
        event_ms=page.shown_ms,
        surface=surface,
    )
    yield shown
    clicked = uniform(seed, "click", name) < page.click[position]
    if clicked == (uniform(seed, "poison", name) < poisoned):
        return
    click_ms = page.shown_ms + _exponential_ms(c.click_delay_s, uniform(seed, "click delay", name))
    action = {"user": user, "item": item, "impression_id": shown.event_id, "surface": surface}
    yield Conversion(event_id=f"{name}.c", kind="click", event_ms=click_ms, **action)
    if uniform(seed, "purchase", name) >= buys:
        return
    value = world.item_price[page.items[position]] * np.exp(
        c.value_spread * np.sqrt(3) / 2 * _NORMAL.inv_cdf(uniform(seed, "value", name))
    )
    bought_ms = click_ms + _exponential_ms(c.conversion_delay_s, uniform(seed, "purchase delay", name))
    yield Conversion(
        event_id=f"{name}.p", kind="purchase", event_ms=bought_ms, value=round(float(min(value, 1e6)), 2), **action
    )


def _sendings(world: World, message: Impression | Conversion) -> Sequence[Event]:
    c, seed, name = world.config, world.seed, message.event_id
    held = uniform(seed, "reorder", name) < c.reorder_share
    wait_ms = int(1000 * c.reorder_s * uniform(seed, "reorder time", name)) if held else 0
    first = Event(message.event_ms + wait_ms, message, overtaken=held)
    if uniform(seed, "duplicate", name) >= c.duplicate_share:
        return (first,)
    wait_ms = int(1000 * c.reorder_s * uniform(seed, "duplicate time", name))
    return (first, Event(first.send_ms + wait_ms, message, repeated=True))


def _exponential_ms(mean_s: float, draw: float) -> int:
    return int(-1000 * mean_s * log(draw))
