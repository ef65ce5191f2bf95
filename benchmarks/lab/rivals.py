"""What an engineer would do in an afternoon: a logistic regression and boosted trees (scikit-learn's) on counts."""

# N impressions of a stream, n graded ones, k of a request, E events, F numbers, C categories.

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.lab.records import rates, records
from benchmarks.lab.simulated import CLICK, IMPRESSION
from benchmarks.lab.stream import Stream
from ranker.arrays import F64
from ranker.config import CROSSES as CROSSED
from ranker.config import ITEM, LOG, STATISTICS, USER

COUNTED = (ITEM, "category", "theme")
CROSSES = [(a, b) for a in ("segment", "surface", "device", "hour") for b in ("category", "theme")]
RECORDED = (ITEM, "campaign")


def rivals(stream: Stream, length: int, half: int, *, recorded: bool) -> Mapping[str, F64]:
    """Predictions [n] of the second half, of models fitted to the first.

    length: events of the log that are counted. recorded: whether they know the records of item and campaign too.
    """
    owner_N = stream.keyed.request_of_N
    counted = [counts(stream, length)] if length else []
    recorded_too = [recorded_rates(stream)] if recorded else []
    columns = {
        name: slot.keys_T if len(slot.keys_T) == len(owner_N) else slot.keys_T[owner_N]
        for name, slot in stream.keyed.slots.items()
        if name not in (LOG, USER, CROSSED, STATISTICS)
    }
    crosses = [columns[of_request] * np.uint64(3) ^ columns[of_item] for of_request, of_item in CROSSES]
    keys = [*columns.values(), *crosses]
    codes_NC = np.stack([np.unique(key_N, return_inverse=True)[1] for key_N in keys] + [stream.position_N], axis=1)
    numbers_NF = np.concatenate([*counted, stream.keyed.dense_item_NF, *recorded_too], axis=1)
    click = stream.click_N[:half]
    scaled = StandardScaler().fit(numbers_NF[:half])
    ones = OneHotEncoder(handle_unknown="ignore").fit(codes_NC[:half])
    wide = hstack([csr_matrix(scaled.transform(numbers_NF)), ones.transform(codes_NC)]).tocsr()
    regression = LogisticRegression(C=0.03, max_iter=500).fit(wide[:half], click)
    deep_NF = np.concatenate([numbers_NF, codes_NC[:, : len(columns)], codes_NC[:, -1:]], axis=1)
    trees = HistGradientBoostingClassifier(learning_rate=0.05, max_iter=300, early_stopping=True, random_state=0)
    trees.fit(deep_NF[:half], click)
    return {
        "regression": regression.predict_proba(wide[half:])[:, 1],
        "trees": trees.predict_proba(deep_NF[half:])[:, 1],
    }


def recorded_rates(stream: Stream) -> F64:
    """[N, 2 a slot]: what all earlier pages of the stream say of the candidate's item and of its campaign."""
    found: list[F64] = []
    for slot in RECORDED:
        key_N = stream.keyed.slots[slot].keys_T
        found += rates(*records(key_N, stream.keyed.request_of_N, stream.click_N))
    return np.stack(found, axis=1)


def counts(stream: Stream, length: int) -> F64:
    """[N, 2 a slot]: how often the newest `length` events show, and click, what has the candidate's value."""
    value_of = {slot: _value_of_item(stream, slot) for slot in COUNTED}
    item_E, starts = stream.events_E["item"], stream.candidate_starts
    items, item_of_E = np.unique(item_E, return_inverse=True)
    found = np.zeros((len(stream.click_N), 2 * len(COUNTED)))
    known = {slot: np.array([value_of[slot].get(int(item), 0) for item in items], np.uint64) for slot in COUNTED}
    for r in range(stream.requests):
        end = int(stream.log_end_R[r])
        begin = max(int(stream.log_start_R[r]), end - length)
        action = stream.events_E["action"][begin:end]
        for s, slot in enumerate(COUNTED):
            value_E = known[slot][item_of_E[begin:end]]
            cut = slice(int(starts[r]), int(starts[r + 1]))
            same_kE = stream.keyed.slots[slot].keys_T[cut, None] == value_E
            shown_k = (same_kE & (action == IMPRESSION)).sum(axis=1)
            clicked_k = (same_kE & (action == CLICK)).sum(axis=1)
            found[cut, 2 * s], found[cut, 2 * s + 1] = rates(shown_k, clicked_k)
    return found


def _value_of_item(stream: Stream, slot: str) -> dict[int, int]:
    """Key of the slot by the item of an event: what the whole stream's candidates say."""
    key_of = dict(zip(stream.keyed.slots[ITEM].keys_T.tolist(), stream.keyed.slots[slot].keys_T.tolist(), strict=True))
    logged = np.unique(stream.events_E["item"])
    return {
        int(item): key_of[int(key)]
        for item, key in zip(logged, stream.item_keys(logged), strict=True)
        if int(key) in key_of
    }
