"""Past pages: what the logs themselves say was shown and clicked, as examples for what reads counts alone.

A log holds impressions from before the model began to learn, each with all that came before it: hundreds of examples
in every response, whose own page is one more. Of each log some moments are drawn; what was shown in such a second is a
page, labelled by whether the log has a click on the item after it, before it was shown again. Of the context of a past
page only the hour is known, and no numbers: so only crosses of users' and items' slots and the hour are made, and only
items of which the catalogue knows all are taken. Impressions from after the model began are left out: they are examples
of their own, and learned a second time they are learned by heart (docs/decisions.md).
"""

# B requests, E log events over all of them, M impressions of past pages, P pages, X events before them, over all pages.

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranker.arrays import F32, I64, U64
from ranker.inputs.evidence import CLICKED, SHOWN, kinds

SETTLED_S = 60.0
"""Seconds that a click may come late by; younger impressions are no examples yet."""


def least_ages(event_ms_B: I64, began_ms: int) -> F32:
    """[B]: the age, as log1p of seconds, beyond which an impression in the log of a request may be an example.

    began_ms: event time of the first response that the model learned from.
    """
    return np.log1p(np.maximum((event_ms_B - began_ms) / 1000, SETTLED_S)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PastPages:
    """Impressions [M] by page, and the events that each page's user had in the log by then."""

    event_M: I64
    """Place of each among the log events."""
    page_of_M: I64
    request_of_P: I64
    click_M: F32
    before_X: I64
    """Places of the events before each page, oldest first."""
    page_of_X: I64
    age_X: F32
    """log1p of seconds between the event and the page."""


def past_pages(
    action_E: I64,
    age_E: F32,
    item_E: U64,
    known_E: npt.NDArray[np.bool_],
    lengths_B: I64,
    least_age_B: F32,
    draws_BP: U64,
    log_length: int,
) -> PastPages:
    """Draws pages, one for each number of `draws_BP`, of each log; a page that is drawn twice is taken once.

    Args:
        age_E: log1p of seconds between event and request; events lie back to back, oldest first.
        item_E: a key of each event's item.
        known_E: whether the item may be an example.
        least_age_B: age that an impression must be beyond.
        log_length: most events before a page that count.
    """
    kind_E = kinds(action_E)
    ends_B = np.cumsum(lengths_B)
    parts: list[tuple[I64, I64, int, int]] = []
    for request, (end, length) in enumerate(zip(ends_B.tolist(), lengths_B.tolist(), strict=True)):
        start = end - length
        old = age_E[start:end] > least_age_B[request]
        shown = start + np.flatnonzero((kind_E[start:end] == SHOWN) & known_E[start:end] & old)
        if not len(shown):
            continue
        drawn = shown[(draws_BP[request] % np.uint64(len(shown))).astype(np.int64)]
        for age in np.unique(age_E[drawn]):
            page = shown[age_E[shown] == age]
            first = int(page[0])
            parts.append((page, np.arange(max(start, first - log_length), first), request, first))
    if not parts:
        nothing = np.empty(0, np.int64)
        return PastPages(nothing, nothing, nothing, np.empty(0, np.float32), nothing, nothing, np.empty(0, np.float32))
    event_M = np.concatenate([page for page, *_ in parts])
    before_X = np.concatenate([before for _, before, *_ in parts])
    page_of_X = np.repeat(np.arange(len(parts)), [len(before) for _, before, *_ in parts])
    then_P = np.expm1(age_E[[first for *_, first in parts]].astype(np.float64))
    age_s_X = np.expm1(age_E[before_X].astype(np.float64)) - then_P[page_of_X]
    return PastPages(
        event_M=event_M,
        page_of_M=np.repeat(np.arange(len(parts)), [len(page) for page, *_ in parts]),
        request_of_P=np.array([request for *_, request, _ in parts]),
        click_M=clicked(kind_E, item_E, np.repeat(np.arange(len(lengths_B)), lengths_B))[event_M],
        before_X=before_X,
        page_of_X=page_of_X,
        age_X=np.log1p(np.maximum(age_s_X, 0)).astype(np.float32),
    )


def clicked(kind_E: I64, item_E: U64, request_E: I64) -> F32:
    """[E]: 1 for an impression whose item's next event in the log is a click."""
    (of_kind,) = np.nonzero((kind_E == SHOWN) | (kind_E == CLICKED))
    order = of_kind[np.lexsort((of_kind, item_E[of_kind], request_E[of_kind]))]
    same = (item_E[order][1:] == item_E[order][:-1]) & (request_E[order][1:] == request_E[order][:-1])
    found = np.zeros(len(kind_E), np.float32)
    found[order[:-1][same & (kind_E[order][1:] == CLICKED)]] = 1
    return found
