"""The Triton kernel against the reference, on memory full of NaN.

Not collected by itself: test_linear_compress.py runs it in a process of its own, under TRITON_INTERPRET=1, which must
be set before triton is imported, and on a CUDA device where there is one.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.linear_compress import Compress, bind, linear_compress_reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
INPUTS = ("user", "item", "w_user", "w_item")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True, scope="module")
def bfloat16_products() -> Iterator[None]:
    """The interpreter keeps bfloat16 as its bits, and multiplies these in a dot: widen them first."""
    if not INTERPRETED:
        yield
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot = InterpreterBuilder.create_dot

    def widen(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_dot", lambda self, a, b, *rest: dot(self, widen(a), widen(b), *rest))
        yield


@pytest.fixture(autouse=True)
def poison_uninitialised_memory() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch then fills empty() with NaN
    yield
    torch.use_deterministic_algorithms(False)


def make_inputs(
    candidates: list[int], U: int, V: int, K: int, D: int, dtype: torch.dtype
) -> tuple[tuple[Tensor, ...], Tensor]:
    """(user, item, w_user, w_item) with gradients, and request_of."""
    torch.manual_seed(0)
    B, N = len(candidates), sum(candidates)
    shapes = [(B, U, D), (N, V, D), (K, U), (K, V)]
    tensors = [torch.randn(shape) for shape in shapes]
    scale = (U + V) ** -0.5
    tensors[2:] = [weight * scale for weight in tensors[2:]]
    request_of_N = torch.repeat_interleave(torch.arange(B), torch.tensor(candidates))
    return tuple(t.to(DEVICE, dtype).requires_grad_() for t in tensors), request_of_N.to(DEVICE)


def run(compress: Compress, inputs: tuple[Tensor, ...], request_of_N: Tensor) -> dict[str, Tensor]:
    """Output, and the gradients of all inputs for a fixed random gradient of the output."""
    user, item, w_user, w_item = inputs
    out = compress(user, item, request_of_N, w_user, w_item)
    torch.manual_seed(1)
    gradient = torch.randn(out.shape).bfloat16().to(out.device, out.dtype)  # the same numbers in every dtype
    return {"out": out.detach()} | dict(zip(INPUTS, torch.autograd.grad(out, inputs, gradient), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("candidates", "U", "V", "K", "D"),
    [
        ([0, 0], 2, 3, 4, 16),
        ([1], 1, 1, 1, 1),
        ([1], 5, 3, 7, 16),
        ([37], 9, 7, 12, 16),
        ([3, 0, 8, 0, 0, 1], 13, 6, 5, 16),
        ([0, 2, 0], 3, 70, 130, 8),  # K and V pass a block, and are padded to whole lines
        ([5, 4], 67, 3, 33, 48),  # D is not a power of two
        ([200, 60], 4, 3, 4, 16),  # several parts in the weights' gradient, the last one short
        ([1, 1], 2, 3, 4, 256),  # a token is wider than a block
    ],
    ids=str,
)
def test_kernel_matches_reference(candidates: list[int], U: int, V: int, K: int, D: int, dtype: torch.dtype) -> None:
    inputs, request_of_N = make_inputs(candidates, U, V, K, D, dtype)
    actual = run(bind("triton"), inputs, request_of_N)
    expected = run(linear_compress_reference, tuple(t.detach().double().requires_grad_() for t in inputs), request_of_N)
    for name, wanted in expected.items():
        assert actual[name].dtype == dtype, name
        # The weights' gradients sum over many columns: the tolerance is of their scale.
        atol = TOLERANCE[dtype] * max(1.0, wanted.abs().max().item() if wanted.numel() else 0.0)
        differs = (actual[name].double() - wanted).abs()
        assert bool((differs <= atol).all()), f"{name} differs by {differs.max()}, of at most {atol}"  # NaN fails too


def test_gradients_are_the_same_bits_at_every_call() -> None:
    inputs, request_of_N = make_inputs([100, 0, 60], 4, 3, 4, 16, torch.float32)
    first, second = (run(bind("triton"), inputs, request_of_N) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_the_gradients_that_are_asked_for() -> None:
    (user, item, w_user, w_item), request_of_N = make_inputs([3, 2], 4, 3, 5, 16, torch.float32)
    out = bind("triton")(user.detach(), item.detach(), request_of_N, w_user, w_item.detach())
    torch.autograd.backward(out.sum())
    assert w_user.grad is not None
    assert w_user.grad.isfinite().all()
