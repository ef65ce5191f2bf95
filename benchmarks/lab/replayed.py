"""A stream of a real log: each impression a request of its own, with what its user did before."""

import numpy as np

from benchmarks.lab.simulated import CLICK, IMPRESSION
from benchmarks.lab.stream import Stream, encode
from ranker.config import ModelConfig
from ranker.inputs.hashing import hash64
from ranker.inputs.requests import LOG_DTYPE, ScoringRequest
from streams.datasets.logs.traffic import LoggedImpression, TrafficLog

_USER_BITS = 42  # of a sort key, below the user's number: milliseconds since 1970


def replayed(log: TrafficLog, model: ModelConfig, limit: int | None = None) -> Stream:
    """The first `limit` impressions; a clicked one is two events. Raises replay.fetch.Unavailable without the data."""
    rows = list(log.read())[:limit]
    users = {user: number for number, user in enumerate(dict.fromkeys(row.user for row in rows))}
    user_key = np.array([users[row.user] << _USER_BITS for row in rows], np.int64)
    at_ms = np.array([row.event_ms for row in rows], np.int64)
    clicked = np.array([row.clicked for row in rows])
    index = np.concatenate([np.arange(len(rows)), np.flatnonzero(clicked)])
    events = np.zeros(len(index), LOG_DTYPE)
    events["time_s"] = at_ms[index] // 1000
    events["item"] = np.array([hash64(row.item) for row in rows], np.uint64)[index]
    events["action"] = np.where(np.arange(len(index)) < len(rows), IMPRESSION, CLICK)
    keys = user_key[index] + at_ms[index]
    order = np.argsort(keys, kind="stable")
    return Stream(
        keyed=encode(model, [_request(row) for row in rows]),
        event_ms_R=at_ms,
        log_start_R=np.searchsorted(keys[order], user_key),
        log_end_R=np.searchsorted(keys[order], user_key + at_ms),
        events_E=events[order],
        position_N=np.array([row.position for row in rows], np.int64),
        click_N=clicked.astype(np.float32),
        conversion_N=np.full(len(rows), np.nan, np.float32),
        truth_N=np.full(len(rows), np.nan, np.float32),
    )


def _request(row: LoggedImpression) -> ScoringRequest:
    return ScoringRequest(
        user=row.user,
        event_ms=row.event_ms,
        items=[row.item],
        item_features=[row.item_features or {}],
        features=row.user_features or {},
        context=row.context or {},
    )
