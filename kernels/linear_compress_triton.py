"""Linear compression in Triton, forward and backward. The contract is in kernels.linear_compress.

Three kernels do it all. With C = N · D columns, a column being one component of one candidate's tokens:

    weigh_tokens      out[:, c] = W · tokens[:, c] + base[:, c's owner]      a product over the token axis
    sum_products      out = Σ_c left[:, c] · right[:, c]ᵀ                    the weights' gradient
    sum_segments      out[b] = Σ_{n of b} rows[n]                            a request's gradient from its candidates

forward     base = W_user · U once a request, kept in float32;  out = W_item · V + base, read by index
backward    dV = W_itemᵀ · dO;  dW_item = Σ dO · Vᵀ;  S = dO summed by request;  dU = W_userᵀ · S;  dW_user = Σ S · Uᵀ

Candidates of a request are neighbours, so sums by request need no atomics; the weights' gradients are summed in parts,
and the parts in order. So gradients are the same bits at every call.

Columns of several candidates share a block, which keeps tensor cores fed at D = 16 as at D = 256. Tiles are fixed, not
tuned at run time: a tuner's first calls would stall a serving worker.
"""

# B requests, N candidates, n either; U, V tokens; K tokens out; D token width; M × T weights of a kernel; C columns.

# Parameters of a kernel are the device's pointers and numbers, which Python's types do not name.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Columns summed by one program before its part is added to the others', at least; and the most parts.
_COLUMNS_A_PART = 2048
_MOST_PARTS = 64


@triton.jit
def split_columns(first_column, D: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr):
    """Split a block of columns (n, d): its first n, int64, and, counted from there, n and d of each, int32.

    N * T * D passes 2**31 on a large batch, but within a block int32 will do, and takes half the registers.
    """
    first_n = first_column // D
    column = tl.multiple_of((first_column - first_n * D).to(tl.int32), ALIGN) + tl.arange(0, BLOCK_C)
    return first_n, column // D, column % D


