"""Which column of a file means what: a TOML file, checked against the columns that are there.

user = "visitor"            # column of the user's id
item = "product"            # column of the item's id
time = "ts"
time_unit = "s"             # s, ms, us, or iso (2024-05-01T12:00:00+02:00)
label = "rating"
click_at_least = 4          # a label from here on is a click; 1 where absent
position = "slot"           # optional; 0 is the top
user_columns = ["age"]
item_columns = ["brand", "price"]
context_columns = ["device"]
numeric_columns = ["price"] # of those above; all others are categories
sorted = true               # lines are in the order of time: the file is not read whole
"""

import tomllib
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from ranker.config import ModelConfig
from streams.replay.log import FeatureMap, LoggedImpression
from streams.replay.model import log_model

TimeUnit = Literal["s", "ms", "us", "iso"]
_PER_MS = {"s": 1000.0, "ms": 1.0, "us": 0.001}


class Mapping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: str
    item: str
    time: str
    label: str
    time_unit: TimeUnit = "s"
    click_at_least: float = 1.0
    position: str | None = None
    user_columns: tuple[str, ...] = ()
    item_columns: tuple[str, ...] = ()
    context_columns: tuple[str, ...] = ()
    numeric_columns: tuple[str, ...] = ()
    delimiter: str = ","
    """Of a CSV file."""
    sorted: bool = False
    click_window_s: float = 60.0
    """How long a shown item can be clicked, in event time."""
    candidates: int = 10

    def __post_init__(self) -> None:
        features = {*self.user_columns, *self.item_columns, *self.context_columns}
        if stray := set(self.numeric_columns) - features:
            raise ValueError(f"numeric_columns names {sorted(stray)}, which no user, item or context column does")
        if not self.click_window_s > 0:
            raise ValueError(f"click_window_s must be > 0, got {self.click_window_s}")
        if not 1 <= self.candidates <= 200:
            raise ValueError(f"candidates must be in 1..200 (all of them are returned), got {self.candidates}")

    @property
    def columns(self) -> tuple[str, ...]:
        """All that it needs of a file, each once."""
        named = [self.user, self.item, self.time, self.label, *([self.position] if self.position else [])]
        return tuple(dict.fromkeys([*named, *self.user_columns, *self.item_columns, *self.context_columns]))

    def check(self, present: Collection[str], where: str) -> None:
        """Raises ValueError naming the columns that are missing, and those that are there."""
        missing = [column for column in self.columns if column not in present]
        if missing:
            raise ValueError(f"{where} has no column {missing}; it has {list(present)}. Mend the mapping")

    def model(self, name: str) -> ModelConfig:
        return log_model(
            name,
            user=self.user_columns,
            item=self.item_columns,
            context=self.context_columns,
            numeric=self.numeric_columns,
        )

    def impression(self, row: dict[str, Any], where: str) -> LoggedImpression:
        """The logged impression of one line. Raises ValueError naming the column whose value cannot be read."""
        column = self.time
        try:
            event_ms = self._time_ms(row[self.time])
            column = self.label
            clicked = float(row[self.label]) >= self.click_at_least
            column = self.position or ""
            position = int(row[self.position]) if self.position else 0
            if position < 0:
                raise ValueError("a position must be >= 0")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: column {column!r} holds {row[column]!r}: {error}") from error
        return LoggedImpression(
            user=_name(row, self.user, where),
            item=_name(row, self.item, where),
            event_ms=event_ms,
            clicked=clicked,
            position=position,
            user_features=self._features(row, self.user_columns, where),
            item_features=self._features(row, self.item_columns, where),
            context=self._features(row, self.context_columns, where),
        )

    def _time_ms(self, value: Any) -> int:
        if self.time_unit == "iso":
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
        return round(float(value) * _PER_MS[self.time_unit])

    def _features(self, row: dict[str, Any], columns: tuple[str, ...], where: str) -> FeatureMap:
        """Empty cells are left out: the model has a place for what is missing."""
        features: FeatureMap = {}
        for column in columns:
            value = row[column]
            if value is None or value == "":
                continue
            if column in self.numeric_columns:
                try:
                    features[column] = float(value)
                except (ValueError, TypeError) as error:
                    raise ValueError(f"{where}: numeric column {column!r} holds {value!r}") from error
            else:
                features[column] = [str(v) for v in value] if isinstance(value, list) else str(value)
        return features


def load_mapping(path: Path) -> Mapping:
    """Raises ValueError naming the file and the field that is missing, unknown or wrong."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Mapping)
    except ValueError as error:  # TOMLDecodeError and msgspec.ValidationError are ValueErrors
        raise ValueError(f"{path}: {error}") from error
    except OSError as error:
        raise ValueError(f"{path}: a column mapping could not be read: {error.strerror}") from error


def _name(row: dict[str, Any], column: str, where: str) -> str:
    value = row[column]
    if value is None or value == "":
        raise ValueError(f"{where}: column {column!r} is empty; every line needs a user and an item")
    return str(value)
