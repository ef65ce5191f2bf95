"""How values travel: as float32, as bfloat16, or as int8 with a float32 scale for each row.

int8 is linear and symmetric: of a row of the first axis, scale = max |x| / 127 and x ≈ scale · round(x / scale).
Decoding is one product of float32 numbers, so every machine that decodes a value gets the same bits.
"""

# K rows of any shape.

from dataclasses import dataclass

import torch
from torch import Tensor

from ranker.config import STATISTICS, Encoding, UpdateConfig

SMALL = 256
"""Size up to which a dense tensor travels as it is."""
_LARGEST = 127


@dataclass(frozen=True, slots=True)
class Encoded:
    """Values [K, ...] as they travel: floats, or int8 and the scales of its rows."""

    data: Tensor
    scale_K: Tensor | None = None
    """float32, of int8 alone."""

    def __post_init__(self) -> None:
        if self.scale_K is None:
            if not self.data.is_floating_point():
                raise ValueError(f"values without scales must be floats, got {self.data.dtype}")
        elif self.data.dtype != torch.int8 or self.data.ndim < 2:
            raise ValueError(f"values with scales must be int8 rows, got {self.data.dtype} {list(self.data.shape)}")
        elif self.scale_K.dtype != torch.float32 or self.scale_K.shape != self.data.shape[:1]:
            came = f"{self.scale_K.dtype} {list(self.scale_K.shape)}"
            raise ValueError(f"{len(self.data)} rows need as many float32 scales, got {came}")

    def __len__(self) -> int:
        return len(self.data)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + (0 if self.scale_K is None else self.scale_K.nbytes)

    def decode(self) -> Tensor:
        """float32 [K, ...]; the data itself where it is float32."""
        if self.scale_K is None:
            return self.data.float()
        return self.data.float() * self.scale_K.view(-1, *[1] * (self.data.ndim - 1))


def encode(values: Tensor, encoding: Encoding) -> Encoded:
    """A copy of float32 values [K, ...]. What has no rows (fewer than two axes) cannot be int8, and is bfloat16."""
    if encoding == "float32":
        return Encoded(values.clone())
    if encoding == "bfloat16" or values.ndim < 2:
        return Encoded(values.to(torch.bfloat16))
    scale_K = values.abs().amax(dim=tuple(range(1, values.ndim))) / _LARGEST
    divisor_K = torch.where(scale_K > 0, scale_K, 1.0).view(-1, *[1] * (values.ndim - 1))
    return Encoded((values / divisor_K).round().to(torch.int8), scale_K)


def encode_dense(name: str, values: Tensor, config: UpdateConfig) -> Encoded:
    """A dense tensor as it travels; name: "light/heads.out_bias"."""
    return encode(values, "float32" if values.numel() <= SMALL else config.tensors.get(name, config.dense))


def row_encoding(table: str, config: UpdateConfig) -> Encoding:
    """Returns the encoding of a table's rows. Counts are int8 only where that is asked for by name: in such a row, what
    is small beside its largest share is nothing, and of a new ad all is."""
    bare = "bfloat16" if table == STATISTICS and config.rows == "int8" else config.rows
    return config.tensors.get(table, bare)


def row_bytes(width: int, encoding: Encoding) -> int:
    """Returns the bytes of one encoded row of `width` values."""
    return {"float32": 4 * width, "bfloat16": 2 * width, "int8": width + 4}[encoding]