@triton.jit
def weigh_tokens_kernel(
    weights,
    tokens,
    base,
    owner_of,
    out,
    M,
    T,
    C,
    weights_m,
    weights_t,
    weights_stride_m,
    weights_stride_t,
    D: tl.constexpr,
    ALIGN: tl.constexpr,
    HAS_BASE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out[n, m, d] = sum_t weights[m, t] tokens[n, t, d] (+ base[owner_of[n], m, d]); a column is (n, d).

    Weights are stored as [weights_m, weights_t], at least M × T, zero beyond; ALIGN divides D and BLOCK_C.
    """
    # Programs of the same columns are neighbours: they read the same tokens while these are in cache.
    blocks_of_m = tl.cdiv(M, BLOCK_M)
    m = tl.program_id(0) % blocks_of_m * BLOCK_M + tl.arange(0, BLOCK_M)
    first_column = (tl.program_id(0) // blocks_of_m).to(tl.int64) * BLOCK_C
    first_n, n, d = split_columns(first_column, D, ALIGN, BLOCK_C)
    in_m = m < M
    in_c = n * D + d < C - first_n * D
    in_out = in_m[:, None] & in_c[None, :]

    if HAS_BASE:
        owner = tl.load(owner_of + first_n + n, mask=in_c, other=0)
        acc = tl.load(base + (owner * M * D + d)[None, :] + m[:, None] * D, mask=in_out, other=0.0)
    else:
        acc = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    tokens += first_n * T * D
    for start in range(0, T, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        w = tl.load(
            weights + m[:, None] * weights_stride_m + t[None, :] * weights_stride_t,
            mask=(m < weights_m)[:, None] & (t < weights_t)[None, :],
            other=0.0,
        )
        x = tl.load(
            tokens + (n * (T * D) + d)[None, :] + t[:, None] * D, mask=(t < T)[:, None] & in_c[None, :], other=0.0
        )
        acc = tl.dot(w, x, acc, input_precision="ieee")
    out += first_n * M * D
    tl.store(out + (n * (M * D) + d)[None, :] + m[:, None] * D, acc.to(out.dtype.element_ty), mask=in_out)


@triton.jit
def sum_products_kernel(
    left,
    right,
    parts,
    M,
    T,
    C,
    columns_a_part,
    D: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """parts[p, m, t] = sum over part p's columns (n, d) of left[n, m, d] right[n, t, d]."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    part = tl.program_id(2).to(tl.int64)
    first = part * columns_a_part
    in_m = m < M
    in_t = t < T
    acc = tl.zeros([BLOCK_M, BLOCK_T], tl.float32)
    for start in range(0, columns_a_part, BLOCK_C):
        first_n, n, d = split_columns(first + start, D, ALIGN, BLOCK_C)
        in_c = n * D + d < C - first_n * D
        a = tl.load(
            left + first_n * M * D + (n * (M * D) + d)[None, :] + m[:, None] * D,
            mask=in_m[:, None] & in_c[None, :],
            other=0.0,
        )
        b = tl.load(
            right + first_n * T * D + (n * (T * D) + d)[:, None] + t[None, :] * D,
            mask=in_c[:, None] & in_t[None, :],
            other=0.0,
        )
        acc = tl.dot(a, b.to(a.dtype), acc, input_precision="ieee")
    tl.store(parts + part * M * T + m[:, None] * T + t[None, :], acc, mask=in_m[:, None] & in_t[None, :])


@triton.jit
def sum_segments_kernel(rows, first_of, out, R, BLOCK_R: tl.constexpr):
    """out[b, r] = sum of rows[n, r] over first_of[b] <= n < first_of[b + 1], in float32; zero for no rows."""
    b = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    acc = tl.zeros([BLOCK_R], tl.float32)
    for n in range(tl.load(first_of + b), tl.load(first_of + b + 1)):
        acc += tl.load(rows + n * R + r, mask=r < R, other=0.0).to(tl.float32)
    tl.store(out + b * R + r, acc, mask=r < R)


def tiles(M: int, T: int, dtype: torch.dtype) -> dict[str, Any]:
    """Blocks of weigh_tokens for M × T weights: small for few tokens; three stages fit 100 KB of shared memory."""
    block_m = min(128, max(16, triton.next_power_of_2(M)))
    block_t = min(128 // dtype.itemsize, max(16, triton.next_power_of_2(T)))
    num_warps = 8 if block_m == 128 else 4
    return {"BLOCK_M": block_m, "BLOCK_T": block_t, "BLOCK_C": 128, "num_warps": num_warps, "num_stages": 3}


def product_tiles(M: int, T: int, dtype: torch.dtype) -> dict[str, Any]:
    """Blocks of sum_products, whose columns are the depth of the product."""
    return tiles(M, T, dtype) | {"BLOCK_C": 128 // dtype.itemsize}


def _aligned(weights_MT: Tensor) -> Tensor:
    """Large weights with rows padded to whole 16-byte lines: else their loads go element by element."""
    M, T = weights_MT.shape
    if min(M, T) < 64 or (M % 16 == 0 and T % 16 == 0):
        return weights_MT
    stored = weights_MT.new_zeros(triton.cdiv(M, 16) * 16, triton.cdiv(T, 16) * 16)
    stored[:M, :T] = weights_MT
    return stored


def weigh_tokens(
    weights_MT: Tensor, tokens_nTD: Tensor, dtype: torch.dtype, base: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """weights · tokens [n, M, D] in dtype; plus, of base = (rows [B, M, D] float32, owner [n] int64), rows[owner]."""
    (n, T, D), M = tokens_nTD.shape, weights_MT.shape[0]
    out_nMD = tokens_nTD.new_empty(n, M, D, dtype=dtype)
    if n:
        how = tiles(M, T, tokens_nTD.dtype)
        grid = (triton.cdiv(n * D, how["BLOCK_C"]) * triton.cdiv(M, how["BLOCK_M"]),)
        rows, owner = (out_nMD, out_nMD) if base is None else base  # unread pointers where there is no base
        stored = _aligned(weights_MT)
        weigh_tokens_kernel[grid](
            stored, tokens_nTD, rows, owner, out_nMD, M, T, n * D, *stored.shape, *stored.stride(),
            D=D, ALIGN=math.gcd(D, how["BLOCK_C"]), HAS_BASE=base is not None, **how,
        )  # fmt: skip
    return out_nMD


def sum_products(left_nMD: Tensor, right_nTD: Tensor, dtype: torch.dtype) -> Tensor:
    """[M, T] in dtype: left · rightᵀ summed over n and D."""
    (n, M, D), T = left_nMD.shape, right_nTD.shape[1]
    how = product_tiles(M, T, left_nMD.dtype)
    columns, block = n * D, how["BLOCK_C"]
    num_parts = min(_MOST_PARTS, max(1, columns // _COLUMNS_A_PART))
    columns_a_part = triton.cdiv(triton.cdiv(columns, num_parts), block) * block  # whole blocks: parts do not overlap
    parts_PMT = left_nMD.new_empty(num_parts, M, T, dtype=torch.float32)
    grid = (triton.cdiv(M, how["BLOCK_M"]), triton.cdiv(T, how["BLOCK_T"]), num_parts)
    align = math.gcd(D, block)
    sum_products_kernel[grid](left_nMD, right_nTD, parts_PMT, M, T, columns, columns_a_part, D=D, ALIGN=align, **how)
    return parts_PMT.sum(0).to(dtype)


def sum_segments(rows_NMD: Tensor, request_of_N: Tensor, requests: int) -> Tensor:
    """[B, M, D] float32: rows summed by request; zeros for a request without candidates."""
    _, M, D = rows_NMD.shape
    bounds = torch.arange(requests + 1, device=request_of_N.device)
    first_of_B1 = torch.searchsorted(request_of_N, bounds)
    out_BMD = rows_NMD.new_empty(requests, M, D, dtype=torch.float32)
    block = min(1024, triton.next_power_of_2(M * D))
    sum_segments_kernel[(requests, triton.cdiv(M * D, block))](rows_NMD, first_of_B1, out_BMD, M * D, BLOCK_R=block)
    return out_BMD


class _LinearCompress(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, user_BUD: Tensor, item_NVD: Tensor, request_of_N: Tensor, w_user_KU: Tensor, w_item_KV: Tensor
    ) -> Tensor:
        ctx.save_for_backward(user_BUD, item_NVD, request_of_N, w_user_KU, w_item_KV)
        user_BKD = weigh_tokens(w_user_KU, user_BUD, torch.float32)
        return weigh_tokens(w_item_KV, item_NVD, item_NVD.dtype, base=(user_BKD, request_of_N))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NKD: Tensor) -> tuple[Tensor | None, ...]:
        user_BUD, item_NVD, request_of_N, w_user_KU, w_item_KV = ctx.saved_tensors
        for_user, for_item, _, for_w_user, for_w_item = ctx.needs_input_grad
        grad_NKD = grad_NKD.contiguous()
        dtype = item_NVD.dtype
        d_user = d_item = d_w_user = d_w_item = None
        if for_item:
            d_item = weigh_tokens(w_item_KV.T, grad_NKD, dtype)
        if for_w_item:
            d_w_item = sum_products(grad_NKD, item_NVD, dtype)
        if for_user or for_w_user:
            summed_BKD = sum_segments(grad_NKD, request_of_N, user_BUD.shape[0])
            if for_user:
                d_user = weigh_tokens(w_user_KU.float().T, summed_BKD, dtype)
            if for_w_user:
                d_w_user = sum_products(summed_BKD, user_BUD, dtype)
        return d_user, d_item, None, d_w_user, d_w_item


def linear_compress_triton(
    user_BUD: Tensor, item_NVD: Tensor, request_of_N: Tensor, w_user_KU: Tensor, w_item_KV: Tensor
) -> Tensor:
    """Same contract as linear_compress, whose checks the caller has made. Does not wait for the device."""
    out_NKD: Tensor = _LinearCompress.apply(  # type: ignore[no-untyped-call]
        user_BUD.contiguous(), item_NVD.contiguous(), request_of_N.contiguous(), w_user_KU, w_item_KV
    )
    return out_NKD
