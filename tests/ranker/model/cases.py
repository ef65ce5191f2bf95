"""A small model, batches of it, and an embedder of plain tables, for the tests of the tiers."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.config import CROSSES, LOG, ModelConfig, Slot, TableConfig, TierConfig
from ranker.inputs.batch import Batch, SlotValues
from ranker.inputs.evidence import COLUMNS
from ranker.inputs.tables import table_of_slots

LIGHT = TierConfig(name="light", read_length=64)
HEAVY = TierConfig(name="heavy", layers=3, encoder_layers=2, log_length=24, read_length=24, user_tokens=10, hidden=32)
EXACT = TierConfig(name="exact", form="exact", layers=2, log_length=24, read_length=24, hidden=32)
GATED = TierConfig(name="gated", encoder="gated", encoder_layers=2, log_length=24, read_length=24, width=8, hidden=32)
ATTENTIVE = TierConfig(name="attentive", attentive=True, log_length=24, read_length=24, hidden=32, distilled=True)
ATTENTIVE_EXACT = TierConfig(
    name="attentive exact", form="exact", attentive=True, layers=2, log_length=24, read_length=24
)
WITHOUT_LOG = TierConfig(name="without log", log_length=0, layers=2, hidden=32)
EXACT_WITHOUT_LOG = TierConfig(name="exact without log", form="exact", log_length=0, layers=2, hidden=32)
COUNTED = TierConfig(name="counted, not read", log_length=24, layers=2, hidden=32)
ALL = (LIGHT, HEAVY, EXACT, GATED, ATTENTIVE, ATTENTIVE_EXACT, COUNTED, WITHOUT_LOG, EXACT_WITHOUT_LOG)
WITH_LOG = tuple(tier for tier in ALL if tier.read_length)

MODEL = ModelConfig(
    name="tests",
    slots=(
        Slot(name="user", side="user"),
        Slot(name="interests", side="user"),
        Slot(name="age", side="user", kind="numeric"),
        Slot(name="surface", side="context"),
        Slot(name="load", side="context", kind="numeric"),
        Slot(name="item", side="candidate", table="items"),
        Slot(name="labels", side="candidate"),
        Slot(name="price", side="candidate", kind="numeric"),
    ),
    tables=(TableConfig(name="items"), TableConfig(name="shared")),
    tiers=(LIGHT, HEAVY),
    evidence=("item", "labels"),
    crosses=(("item",), ("interests", "labels"), ("surface", "labels")),
)
MULTIVALUED = {"interests", "labels"}
ROWS = 200


class PlainEmbedder(nn.Module):
    """The contract of Embedder on nn.Embedding tables."""

    def __init__(self, model: ModelConfig = MODEL, rows: int = ROWS) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.tables = nn.ModuleDict()
        for table in model.every_table:
            width = model.row_width(table.name)
            weight = torch.randn(rows, width, generator=generator) / width**0.5
            # Prefixed: a ModuleDict cannot hold a name like "items".
            self.tables["table_" + table.name] = nn.Embedding(rows, width, _weight=weight)
        self.table_of = {name: "table_" + table for name, table in table_of_slots(model).items()}

    def embed(self, slots: dict[str, SlotValues]) -> dict[str, Tensor]:
        return {name: self.tables[self.table_of[name]](values.rows_T) for name, values in slots.items()}

    def pool(self, values_TD: Tensor, lengths: Tensor) -> Tensor:
        owner_T = torch.repeat_interleave(torch.arange(lengths.shape[0]), lengths)
        sums = values_TD.new_zeros(lengths.shape[0], values_TD.shape[1]).index_add(0, owner_T, values_TD)
        return sums / lengths.clamp(min=1).unsqueeze(1)

    def pad(self, values_ED: Tensor, lengths_B: Tensor, length: int) -> Tensor:
        rows = [
            F.pad(v[:length], (0, 0, 0, length - min(length, len(v))))
            for v in torch.split(values_ED, lengths_B.tolist())
        ]
        return torch.stack(rows)


def make_batch(
    candidates: list[int], logs: list[int], *, seed: int = 0, model: ModelConfig = MODEL, rows: int = ROWS
) -> Batch:
    """A random batch: candidates and log events of each request."""
    generator = torch.Generator().manual_seed(seed)
    B, N, E = len(candidates), sum(candidates), sum(logs)

    def ints(high: int, count: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator)

    def floats(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    slots = {}
    for slot in model.slots:
        count = N if slot.side == "candidate" else B
        if slot.kind == "numeric":
            continue
        lengths = 1 + ints(3, count) if slot.name in MULTIVALUED else None
        slots[slot.name] = SlotValues(ints(rows, count if lengths is None else int(lengths.sum())), lengths)
    slots[LOG] = SlotValues(ints(rows, E), torch.tensor(logs))
    if model.crosses:
        slots[CROSSES] = SlotValues(ints(rows, N * len(model.crosses)), torch.full((N,), len(model.crosses)))
    user_features = sum(s.kind == "numeric" and s.side != "candidate" for s in model.slots)
    return Batch(
        request_of_N=torch.repeat_interleave(torch.arange(B), torch.tensor(candidates)),
        slots=slots,
        dense_user_BF=floats(B, user_features),
        dense_item_NF=floats(N, len(model.side("candidate", "numeric"))),
        log_action_E=ints(32, E),
        log_surface_E=ints(32, E),
        log_age_E=floats(E).abs() * 6,
        log_value_E=floats(E),
        longest=max(logs),
        evidence_NSC=(floats(N, len(model.evidence), COLUMNS).abs() * 3).round() if model.evidence else None,
    )


def take(batch: Batch, requests: list[int], candidates: list[int], *, model: ModelConfig = MODEL) -> Batch:
    """A batch of these requests, in this order, with these candidates, grouped by request in the order given."""
    side = {s.name: s.side for s in model.slots} | {CROSSES: "candidate"}
    new_of = {old: new for new, old in enumerate(requests)}
    owners = batch.request_of_N[candidates].tolist()
    assert [new_of[o] for o in owners] == sorted(new_of[o] for o in owners)

    def pick(values: SlotValues, index: list[int]) -> SlotValues:
        if values.lengths is None:
            return SlotValues(values.rows_T[index], None)
        parts = torch.split(values.rows_T, values.lengths.tolist())
        return SlotValues(torch.cat([parts[i] for i in index]), values.lengths[index])

    log_lengths = batch.slots[LOG].lengths
    assert log_lengths is not None
    events = torch.cat([torch.split(torch.arange(int(log_lengths.sum())), log_lengths.tolist())[r] for r in requests])
    slots = {
        name: pick(values, candidates if side.get(name) == "candidate" else requests)
        for name, values in batch.slots.items()
    }
    return replace(
        batch,
        request_of_N=torch.tensor([new_of[o] for o in owners]),
        slots=slots,
        dense_user_BF=batch.dense_user_BF[requests],
        dense_item_NF=batch.dense_item_NF[candidates],
        log_action_E=batch.log_action_E[events],
        log_surface_E=batch.log_surface_E[events],
        log_age_E=batch.log_age_E[events],
        log_value_E=batch.log_value_E[events],
        longest=int(log_lengths[requests].max()),
        evidence_NSC=None if batch.evidence_NSC is None else batch.evidence_NSC[candidates],
    )
