"""Past pages: what the logs themselves say was shown and clicked, as examples for what reads counts alone.

A log holds impressions from before the model began to learn, each with all that came before it: hundreds of examples
in every response, whose own page is one more. Of each log some moments are drawn; what was shown in such a second is a
page, labelled by whether the log has a click on the item after it, before it was shown again. Of the context of a past
page only the hour is known, and no numbers: so only crosses of users' and items' slots and the hour are made, and only
items of which the catalogue knows all are taken. Impressions from after the model began are left out: they are examples
of their own, and learned a second time they are learned by heart (docs/decisions.md).
"""

# B requests, E log events over all of them, M impressions of past pages, P pages.

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranker.arrays import F32, I64, U64
from ranker.inputs.evidence import CLICKED, SHOWN, Moments, find, kinds

SETTLED_S = 60.0
"""Seconds that a click may come late by; younger impressions are no examples yet."""


def least_ages(event_ms_B: I64, began_ms: int) -> F32:
    """[B]: the age, as log1p of seconds, beyond which an impression in the log of a request may be an example.

    began_ms: event time of the first response that the model learned from.
    """
    return np.log1p(np.maximum((event_ms_B - began_ms) / 1000, SETTLED_S)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PastPages:
    """Impressions [M] by page, pages in the order of events."""

    event_M: I64
    """Place of each among the log events."""
    page_of_M: I64
    click_M: F32
    moments: Moments
    """When each page was shown: what came before it is what its user had in the log by then."""


def past_pages(
    action_E: I64,
    age_E: F32,
    item_E: U64,
    known_E: npt.NDArray[np.bool_],
    lengths_B: I64,
    least_age_B: F32,
    draws_BP: U64,
) -> PastPages:
    """Draws pages, one for each number of `draws_BP`, of each log; a page that is drawn twice is taken once.

    Args:
        age_E: log1p of seconds between event and request; events lie back to back, oldest first.
        item_E: a key of each event's item.
        known_E: whether the item may be an example.
        least_age_B: age that an impression must be beyond.
    """
    kind_E = kinds(action_E)
    request_E = np.repeat(np.arange(len(lengths_B)), lengths_B)
    shown_E = np.flatnonzero((kind_E == SHOWN) & known_E & (age_E > least_age_B[request_E]))
    request_S, age_S = request_E[shown_E], age_E[shown_E]
    begins_S = np.ones(len(shown_E), np.bool_)
    begins_S[1:] = (request_S[1:] != request_S[:-1]) | (age_S[1:] != age_S[:-1])
    page_S = np.cumsum(begins_S) - 1

    counts_B = np.bincount(request_S, minlength=len(lengths_B))
    (some_B,) = np.nonzero(counts_B)
    first_B = np.cumsum(counts_B) - counts_B
    drawn = first_B[some_B, None] + (draws_BP[some_B] % counts_B[some_B, None].astype(np.uint64)).astype(np.int64)
    taken = np.zeros(int(begins_S.sum()), np.bool_)
    taken[page_S[drawn]] = True
    event_M, begins_M = shown_E[taken[page_S]], begins_S[taken[page_S]]
    first_P = event_M[begins_M]
    return PastPages(
        event_M=event_M,
        page_of_M=np.cumsum(begins_M) - 1,
        click_M=clicked(kind_E, item_E, request_E, event_M),
        moments=Moments(request_E[first_P], first_P, np.expm1(age_E[first_P].astype(np.float64))),
    )


def clicked(kind_E: I64, item_E: U64, request_E: I64, event_M: I64) -> F32:
    """[M]: 1 for an impression whose item's next event in the log is a click."""
    # Of items that were shown on none of these pages nobody asks.
    asked_E = find(np.unique(item_E[event_M]), item_E) >= 0 if len(event_M) else np.zeros(len(item_E), np.bool_)
    (of_kind,) = np.nonzero(((kind_E == SHOWN) | (kind_E == CLICKED)) & asked_E)
    order = of_kind[np.lexsort((of_kind, item_E[of_kind], request_E[of_kind]))]
    same = (item_E[order][1:] == item_E[order][:-1]) & (request_E[order][1:] == request_E[order][:-1])
    found = np.zeros(len(kind_E), np.float32)
    found[order[:-1][same & (kind_E[order][1:] == CLICKED)]] = 1
    return found[event_M]
