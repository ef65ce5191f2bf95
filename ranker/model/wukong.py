"""Wukong layers of the user stack and of the candidate stack.

A layer puts a factorization machine block beside a linear compression block, adds its input, and norms (Zhang et
al., 2024, "Wukong: Towards a Scaling Law for Large-Scale Recommendation", section 3). With tokens X [T, D]:

    FMB(X) = MLP(norm(flatten(X · (Xᵀ · Y))))      Y [T, R] of the layer, R much smaller than T
    LCB(X) = W · X                                 W [K, T]
    out    = norm([FMB(X); LCB(X)] + X)            X projected to as many tokens where they differ

Both blocks begin with weights over the token axis, so one product [W; Yᵀ] · X serves both.

A candidate's layer has X = [U; V], the request's tokens and its own, but puts out only V's rows of the interaction
matrix: the rows U·Xᵀ of a request's own pairs are the user stack's work, and U·Vᵀ is the transpose of a part of V·Xᵀ.
So the layer needs V · (Uᵀ·Y_u + Vᵀ·Y_v), and [W; Yᵀ] · [U; V] is exactly the decomposed linear compression: nothing
of width U is computed per candidate.
"""

# n requests or candidates (B, N), T tokens in, U and V of the request and the candidate, K compressed, R rank,
# O tokens out, D token width.

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.linear_compress import Compress
from ranker.model.init import linear, norm, normal


class WukongBlocks(nn.Module):
    """What both stacks share: from a row's tokens and their compression to the layer's output."""

    def __init__(
        self, *, tokens_in: int, read_tokens: int, fm: int, compressed: int, rank: int, hidden: int, width: int
    ) -> None:
        super().__init__()
        self.compressed = compressed
        self.fm_norm = norm((tokens_in + read_tokens) * rank)
        self.fm_up = linear((tokens_in + read_tokens) * rank, hidden)
        self.fm_down = linear(hidden, fm * width, after_relu=True)
        tokens_out = fm + compressed
        self.skip_OT = normal(tokens_out, tokens_in, fan_in=tokens_in) if tokens_in != tokens_out else None
        self.norm = norm(width)

    def forward(self, own_nTD: Tensor, all_nTD: Tensor, mixed_nKD: Tensor) -> Tensor:
        """own_nTD: the stack's tokens; all_nTD: those and what was read from the log; mixed_nKD: [W; Yᵀ] · X."""
        y_nRD = mixed_nKD[:, self.compressed :]
        pairs_nTR = all_nTD @ y_nRD.transpose(1, 2)
        # No activation on the way out: the next layer multiplies these tokens, and their signs matter.
        fm_nOD = self.fm_down(F.relu(self.fm_up(self.fm_norm(pairs_nTR.flatten(1))))).unflatten(
            1, (-1, own_nTD.shape[2])
        )
        skip_nOD = own_nTD if self.skip_OT is None else torch.matmul(self.skip_OT, own_nTD)
        out_nOD: Tensor = self.norm(torch.cat([fm_nOD, mixed_nKD[:, : self.compressed]], dim=1) + skip_nOD)
        return out_nOD


class UserLayer(nn.Module):
    """A layer of the user stack: [B, T, D] and what the request read [B, 1, D] → [B, fm + compressed, D]."""

    def __init__(self, *, tokens: int, fm: int, compressed: int, rank: int, hidden: int, width: int) -> None:
        super().__init__()
        self.w_KT = normal(compressed + rank, tokens + 1, fan_in=tokens + 1)
        self.blocks = WukongBlocks(
            tokens_in=tokens, read_tokens=1, fm=fm, compressed=compressed, rank=rank, hidden=hidden, width=width
        )

    def forward(self, own_BTD: Tensor, all_BTD: Tensor) -> Tensor:
        out_BOD: Tensor = self.blocks(own_BTD, all_BTD, torch.matmul(self.w_KT, all_BTD))
        return out_BOD


class CandidateLayer(nn.Module):
    """A layer of the candidate stack: [N, V, D], crossed with its request's [B, U, D] → [N, fm + compressed, D]."""

    def __init__(
        self,
        *,
        tokens: int,
        user_tokens: int,
        fm: int,
        compressed: int,
        rank: int,
        hidden: int,
        width: int,
        compress: Compress,
    ) -> None:
        super().__init__()
        self.compress = compress
        fan_in = user_tokens + tokens + 1
        self.w_user_KU = normal(compressed + rank, user_tokens, fan_in=fan_in)
        self.w_item_KV = normal(compressed + rank, tokens + 1, fan_in=fan_in)
        self.blocks = WukongBlocks(
            tokens_in=tokens, read_tokens=1, fm=fm, compressed=compressed, rank=rank, hidden=hidden, width=width
        )

    def forward(self, own_NVD: Tensor, all_NVD: Tensor, user_BUD: Tensor, request_of_N: Tensor) -> Tensor:
        mixed_NKD = self.compress(user_BUD, all_NVD, request_of_N, self.w_user_KU, self.w_item_KV)
        out_NOD: Tensor = self.blocks(own_NVD, all_NVD, mixed_NKD)
        return out_NOD
