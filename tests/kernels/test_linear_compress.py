"""Linear compression: the PyTorch form against the reference, the kernel in a process of its own, and the choice."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.linear_compress import (
    available_impls,
    bind,
    choose_impl,
    linear_compress,
    linear_compress_decomposed,
    linear_compress_reference,
)

HERE = Path(__file__).parent


def make_inputs(candidates: list[int], U: int = 5, V: int = 3, K: int = 7, D: int = 8) -> list[Tensor]:
    """user, item, request_of, w_user, w_item; float64, to compare formulas rather than rounding."""
    torch.manual_seed(0)
    B, N = len(candidates), sum(candidates)
    user, item, w_user, w_item = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in [(B, U, D), (N, V, D), (K, U), (K, V)]
    )
    return [user, item, torch.repeat_interleave(torch.arange(B), torch.tensor(candidates)), w_user, w_item]


@pytest.mark.parametrize("candidates", [[1], [6], [0, 0], [3, 0, 2, 0], [1, 1, 1]], ids=str)
def test_decomposed_matches_reference(candidates: list[int]) -> None:
    inputs = make_inputs(candidates)
    floats = [t for t in inputs if t.is_floating_point()]
    outs = [impl(*inputs) for impl in (linear_compress_decomposed, linear_compress_reference)]
    torch.testing.assert_close(*outs)
    gradient = torch.randn_like(outs[0])
    for actual, expected in zip(*(torch.autograd.grad(out, floats, gradient) for out in outs), strict=True):
        torch.testing.assert_close(actual, expected)


def test_reference_by_hand() -> None:
    user, item = torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([[[10.0]], [[20.0]], [[30.0]]])
    out = linear_compress(
        user,
        item,
        torch.tensor([0, 1, 1]),
        torch.tensor([[1.0], [0.5]]),
        torch.tensor([[1.0], [0.0]]),
        impl="reference",
    )
    assert out.squeeze(2).tolist() == [[11.0, 0.5], [22.0, 1.0], [32.0, 1.0]]


def run_interpreted(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted_linear_compress.py")],
        env=os.environ | environment,
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kernel_under_the_interpreter() -> None:
    pytest.importorskip("triton")
    assert "20 passed" in run_interpreted(TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernel_on_the_device() -> None:
    assert "20 passed" in run_interpreted(TRITON_INTERPRET="0")


def test_import_needs_no_triton() -> None:
    code = "import sys; sys.modules['triton'] = None; import kernels.linear_compress, ranker.model.tier"
    subprocess.run([sys.executable, "-c", code], cwd=HERE.parents[1], check=True)


def test_a_cpu_gets_the_decomposed_form_and_its_choice_is_available() -> None:
    assert choose_impl(torch.device("cpu")) == "decomposed"
    assert "decomposed" in available_impls()
    assert ("triton" in available_impls()) == torch.cuda.is_available()


def test_a_bound_implementation_is_the_one_named() -> None:
    inputs = [t.detach().float() if t.is_floating_point() else t for t in make_inputs([2, 3])]
    for impl in ("decomposed", "reference"):
        assert torch.equal(bind(impl)(*inputs), linear_compress(*inputs, impl=impl))


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.zeros(2, 5), r"user \[B, U, D\]"),
        (0, torch.zeros(2, 4, 8), "must agree"),
        (1, torch.zeros(5, 3, 9), "must agree"),
        (2, torch.zeros(4, dtype=torch.int64), "must agree"),
        (2, torch.zeros(5, dtype=torch.int32), "request_of must be int64"),
        (3, torch.zeros(7, 5, dtype=torch.bfloat16), "must share float32 or bfloat16"),
        (4, torch.zeros(6, 3), "must agree"),
        (4, torch.zeros(7, 3, device="meta"), "on one device"),
    ],
)
def test_wrong_inputs_are_named(position: int, value: Tensor, message: str) -> None:
    inputs: list[Any] = [t.detach().float() if t.is_floating_point() else t for t in make_inputs([2, 3])]
    inputs[position] = value
    with pytest.raises(ValueError, match=message):
        linear_compress(*inputs, impl="decomposed")
