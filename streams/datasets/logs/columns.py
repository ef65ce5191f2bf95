"""Which column of a file means what: a TOML file, checked against the columns that are there.

user = "visitor"            # column of the user's id
item = "product"            # column of the item's id
time = "ts"
time_unit = "s"             # s, ms, us, ns, or iso (2024-05-01T12:00:00+02:00); a column of timestamps needs none
earliest = 1990-01-01       # a time before it is refused, as of another unit
latest = 2100-01-01         # and so is one after it
label = "rating"
click_at_least = 4          # a label from here on is a click; where absent, labels are 0 and 1
position = "slot"           # optional; 0 is the top, 199 the last that there is
user_columns = ["age"]
item_columns = ["brand", "price"]
context_columns = ["device"]
numeric_columns = ["price"] # of those above; all others are categories
null_words = ["NULL", "-"]  # texts that mean no value, as empty text does; those of most tools where absent
encoding = "latin-1"        # of a CSV file; UTF-8, or UTF-16 by its mark, where absent
delimiter = ";"             # of a CSV file
sorted = true               # rows are in the order of time: the file is not read whole
"""

import tomllib
from collections.abc import Collection
from datetime import UTC, date, datetime, time
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import msgspec

from ranker.config import ANY, ModelConfig
from streams.datasets.logs.model import log_model
from streams.datasets.options import NULL_WORDS, TableOptions

TimeUnit = Literal["s", "ms", "us", "ns", "iso"]
PER_S = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
PLACES = 200
"""Candidates that a response returns at most, and so positions that an impression may have: MAX_RETURNED of the
messages (streams/wire/messages.py), which this room does not import."""


class Mapping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: str
    item: str
    time: str
    label: str
    time_unit: TimeUnit = "s"
    earliest: date = date(1990, 1, 1)
    """A time before it is not believed: it is more likely of another unit."""
    latest: date = date(2100, 1, 1)
    """Nor is one after it."""
    click_at_least: float | None = None
    position: str | None = None
    user_columns: tuple[str, ...] = ()
    item_columns: tuple[str, ...] = ()
    context_columns: tuple[str, ...] = ()
    numeric_columns: tuple[str, ...] = ()
    null_words: tuple[str, ...] = NULL_WORDS
    """Texts of the file that mean no value, as empty text always does."""
    encoding: str | None = None
    """Name of a CSV file's encoding; None: UTF-8, or UTF-16 where the file begins with its byte order mark."""
    delimiter: str = ","
    """Character between the cells of a CSV file."""
    sorted: bool = False
    click_window_s: float = 60.0
    """How long a shown item can be clicked, in event time."""
    candidates: int = 10

    def __post_init__(self) -> None:
        features = {*self.user_columns, *self.item_columns, *self.context_columns}
        if stray := set(self.numeric_columns) - features:
            raise ValueError(f"numeric_columns names {sorted(stray)}, which no user, item or context column does")
        if ANY in features:
            raise ValueError(
                f"a feature must not be called {ANY!r}, which stands for all events of a user's log; rename that "
                "column in the file, or leave it out of user_columns, item_columns and context_columns"
            )
        if not self.click_window_s > 0:
            raise ValueError(f"click_window_s must be > 0, got {self.click_window_s}")
        if not 1 <= self.candidates <= PLACES:
            raise ValueError(f"candidates must be in 1..{PLACES} (all of them are returned), got {self.candidates}")
        if not self.earliest < self.latest:
            raise ValueError(f"earliest must be before latest, got {self.earliest} and {self.latest}")
        _ = self.options  # which checks itself

    @property
    def options(self) -> TableOptions:
        """How the file is read."""
        return TableOptions(null_words=self.null_words, encoding=self.encoding, delimiter=self.delimiter)

    @property
    def begins_ms(self) -> int:
        """Milliseconds since the Unix epoch before which no event of the log lies."""
        return _ms(self.earliest)

    @property
    def ends_ms(self) -> int:
        return _ms(self.latest)

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


def load_mapping(path: Path) -> Mapping:
    """Raises ValueError naming the file and the field that is missing, unknown or wrong."""
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))
        _check_names(table)
        return msgspec.convert(table, Mapping)
    except ValueError as error:  # TOMLDecodeError and msgspec.ValidationError are ValueErrors
        raise ValueError(f"{path}: {error}") from error
    except OSError as error:
        raise ValueError(f"{path}: a column mapping could not be read: {error.strerror}") from error


def _check_names(table: dict[str, Any]) -> None:
    """Raises ValueError for a line that no mapping has, with those that one may have."""
    known = [field.name for field in msgspec.structs.fields(Mapping)]
    for name in table:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            meant = f" (did you mean `{close[0]}`?)" if close else ""
            raise ValueError(f"a mapping has no line `{name}`{meant}; it may have {', '.join(known)}")


def _ms(day: date) -> int:
    return round(datetime.combine(day, time(), UTC).timestamp() * 1000)
