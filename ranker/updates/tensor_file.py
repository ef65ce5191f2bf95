"""The safetensors form, written and read without a second copy of the tensors in memory.

    header length u64 | header, JSON: {name: {dtype, shape, data_offsets}} | the tensors' bytes, little-endian

The library's own `save` makes two copies of everything and holds the interpreter lock meanwhile, which a thread beside
a training loop must not; its `load` copies once more. The form is the same: each reads what the other wrote.
"""

import json
from collections.abc import Iterator
from math import prod
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from msgspec import Meta
from torch import Tensor

Buffer = npt.NDArray[np.uint8]
"""Bytes [size], writable."""
PIECE_BYTES = 4_000_000
_DTYPES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F32": torch.float32,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 8
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: list[_Count]
    data_offsets: tuple[_Count, _Count]


def pieces(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The file, in order, in pieces of at most PIECE_BYTES after the header; views of the tensors where they can be.

    tensors: dense, on the CPU. The same tensors give the same bytes.
    """
    # Wide elements first: each tensor then begins at a multiple of its element's size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header, end = {}, 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        if not tensor.numel():
            continue  # one of numpy's may have strides that forbid a view
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
        for begin in range(0, len(data), PIECE_BYTES):
            yield data[begin : begin + PIECE_BYTES]


def tensors_of(data: Buffer) -> dict[str, Tensor]:
    """Inverse of pieces; the tensors share the buffer's memory. Raises ValueError if it is not of this form."""
    length = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError(f"not a safetensors file: {len(data)} bytes with a header of {length}")
    try:
        fields = msgspec.json.decode(data[8 : 8 + length].tobytes(), type=dict[str, msgspec.Raw])
        entries = {n: msgspec.json.decode(raw, type=_Entry) for n, raw in fields.items() if n != "__metadata__"}
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a safetensors file: {error}") from error
    return {name: _tensor(name, entry, data[8 + length :]) for name, entry in entries.items()}


def _tensor(name: str, entry: _Entry, body: Buffer) -> Tensor:
    dtype, (begin, end) = _DTYPES.get(entry.dtype), entry.data_offsets
    if dtype is None:
        raise ValueError(f"tensor {name!r} must be of a type in {sorted(_DTYPES)}, got {entry.dtype!r}")
    if not begin <= end <= len(body) or end - begin != prod(entry.shape) * dtype.itemsize:
        raise ValueError(f"tensor {name!r} {entry.dtype} {entry.shape} cannot be bytes {begin} to {end} of {len(body)}")
    return torch.from_numpy(body[begin:end]).view(dtype).reshape(entry.shape)
