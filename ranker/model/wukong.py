"""Wukong layers: of the user stack, of the candidate stack that crosses it, and of one stack over both.

A layer puts a factorization machine block beside a linear compression block, adds its input, and norms (Zhang et
al., 2024, "Wukong: Towards a Scaling Law for Large-Scale Recommendation", section 3). With tokens X [T, D]:

    FMB(X) = MLP(norm(flatten(X · (Xᵀ · Y))))      Y [T, R] of the layer, R much smaller than T
    LCB(X) = W · X                                 W [K, T]
    out    = norm([FMB(X); LCB(X)] + X)            X projected to as many tokens where they differ

Both blocks begin with weights over the token axis, so one product [W; Yᵀ] · X serves both. With X = [U; V], the
request's tokens and the candidate's, it is exactly the decomposed linear compression [W; Yᵀ]_u · U + [W; Yᵀ]_v · V,
whose first term is computed once a request.

A layer over both (the exact form) puts out all rows of X · (XᵀY). U's rows of it differ by candidate and are
computed from U in place, never from a copy of U a candidate.

A candidate's layer (the two-stack form) puts out only V's rows: the rows U · Xᵀ of a request's own pairs are the user
stack's work, and U · Vᵀ is the transpose of a part of V · Xᵀ. Nothing of width U is computed per candidate.
"""

# n requests or candidates (B, N), T tokens in, U and V of the request and the candidate, K compressed, R rank,
# O tokens out, P pairs, D token width.

import torch
from torch import Tensor, nn

from kernels.linear_compress import Compress
from ranker.config import TierConfig
from ranker.model.init import BESIDE_EMBEDDINGS, norm, normal
from ranker.model.mlp import Mlp
from ranker.model.reader import Grouping

_SUMMARY_TOKENS = 4


class AttentiveY(nn.Module):
    """Yᵀ·X with a Y that follows from X: an MLP of the compressed, flattened tokens (Zhang et al., section 3.3)."""

    def __init__(self, *, tokens: int, fan_in: int, rank: int, hidden: int, width: int) -> None:
        """fan_in: tokens that Y as a whole sums over, these and those of the other side."""
        super().__init__()
        self.summary = normal(_SUMMARY_TOKENS, tokens, fan_in=tokens)
        self.mlp = Mlp(_SUMMARY_TOKENS * width, hidden, tokens * rank)
        self.scale = fan_in**-0.5

    def forward(self, x_nTD: Tensor) -> Tensor:
        """[n, R, D]."""
        y_nRT = self.mlp(torch.matmul(self.summary, x_nTD).flatten(1)).view(x_nTD.shape[0], -1, x_nTD.shape[1])
        added_nRD: Tensor = (y_nRT @ x_nTD) * self.scale
        return added_nRD


class Blocks(nn.Module):
    """What all layers share: from interaction pairs, compressed tokens and the input to the layer's output."""

    def __init__(self, tier: TierConfig, *, pairs: int, fm: int, width: int) -> None:
        super().__init__()
        self.fm_norm = norm(pairs)
        self.fm = Mlp(pairs, tier.hidden, fm * width, dropout=tier.dropout, gain=BESIDE_EMBEDDINGS)
        self.norm = norm(width)

    def forward(self, pairs_nP: Tensor, compressed_nKD: Tensor, skip_nOD: Tensor) -> Tensor:
        fm_nOD = self.fm(self.fm_norm(pairs_nP)).unflatten(1, (-1, skip_nOD.shape[2]))
        out_nOD: Tensor = self.norm(torch.cat([fm_nOD, compressed_nKD], dim=1) + skip_nOD)
        return out_nOD


class UserLayer(nn.Module):
    """A layer of the user stack: [B, T, D] and what the request read [B, 1, D] → [B, fm + compressed, D]."""

    def __init__(self, tier: TierConfig, *, tokens: int, reads: int, width: int) -> None:
        super().__init__()
        fm = tier.user_tokens // 2
        all_tokens, rank = tokens + reads, tier.fm_rank
        self.compressed = tier.user_tokens - fm
        self.w_KT = normal(self.compressed + rank, all_tokens, fan_in=all_tokens)
        self.skip_OT = normal(tier.user_tokens, tokens, fan_in=tokens) if tokens != tier.user_tokens else None
        self.attentive = _attentive(tier, all_tokens, all_tokens, width)
        self.blocks = Blocks(tier, pairs=all_tokens * rank, fm=fm, width=width)

    def forward(self, own_BTD: Tensor, all_BTD: Tensor) -> Tensor:
        mixed_BKD = torch.matmul(self.w_KT, all_BTD)
        compressed_BKD, y_BRD = mixed_BKD[:, : self.compressed], mixed_BKD[:, self.compressed :]
        if self.attentive is not None:
            y_BRD = y_BRD + self.attentive(all_BTD)
        pairs_BTR = all_BTD @ y_BRD.transpose(1, 2)
        skip_BOD = own_BTD if self.skip_OT is None else torch.matmul(self.skip_OT, own_BTD)
        out_BOD: Tensor = self.blocks(pairs_BTR.flatten(1), compressed_BKD, skip_BOD)
        return out_BOD


