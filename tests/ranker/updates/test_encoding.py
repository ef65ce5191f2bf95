"""Values survive the way to a replica as nearly as their encoding promises."""

import pytest
import torch

from ranker.config import UpdateConfig
from ranker.updates.encoding import SMALL, Encoded, encode, encode_dense, row_bytes


@pytest.fixture
def rows() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(40, 16) * torch.logspace(-6, 6, 40).unsqueeze(1)


def test_float32_is_exact_and_a_copy(rows: torch.Tensor) -> None:
    encoded = encode(rows, "float32")
    before = rows.clone()
    rows.zero_()
    assert torch.equal(encoded.decode(), before)


def test_bfloat16_keeps_eight_bits(rows: torch.Tensor) -> None:
    torch.testing.assert_close(encode(rows, "bfloat16").decode(), rows, rtol=2**-8, atol=0)


def test_int8_is_within_half_a_step_of_each_row(rows: torch.Tensor) -> None:
    step_K1 = rows.abs().amax(1, keepdim=True) / 127
    error_KD = (encode(rows, "int8").decode() - rows).abs()
    assert bool((error_KD <= 0.5001 * step_K1).all())
    assert bool((error_KD > 0.3 * step_K1).any())  # it is rounded at all


def test_int8_of_zeros_is_zero_and_of_more_axes_by_the_first() -> None:
    assert torch.equal(encode(torch.zeros(3, 2), "int8").decode(), torch.zeros(3, 2))
    cube = torch.randn(4, 3, 5)
    assert encode(cube, "int8").scale_K is not None
    torch.testing.assert_close(encode(cube, "int8").decode(), cube, rtol=0, atol=float(cube.abs().max()) / 254)


def test_what_has_no_rows_is_not_int8() -> None:
    assert encode(torch.randn(300), "int8").data.dtype == torch.bfloat16


@pytest.mark.parametrize("encoding", ["float32", "bfloat16", "int8"])
def test_bytes_of_a_row(encoding: str, rows: torch.Tensor) -> None:
    assert encode(rows, encoding).nbytes == len(rows) * row_bytes(16, encoding)  # type: ignore[arg-type]


def test_values_do_not_travel_as_numbers_nobody_can_decode() -> None:
    for data, scale in (
        (torch.zeros(2, 2, dtype=torch.int8), None),
        (torch.zeros(2, 2), torch.ones(2)),
        (torch.zeros(2, 2, dtype=torch.int8), torch.ones(3)),
        (torch.zeros(2, 2, dtype=torch.int8), torch.ones(2).double()),
        (torch.zeros(2, dtype=torch.int8), torch.ones(2)),
    ):
        with pytest.raises(ValueError, match="scales"):
            Encoded(data, scale)


def test_dense_tensors_follow_the_configuration_but_small_ones() -> None:
    config = UpdateConfig(dense="int8", tensors={"light/delicate": "float32"})
    large, small = torch.randn(SMALL // 8 + 1, 8), torch.randn(SMALL // 8, 8)
    assert encode_dense("light/w", large, config).data.dtype == torch.int8
    assert encode_dense("light/delicate", large, config).data.dtype == torch.float32
    assert encode_dense("light/w", small, config).data.dtype == torch.float32
