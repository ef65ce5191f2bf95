"""What a stream has shown of an item, or of a campaign, before: its record, by which new ones are told from old."""

# N impressions of a stream, n some of them.

import numpy as np
import numpy.typing as npt

from ranker.arrays import F32, F64, I64, U64

NEW = 100
"""Impressions, in the stream before, with which an item is new no more."""


def records(key_N: U64, request_N: I64, click_N: F32) -> tuple[I64, I64]:
    """Impressions and clicks [N] of the same key on earlier pages; request_N: ascending."""
    order = np.argsort(key_N, kind="stable")
    key, request, place = key_N[order], request_N[order], np.arange(len(order))
    other_key = np.r_[True, key[1:] != key[:-1]]
    other_page = other_key | np.r_[True, request[1:] != request[:-1]]
    key_start = np.maximum.accumulate(np.where(other_key, place, 0))
    page_start = np.maximum.accumulate(np.where(other_page, place, 0))
    clicks = np.r_[0, np.cumsum(click_N[order].astype(np.int64))]
    shown_N, clicked_N = np.empty_like(place), np.empty_like(place)
    shown_N[order] = page_start - key_start
    clicked_N[order] = clicks[page_start] - clicks[key_start]
    return shown_N, clicked_N


def is_new(key_N: U64, request_N: I64) -> npt.NDArray[np.bool_]:
    """[N]: whether fewer than NEW impressions of the item came before."""
    shown_N, _ = records(key_N, request_N, np.zeros(len(key_N), np.float32))
    new: npt.NDArray[np.bool_] = shown_N < NEW
    return new


def rates(shown: npt.NDArray[np.integer], clicked: npt.NDArray[np.integer]) -> list[F64]:
    """What an engineer takes of counts: the logarithms of the smoothed click rate and of the impressions."""
    return [np.log((clicked + 1) / (shown + 10)), np.log1p(shown)]
