"""What a model is made of: slots, tables, tiers. Its digest names it on the wire.

A changed configuration is another model: it is trained beside the old one and switched to, never mixed with it.
"""

import difflib
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Final, Literal

Side = Literal["user", "context", "candidate"]
Kind = Literal["categorical", "numeric"]

USER = "user"
ITEM = "item"
HOUR = "hour"
SURFACE = "surface"
LOG = "log"
"""The slot of the log's items. It has the keys of the candidates' slot `item`, and so its rows."""
ANY = "*"
"""Among the slots of evidence: all events of the log, whatever their item."""
CROSSES = "crosses"
"""The slot of the candidates' crosses, and the table of their weights."""
STATISTICS = "statistics"
"""The slot of the candidates' statistics, and the table of their counts."""

ARCHITECTURE = 6
"""Version of what ranker/model makes of a configuration: raised where its parameters get other names or shapes, or the
same ones come to mean something else. Weights of another version are another model's."""

STATISTIC_COLUMNS = 6
"""Floats of a row of statistics (ranker/inputs/statistics.py)."""

_RESERVED: Final[Mapping[str, str]] = MappingProxyType(
    {
        LOG: "the slot of the log's items",
        CROSSES: "the slot and the table of crosses",
        STATISTICS: "the slot and the table of statistics",
    }
)
"""Names that no configured slot or table may have, and what has them."""

Sizes = Mapping[str, tuple[int, int]]
"""Field → the least and the most that it may be. The most is far beyond use: it stops what a slip of the keyboard would
allocate. What a machine's memory holds is ranker/inputs/memory.py's."""

