"""How an update is cut into parts that fit a record."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ranker.updates.changes import Changes
from ranker.updates.encoding import Encoded

_ENTRY_BYTES = 128
"""Bytes of safetensors' own header for one tensor, beside its name, at most."""
_SAFETENSORS_BYTES = 32
"""Bytes of its length field and padding."""


def split(changes: Changes, room: int) -> list[dict[str, Tensor]]:
    """Named tensors, in parts of which the safetensors form has at most `room` bytes; at least one part.

    Cut along the first axis. Keys, rows and values of a table are cut together, so that a part can be read alone.
    Raises ValueError if one row is larger than a part.
    """
    parts: list[dict[str, Tensor]] = [{}]
    left = room - _SAFETENSORS_BYTES
    for group in _groups(changes):
        entries = sum(_ENTRY_BYTES + len(name) for name in group)
        rows = min(len(t) if t.ndim else 1 for t in group.values())
        row_bytes = sum(t.nbytes for t in group.values()) // rows
        start = 0
        while start < rows:
            fit = min((left - entries) // row_bytes, rows - start)
            if fit <= 0:
                if not parts[-1]:
                    raise ValueError(f"one row of {sorted(group)} has {row_bytes} bytes, a part has room for {room}")
                parts.append({})
                left = room - _SAFETENSORS_BYTES
                continue
            for name, tensor in group.items():
                # Whole tensors stay as they are: one without axes cannot be cut.
                parts[-1][name] = tensor if fit == rows else tensor[start : start + fit].contiguous()
            left -= entries + fit * row_bytes
            start += fit
    return parts


def _groups(changes: Changes) -> Iterator[dict[str, Tensor]]:
    for table, change in sorted(changes.tables.items()):
        if len(change.keys_K):
            yield {
                f"rows/{table}/keys": torch.from_numpy(change.keys_K),
                f"rows/{table}/rows": torch.from_numpy(change.rows_K),
                **_encoded(f"rows/{table}/values", f"rows/{table}/scales", change.values_KD),
            }
        if len(change.tails_W):
            yield {
                f"tails/{table}/rows": torch.from_numpy(change.tails_W),
                **_encoded(f"tails/{table}/values", f"tails/{table}/scales", change.tail_values_WD),
            }
        if len(change.catalogued_C):
            yield {
                f"catalogue/{table}/keys": torch.from_numpy(change.catalogued_C),
                f"catalogue/{table}/values": torch.from_numpy(change.entry_CS),
            }
        if len(change.evicted_V):
            yield {f"evicted/{table}/keys": torch.from_numpy(change.evicted_V)}
    for name, values in sorted(changes.dense.items()):
        if values.data.numel():
            yield _encoded(f"dense/{name}", f"dense_scales/{name}", values)


def _encoded(name: str, scales: str, values: Encoded) -> dict[str, Tensor]:
    return {name: values.data} if values.scale_K is None else {name: values.data, scales: values.scale_K}
