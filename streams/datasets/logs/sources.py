"""Logs by name: the Open Bandit Dataset (small) and MovieLens-100K from their packages, or a file.

The packages' files are known to the byte (fetch checks a digest), so csv reads them; all others go to the one reader.
"""

import csv
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from streams.datasets.logs.columns import load_mapping
from streams.datasets.logs.fetch import OBP, RECBOLE, data_file
from streams.datasets.logs.files import file_log
from streams.datasets.logs.model import log_model
from streams.datasets.logs.traffic import FeatureMap, LoggedImpression, TrafficLog

POLICIES = ("random", "bts")
CAMPAIGNS = ("all", "men", "women")
CLICK_FROM_RATING = 4


def open_log(name: str, mapping: Path | None = None) -> TrafficLog:
    """`obd`, `obd/POLICY/CAMPAIGN`, `ml-100k`, or the path or URL of a .csv or .parquet file with its mapping.

    Raises ValueError or StartError where there is no such log, and fetch.Unavailable where it cannot be fetched.
    """
    first, *rest = name.split("/")
    known = name == "ml-100k" or (first == "obd" and len(rest) in (0, 2))
    if known and mapping is not None:
        raise ValueError(f"{name} has its own columns: leave --map out (a file is given by a path, as ./{name}.csv)")
    if first == "obd" and known:
        return open_bandit(*rest)
    if name == "ml-100k":
        return movielens()
    if mapping is None:
        raise ValueError(f"a log is obd, obd/POLICY/CAMPAIGN, ml-100k or a file with --map FILE.toml, got {name!r}")
    return file_log(name, load_mapping(mapping), mapping.stem)


def open_bandit(policy: str = "random", campaign: str = "all") -> TrafficLog:
    """10,000 real impressions of a fashion shop, of one logging policy and campaign (Saito et al. 2020)."""
    if policy not in POLICIES or campaign not in CAMPAIGNS:
        raise ValueError(f"obd has policies {POLICIES} and campaigns {CAMPAIGNS}, got {policy!r}, {campaign!r}")
    folder = f"obp/dataset/obd/{policy}/{campaign}"
    users = [f"user_feature_{i}" for i in range(4)]
    items = [f"item_feature_{i}" for i in range(4)]

    def read() -> Iterator[LoggedImpression]:
        catalog: dict[str, FeatureMap] = {}
        with data_file(OBP, f"{folder}/item_context.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                catalog[row["item_id"]] = {items[0]: float(row[items[0]])} | {f: row[f] for f in items[1:]}
        with data_file(OBP, f"{folder}/{campaign}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                yield LoggedImpression(
                    user="-".join(row[f][:8] for f in users),
                    item=row["item_id"],
                    event_ms=round(datetime.fromisoformat(row["timestamp"]).timestamp() * 1000),
                    clicked=row["click"] == "1",
                    position=int(row["position"]) - 1,
                    user_features={f: row[f] for f in users},
                    item_features=catalog[row["item_id"]],
                )

    return TrafficLog(
        name=f"obd/{policy}/{campaign}",
        read=read,
        model=log_model("obd", user=users, item=items, numeric=items[:1], rows=2_000),
        click_window_ms=600_000,
        candidates=10,
        begins_ms=1_546_300_800_000,  # 2019, of a log of November 2019
        notes="The log names no users: those with the same four features are one user here.",
    )


def movielens() -> TrafficLog:
    """100,000 ratings of films (Harper & Konstan 2015); one of 4 or 5 counts as a click, a lower one as none."""
    folder = "recbole/dataset_example/ml-100k"

    def read() -> Iterator[LoggedImpression]:
        films: dict[str, FeatureMap] = {}
        for row in _atomic(data_file(RECBOLE, f"{folder}/ml-100k.item")):
            films[row["item_id"]] = {"release_year": row["release_year"], "genre": row["class"].split()}
        people: dict[str, FeatureMap] = {}
        for row in _atomic(data_file(RECBOLE, f"{folder}/ml-100k.user")):
            people[row["user_id"]] = {
                "age": f"{int(row['age']) // 10}0s",
                "gender": row["gender"],
                "occupation": row["occupation"],
            }
        ratings = list(_atomic(data_file(RECBOLE, f"{folder}/ml-100k.inter")))
        for row in sorted(ratings, key=lambda row: int(row["timestamp"])):
            yield LoggedImpression(
                user=row["user_id"],
                item=row["item_id"],
                event_ms=int(row["timestamp"]) * 1000,
                clicked=float(row["rating"]) >= CLICK_FROM_RATING,
                user_features=people[row["user_id"]],
                item_features=films[row["item_id"]],
            )

    return TrafficLog(
        name="ml-100k",
        read=read,
        model=log_model("ml-100k", user=("age", "gender", "occupation"), item=("release_year", "genre"), rows=4_000),
        click_window_ms=2_000,  # a rating is there at once: nothing is gained by waiting for another
        candidates=20,
        begins_ms=852_076_800_000,  # 1997, of a log from September 1997 on
        notes=f"A rating of {CLICK_FROM_RATING} or more counts as a click; people rated what they chose to.",
    )


def _atomic(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a tab-separated file whose header names each column with its type: `age:token`."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = [column.split(":")[0] for column in next(rows)]
        for row in rows:
            yield dict(zip(names, row, strict=True))