class CandidateLayer(nn.Module):
    """A layer of the candidate stack: [N, V, D], crossed with its request's [B, U, D] → [N, fm + compressed, D]."""

    def __init__(
        self, tier: TierConfig, *, tokens: int, reads: int, user_tokens: int, width: int, compress: Compress
    ) -> None:
        super().__init__()
        self.compress = compress
        self.compressed = tier.compressed_tokens
        all_tokens, tokens_out, rank = tokens + reads, tier.fm_tokens + tier.compressed_tokens, tier.fm_rank
        fan_in = user_tokens + all_tokens
        self.w_user_KU = normal(self.compressed + rank, user_tokens, fan_in=fan_in)
        self.w_item_KV = normal(self.compressed + rank, all_tokens, fan_in=fan_in)
        self.skip_OV = normal(tokens_out, tokens, fan_in=tokens) if tokens != tokens_out else None
        self.attentive_user = _attentive(tier, user_tokens, fan_in, width)
        self.attentive_item = _attentive(tier, all_tokens, fan_in, width)
        self.blocks = Blocks(tier, pairs=all_tokens * rank, fm=tier.fm_tokens, width=width)

    def forward(self, own_NVD: Tensor, all_NVD: Tensor, user_BUD: Tensor, request_of_N: Tensor) -> Tensor:
        mixed_NKD = self.compress(user_BUD, all_NVD, request_of_N, self.w_user_KU, self.w_item_KV)
        compressed_NKD, y_NRD = mixed_NKD[:, : self.compressed], mixed_NKD[:, self.compressed :]
        if self.attentive_user is not None and self.attentive_item is not None:
            y_NRD = y_NRD + self.attentive_user(user_BUD).index_select(0, request_of_N) + self.attentive_item(all_NVD)
        pairs_NVR = all_NVD @ y_NRD.transpose(1, 2)
        skip_NOD = own_NVD if self.skip_OV is None else torch.matmul(self.skip_OV, own_NVD)
        out_NOD: Tensor = self.blocks(pairs_NVR.flatten(1), compressed_NKD, skip_NOD)
        return out_NOD


class ExactLayer(nn.Module):
    """A layer of one stack over [U; V]: what depends on the request alone is computed once → [N, fm + compressed, D].

    Its input is projected for the skip in the first layer, where U belongs to it; later U is only what was read.
    """

    def __init__(
        self,
        tier: TierConfig,
        *,
        tokens: int,
        reads: int,
        user_tokens: int,
        first: bool,
        width: int,
        compress: Compress,
    ) -> None:
        super().__init__()
        self.compress = compress
        self.compressed, self.rank = tier.compressed_tokens, tier.fm_rank
        all_tokens, tokens_out = tokens + reads, tier.fm_tokens + tier.compressed_tokens
        fan_in = user_tokens + all_tokens
        mixed = self.compressed + self.rank + (tokens_out if first else 0)
        self.w_user_KU = normal(mixed, user_tokens, fan_in=fan_in) if user_tokens else None
        self.w_item_KV = normal(mixed, all_tokens, fan_in=fan_in)
        self.attentive_user = _attentive(tier, user_tokens, fan_in, width) if user_tokens else None
        self.attentive_item = _attentive(tier, all_tokens, fan_in, width)
        self.blocks = Blocks(tier, pairs=fan_in * self.rank, fm=tier.fm_tokens, width=width)

    def forward(self, own_NVD: Tensor, all_NVD: Tensor, user_BUD: Tensor, grouping: Grouping) -> Tensor:
        """user_BUD: the request's tokens, of which there may be none (U = 0)."""
        request_of_N = grouping.request_of_N
        if self.w_user_KU is None:
            mixed_NKD = torch.matmul(self.w_item_KV, all_NVD)
        else:
            mixed_NKD = self.compress(user_BUD, all_NVD, request_of_N, self.w_user_KU, self.w_item_KV)
        compressed_NKD, y_NRD = mixed_NKD[:, : self.compressed], mixed_NKD[:, self.compressed :][:, : self.rank]
        if self.attentive_item is not None:
            y_NRD = y_NRD + self.attentive_item(all_NVD)
            if self.attentive_user is not None:
                y_NRD = y_NRD + self.attentive_user(user_BUD).index_select(0, request_of_N)
        pairs_NP = (all_NVD @ y_NRD.transpose(1, 2)).flatten(1)
        if self.w_user_KU is not None:
            pairs_NP = torch.cat([pairs_NP, self._user_pairs(y_NRD, user_BUD, grouping)], dim=1)
        first = mixed_NKD.shape[1] > self.compressed + self.rank
        skip_NOD = mixed_NKD[:, self.compressed + self.rank :] if first else own_NVD
        out_NOD: Tensor = self.blocks(pairs_NP, compressed_NKD, skip_NOD)
        return out_NOD

    def _user_pairs(self, y_NRD: Tensor, user_BUD: Tensor, grouping: Grouping) -> Tensor:
        """U's rows of X · (XᵀY), [N, R · U]: one product a request, of its candidates' y with its U."""
        B, U, D = user_BUD.shape
        y_BCRD = grouping.pad(y_NRD.flatten(1)).reshape(B, -1, D)
        return grouping.unpad((y_BCRD @ user_BUD.transpose(1, 2)).reshape(B, -1, self.rank * U))


def _attentive(tier: TierConfig, tokens: int, fan_in: int, width: int) -> AttentiveY | None:
    if not tier.attentive:
        return None
    return AttentiveY(tokens=tokens, fan_in=fan_in, rank=tier.fm_rank, hidden=tier.hidden, width=width)
