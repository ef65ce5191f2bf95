"""Our safetensors files and the library's are the same form."""

import numpy as np
import pytest
import safetensors.torch
import torch

from ranker.updates.tensor_file import PIECE_BYTES, pieces, tensors_of

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
]
TENSORS = {
    **{str(dtype): torch.arange(6).to(dtype).reshape(2, 3) for dtype in DTYPES},
    "scalar": torch.tensor(7),
    "empty": torch.empty(0, 4),
    "from numpy, empty": torch.from_numpy(np.flatnonzero(np.zeros(3))),
    "not contiguous": torch.arange(12.0).reshape(3, 4).T,
}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        (a[k].dtype, a[k].shape) == (b[k].dtype, b[k].shape) and torch.equal(a[k], b[k]) for k in a
    )


def buffer(data: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(data), np.uint8)


def test_the_library_reads_what_we_write() -> None:
    assert same(safetensors.torch.load(b"".join(pieces(TENSORS))), TENSORS)


def test_we_read_what_the_library_writes() -> None:
    dense = {name: t.contiguous() for name, t in TENSORS.items()}
    assert same(tensors_of(buffer(safetensors.torch.save(dense, metadata={"a": "b"}))), TENSORS)


def test_large_tensors_come_in_pieces_of_their_own_memory() -> None:
    large = torch.rand(3 * PIECE_BYTES // 4 + 5)
    header, *body = pieces({"large": large})
    assert [len(piece) for piece in body] == [PIECE_BYTES] * 3 + [20]
    large[0] = 5.0
    assert torch.frombuffer(body[0], dtype=torch.float32)[0] == 5.0
    assert same(tensors_of(buffer(b"".join((header, *body)))), {"large": large})


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ('{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}', "cannot be bytes 0 to 8"),
        ('{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', "cannot be bytes 0 to 16 of 8"),
        ('{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}', "not a safetensors file"),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}', "cannot be bytes 8 to 0"),
        ('{"a": {"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]}}', "'PICKLE'"),
        ("[]", "not a safetensors file"),
    ],
)
def test_what_is_no_such_file_is_refused(header: str, why: str) -> None:
    data = len(header).to_bytes(8, "little") + header.encode() + bytes(8)
    with pytest.raises(ValueError, match=why):
        tensors_of(buffer(data))


@pytest.mark.parametrize("data", [b"", b"short", b"\xff" * 8, (9).to_bytes(8, "little") + b"{}"])
def test_a_header_that_is_not_there_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a safetensors file"):
        tensors_of(buffer(data))
