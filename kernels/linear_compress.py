"""Linear compression of a request's and its candidates' tokens, the user side computed once a request.

    out[n] = W_user · U[r(n)] + W_item · V[n]

is Wukong's linear compression (Zhang et al., 2024, "Wukong: Towards a Scaling Law for Large-Scale Recommendation",
section 3.4) of the tokens [U[r(n)]; V[n]], with the weights split between the sides. U is never repeated for the
candidates: W_user · U has one product a request, added by index.

This module owns the contract, the choice of an implementation, and the form in plain PyTorch operators. Imports
triton only when the kernel is called.
"""

# B requests, N candidates over all of them, U and V tokens of user and candidate, K tokens out, D token width.

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Literal, TypeAlias, assert_never

import torch
from torch import Tensor

from kernels.linear_compress_reference import linear_compress_reference

__all__ = [
    "Compress",
    "Impl",
    "available_impls",
    "bind",
    "choose_impl",
    "linear_compress",
    "linear_compress_decomposed",
    "linear_compress_reference",
]

Impl = Literal["triton", "decomposed", "reference"]

Compress: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""linear_compress with its implementation bound: what a model is given."""


def linear_compress(
    user_BUD: Tensor,
    item_NVD: Tensor,
    request_of_N: Tensor,
    w_user_KU: Tensor,
    w_item_KV: Tensor,
    *,
    impl: Impl,
) -> Tensor:
    """W_user · U[r(n)] + W_item · V[n] for each candidate n. Differentiable in all but the index.

    Args:
        user_BUD: [B, U, D] tokens of each request.
        item_NVD: [N, V, D] tokens of each candidate.
        request_of_N: [N] int64, ascending, in [0, B): the request of each candidate. Requests may have none.
            Values and order are trusted: checking them would wait for the device.
        w_user_KU: [K, U] weights.
        w_item_KV: [K, V] weights.
        impl: the implementation. All agree to rounding; none falls back on another.

    Returns [N, K, D] in the inputs' dtype, one of float32 and bfloat16; sums are taken in float32 or wider by
    "triton" and "reference", as PyTorch's matmul does by "decomposed". Everything is on one device: CUDA for "triton"
    (or the CPU under TRITON_INTERPRET=1).
    Raises ValueError on a wrong rank, size, dtype or device, ModuleNotFoundError for "triton" without triton.
    """
    _check(user_BUD, item_NVD, request_of_N, w_user_KU, w_item_KV)
    match impl:
        case "triton":
            from kernels.linear_compress_triton import linear_compress_triton

            return linear_compress_triton(user_BUD, item_NVD, request_of_N, w_user_KU, w_item_KV)
        case "decomposed":
            return linear_compress_decomposed(user_BUD, item_NVD, request_of_N, w_user_KU, w_item_KV)
        case "reference":
            return linear_compress_reference(user_BUD, item_NVD, request_of_N, w_user_KU, w_item_KV)
        case _:
            assert_never(impl)


def linear_compress_decomposed(
    user_BUD: Tensor, item_NVD: Tensor, request_of_N: Tensor, w_user_KU: Tensor, w_item_KV: Tensor
) -> Tensor:
    """Same contract as linear_compress: two matrix products and a gather of the compressed user side."""
    user_BKD = torch.matmul(w_user_KU, user_BUD)
    if user_BUD.shape[0] == 1:  # one request in serving: it broadcasts, and the sum is the product's own
        N = item_NVD.shape[0]
        return torch.baddbmm(user_BKD.expand(N, -1, -1), w_item_KV.expand(N, -1, -1), item_NVD)
    return torch.matmul(w_item_KV, item_NVD) + user_BKD.index_select(0, request_of_N)


def available_impls() -> tuple[Impl, ...]:
    """Implementations that run on this machine, fastest first."""
    if find_spec("triton") is not None and torch.cuda.is_available():
        return ("triton", "decomposed", "reference")
    return ("decomposed", "reference")


def choose_impl(device: torch.device) -> Impl:
    """What a worker on this device should use, chosen once at its start, and printed by it.

    Raises ValueError for a CUDA device without triton: the worker must say that it wants another implementation.
    """
    if device.type != "cuda":
        return "decomposed"
    if "triton" not in available_impls():
        raise ValueError(f"device {device} needs triton: pip install triton, or choose impl='decomposed' by name")
    return "triton"


def bind(impl: Impl) -> Compress:
    """linear_compress by this implementation."""
    return partial(linear_compress, impl=impl)


def _check(user_BUD: Tensor, item_NVD: Tensor, request_of_N: Tensor, w_user_KU: Tensor, w_item_KV: Tensor) -> None:
    floats = (user_BUD, item_NVD, w_user_KU, w_item_KV)
    shapes = [tuple(t.shape) for t in (*floats, request_of_N)]
    if [len(s) for s in shapes] != [3, 3, 2, 2, 1]:
        raise ValueError(f"user [B, U, D], item [N, V, D], w_user [K, U], w_item [K, V], request_of [N]; got {shapes}")
    (_, U, D), (N, V, D_item), (K, U_w), (K_item, V_w), (N_index,) = shapes
    if (U_w, V_w, D_item, K_item, N_index) != (U, V, D, K, N) or 0 in (U, V, D, K):
        raise ValueError(
            f"sizes U, V, D, K >= 1 and N must agree over user, item, w_user, w_item, request_of; got {shapes}"
        )
    dtypes = {t.dtype for t in floats}
    if dtypes not in ({torch.float32}, {torch.bfloat16}) or request_of_N.dtype != torch.int64:
        raise ValueError(
            "tokens and weights must share float32 or bfloat16, and request_of must be int64; "
            f"got {sorted(map(str, dtypes))} and {request_of_N.dtype}: cast before the call"
        )
    devices = {t.device for t in (*floats, request_of_N)}
    if len(devices) != 1:
        raise ValueError(f"all inputs must be on one device, got {sorted(map(str, devices))}")