TABLE_SIZES: Final[Sizes] = MappingProxyType({"rows": (0, 2**34), "tail_rows": (1, 2**34)})
TIER_SIZES: Final[Sizes] = MappingProxyType(
    {
        "layers": (1, 256),
        "width": (0, 4_096),
        "log_length": (0, 16_384),
        "read_length": (0, 16_384),
        "encoder_layers": (0, 256),
        "user_tokens": (2, 4_096),
        "fm_tokens": (1, 4_096),
        "compressed_tokens": (1, 4_096),
        "fm_rank": (1, 4_096),
        "hidden": (1, 2**17),
        "heads": (1, 4_096),
    }
)
MODEL_SIZES: Final[Sizes] = MappingProxyType(
    {"width": (1, 4_096), "max_position": (1, 10_000), "cross_rows": (1, 2**34), "statistic_rows": (1, 2**34)}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One input of the model.

    `user` and `item` are the ids themselves; `surface` and `hour` (of the request's event time, UTC) are of the
    context without being sent; any other name is read from the features of its side.
    """

    name: str
    side: Side
    kind: Kind = "categorical"
    table: str = "shared"
    """Unused by numeric slots."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig:
    name: str
    rows: int = 20_000
    """Rows with a key of their own; the least recently used gives way when all are taken. 0: all share the tail."""
    tail_rows: int = 1_024
    """Rows shared by hash: what a key that has no row (in serving: was never learned) reads."""
    idle_steps: int | None = None
    """A key that no step used for longer loses its row, a few at a time. None: only when another key needs it."""

    def __post_init__(self) -> None:
        _check_sizes(f"table {self.name!r}", self, TABLE_SIZES)
        if self.idle_steps is not None and self.idle_steps < 1:
            raise ValueError(f"table {self.name!r}: idle_steps must be >= 1, or None, got {self.idle_steps}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """An MLP of a tier that was built, and then cut down to the hidden units that earn their place."""

    mlp: str
    """Its path among the tier's modules."""
    hidden: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TierConfig:
    name: str
    form: Literal["two_stack", "exact"] = "two_stack"
    """two_stack: the request's tokens keep a stack of their own, and the candidates' rows cross it at every layer.
    exact: one stack over the tokens of both, of which what does not depend on the candidate is computed once."""
    layers: int = 1
    """Wukong layers (of each stack)."""
    width: int = 0
    """Width of the tier's tokens; 0: as wide as the embeddings."""
    log_length: int = 64
    """Newest events of the log that evidence counts; 0: no log at all."""
    read_length: int = 0
    """Newest of those events that attention reads too, as states behind the encoder; 0: the log is counted alone."""
    encoder: Literal["softmax", "gated"] = "softmax"
    encoder_layers: int = 1
    user_tokens: int = 8
    """Width of the user stack: tokens after each of its layers. Its cost is divided by the candidates."""
    fm_tokens: int = 4
    """Tokens that a layer's factorization machine block puts out."""
    compressed_tokens: int = 4
    """Tokens that a layer's linear compression block puts out."""
    fm_rank: int = 8
    """Width of Y in X·XᵀY."""
    attentive: bool = False
    """Y follows from the tokens, rather than being the same for all."""
    hidden: int = 64
    """Hidden units of each of the blocks' MLPs and of the heads."""
    heads: int = 2
    """Attention heads, of the encoder and of the queries over its states. Divides the tier's width."""
    dropout: float = 0.0
    """Share zeroed in training: of the input tokens, inside the blocks' MLPs and in the heads."""
    distilled: bool = False
    """Learns from the heaviest tier's scores as well, by an auxiliary head that serves nothing."""
    pruned: tuple[Pruned, ...] = ()

    def __post_init__(self) -> None:
        _check_sizes(f"tier {self.name!r}", self, TIER_SIZES)
        if self.read_length > self.log_length:
            raise ValueError(
                f"tier {self.name!r}: read_length must be at most log_length, {self.log_length}, got {self.read_length}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"tier {self.name!r}: dropout must be in [0, 1), got {self.dropout}")
        for pruned in self.pruned:
            if pruned.hidden < 1:
                raise ValueError(f"tier {self.name!r}: {pruned.mlp!r} must keep hidden >= 1, got {pruned.hidden}")
        paths = [pruned.mlp for pruned in self.pruned]
        if len(set(paths)) != len(paths):
            raise ValueError(f"tier {self.name!r}: each MLP is pruned once, got {paths}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    name: str
    slots: tuple[Slot, ...]
    """What a category is in a request may be a list: all its values count in embeddings, which are their mean, and the
    first alone in crosses, evidence and statistics. Where a recipe has slots of its own and names no evidence, crosses
    or statistics, those of its base stay that still fit its slots: `tiderank recipe show` says which do not."""
    tables: tuple[TableConfig, ...]
    tiers: tuple[TierConfig, ...]
    """Cheapest first."""
    width: int = 16
    """Width of an embedding, and of every token of the tiers that do not say otherwise."""
    max_position: int = 32
    seed: int = 0
    """Seed of the initial weights."""
    click_prior: float = 0.05
    """Probability of a click before anything is learned."""
    conversion_prior: float = 0.1
    """Probability of a conversion after a click, before anything is learned."""
    learns_late: bool = False
    """Every tier learns which conversions come late, by an auxiliary head that serves nothing: for policies for delayed
    conversions that need to know."""
    evidence: tuple[str, ...] = ()
    """Categorical slots of candidates for which the log is counted (ranker/inputs/evidence.py); may include `item`, and
    `*`, which counts every event. Needs a slot `item`. Of a list of values the first counts."""
    item_table: str = field(default="items")
    """Table of the slot `item`, and of the items of the log. Must have rows of its own where evidence names more than
    `item` and `*`."""
    crosses: tuple[tuple[str, ...], ...] = ()
    """Slots that say something together, as "segment and theme" do: each tier's logits get a weight for every
    combination of their values (ranker/model/wide.py). A cross of one slot is a weight of its own for each value. Of a
    list of values the first counts."""
    cross_rows: int = 2**16
    """Rows of the table of those weights, which all combinations share by hash."""
    statistics: tuple[tuple[str, ...], ...] = ()
    """Slots, or crosses of slots, whose impressions, clicks and conversions are counted over all users
    (ranker/inputs/statistics.py). Of a list of values the first counts. `ranking.thompson_clicks` needs `["item"]`
    among them."""
    statistic_rows: int = 2**16
    """Rows of the table of those counts, which all values share by hash."""

    def __post_init__(self) -> None:
        self._check_names()
        _check_sizes(f"model {self.name!r}", self, MODEL_SIZES)
        self._check_tables()
        for tier in self.tiers:
            if (tier.width or self.width) % tier.heads:
                raise ValueError(
                    f"tier {tier.name!r}: heads={tier.heads} must divide its width, {tier.width or self.width}"
                )
        self._check_evidence()
        self._check_crosses("a cross", self.crosses)
        self._check_crosses("a statistic", self.statistics)
        for prior in (self.click_prior, self.conversion_prior):
            if not 0 < prior < 1:
                raise ValueError(f"priors are probabilities in (0, 1), got {prior}")

    def _check_names(self) -> None:
        slots, tables = [slot.name for slot in self.slots], [table.name for table in self.tables]
        tiers = [tier.name for tier in self.tiers]
        if len(set(slots)) != len(slots):
            raise ValueError(f"slot names must be unique, got {slots}")
        for what, given in (("tier", tiers), ("table", tables)):
            if len(set(given)) != len(given) or "" in given:
                raise ValueError(f"{what} names must be unique and not empty, got {given}")
        if any("/" in name for name in tiers):
            raise ValueError(f"tier names must be without '/', which ends them in names of parameters, got {tiers}")
        for what, given in (("slot", slots), ("tier", tiers)):
            if not given:
                raise ValueError(f"a model needs at least one {what}")
        if ANY in slots:
            raise ValueError(f"{ANY!r} stands for all events of a log: no slot may be called so")
        reads_log = self.max_log_length > 0 or bool(self.evidence)  # a plain table may have a column of this name
        for name, whose in _RESERVED.items():
            if name in {*slots, *tables} and (name != LOG or reads_log):
                raise ValueError(f"{name!r} is {whose}: call the configured one otherwise")

    def _check_tables(self) -> None:
        rows = {table.name: table.rows for table in self.tables}
        missing = {s.table for s in self.slots if s.kind == "categorical"} - rows.keys()
        if missing or self.item_table not in rows:
            raise ValueError(
                f"slots name tables {missing or self.item_table} that are not configured; have {set(rows)}"
            )
        for slot in self.side("candidate", "categorical"):
            if slot.name == ITEM and slot.table != self.item_table and (self.max_log_length or self.evidence):
                raise ValueError(
                    f"slot {ITEM!r} must be of the item table, {self.item_table!r}, for the items of the log share its "
                    f"rows; got table {slot.table!r}: give the slot table = {self.item_table!r}, or set item_table"
                )
        if self.catalogued and not rows[self.item_table]:
            raise ValueError(
                f"evidence of {list(self.catalogued)} needs an item table with rows > 0, for what an item is, is known "
                f"by its row; got {self.item_table!r} with rows = 0: give it rows, or count {ITEM!r} and {ANY!r} alone"
            )

    def _check_evidence(self) -> None:
        countable = {slot.name for slot in self.side("candidate", "categorical")}
        if wrong := [name for name in self.evidence if name not in countable | {ANY}]:
            raise ValueError(
                f"evidence is counted for categorical slots of candidates, {sorted(countable)}, and for {ANY!r}; "
                f"got {self._what_they_are(wrong, countable)}"
            )
        if len(set(self.evidence)) != len(self.evidence) or (self.evidence and ITEM not in countable):
            raise ValueError(f"evidence names each slot once, of a model with a slot {ITEM!r}; got {self.evidence}")

    def _check_crosses(self, what: str, crosses: tuple[tuple[str, ...], ...]) -> None:
        known = {slot.name for slot in self.slots if slot.kind == "categorical"}
        for cross in crosses:
            if not cross or len(set(cross)) != len(cross) or not known.issuperset(cross):
                wrong = [name for name in cross if name not in known]
                why = f": {self._what_they_are(wrong, known)}" if wrong else ""
                raise ValueError(
                    f"{what} names categorical slots, each once, of {sorted(known)}; got {list(cross)}{why}"
                )
        if len({frozenset(cross) for cross in crosses}) != len(crosses):
            given = ", ".join(str(list(cross)) for cross in crosses)
            raise ValueError(f"{what} is given once, whatever the order of its slots; got {given}")

    def _what_they_are(self, names: Sequence[str], wanted: Collection[str]) -> str:
        """Says of names that are not among those wanted what keeps them out."""
        slots = {slot.name: slot for slot in self.slots}
        said = []
        for name in names:
            near = difflib.get_close_matches(name, wanted, n=1)
            if name in slots:
                said.append(f"{name!r}, which is {slots[name].kind} and of the {slots[name].side}")
            else:
                said.append(f"{name!r}, which is no slot" + (f" (did you mean {near[0]!r}?)" if near else ""))
        return ", ".join(said)

    @property
    def digest(self) -> str:
        """16 hex digits of the configuration and the architecture, whatever order Python kept the fields in."""
        return _digest(self, ARCHITECTURE)

    def tier(self, name: str) -> TierConfig:
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise ValueError(f"no tier {name!r}; configured: {[t.name for t in self.tiers]}")

    @property
    def every_table(self) -> tuple[TableConfig, ...]:
        """The configured tables, and those of crosses and of statistics where there are any."""
        hashed = [TableConfig(name=name, rows=0, tail_rows=rows) for name, (rows, _) in self.hashed.items()]
        return (*self.tables, *hashed)

    def row_width(self, table: str) -> int:
        """Returns how many floats a row of the table has; of crosses: a weight for each of the two heads."""
        return self.hashed[table][1] if table in self.hashed else self.width

    @property
    def hashed(self) -> Mapping[str, tuple[int, int]]:
        """Rows and width, by name, of the tables that all keys share by hash; the slot of each has the same name."""
        crosses = {CROSSES: (self.cross_rows, 2)} if self.crosses else {}
        return crosses | ({STATISTICS: (self.statistic_rows, STATISTIC_COLUMNS)} if self.statistics else {})

    @property
    def catalogued(self) -> tuple[str, ...]:
        """Slots that the catalogue knows of each item."""
        return tuple(name for name in self.evidence if name not in (ITEM, ANY))

    @property
    def lasting_crosses(self) -> tuple[int, ...]:
        """Places of the crosses of a user and an item, whatever the moment: of users' slots and those of evidence."""
        return self._crosses_of(set())

    @property
    def past_crosses(self) -> tuple[int, ...]:
        """Places of the crosses that past pages have: the lasting ones, and those with the hour."""
        return self._crosses_of({HOUR} & {slot.name for slot in self.side("context", "categorical")})

    def _crosses_of(self, others: set[str]) -> tuple[int, ...]:
        known = {slot.name for slot in self.side("user", "categorical")} | set(self.evidence) | others
        return tuple(place for place, cross in enumerate(self.crosses) if known.issuperset(cross))

    def side(self, side: Side, kind: Kind) -> tuple[Slot, ...]:
        return tuple(s for s in self.slots if s.side == side and s.kind == kind)

    @property
    def max_log_length(self) -> int:
        return max(t.log_length for t in self.tiers)


def _check_sizes(owner: str, config: object, sizes: Sizes) -> None:
    for name, (least, most) in sizes.items():
        if not least <= (size := getattr(config, name)) <= most:
            raise ValueError(f"{owner}: {name} must be {least} to {most}, got {size}")


@cache
def _digest(config: ModelConfig, architecture: int) -> str:
    fields = asdict(config)
    if architecture > 1:  # models of before it had a version keep their digests
        fields["architecture"] = architecture
    if not config.learns_late:
        del fields["learns_late"]  # configurations of before it was there keep their digests
    if not config.evidence:
        del fields["evidence"]  # likewise
    if not config.crosses:
        del fields["crosses"], fields["cross_rows"]
    if not config.statistics:
        del fields["statistics"], fields["statistic_rows"]
    for tier in fields["tiers"]:
        if not tier["read_length"]:
            del tier["read_length"]
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
