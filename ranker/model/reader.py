"""Queries over sequence states: keys and values once a request, one query a request and one a candidate."""

# B requests, N candidates, C the most candidates of a request, L states, H attention heads, D token width.

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.model.init import BESIDE_EMBEDDINGS, linear, norm


@dataclass(frozen=True, slots=True)
class Grouping:
    """Candidates laid out by request, [N, D] ↔ [B, C, D], so that they read their request's states in place."""

    request_of_N: Tensor
    """int64, ascending."""
    requests: int
    most: int
    """C."""
    place_N: Tensor | None
    """int64: of each candidate in [B · C]; None for one request, whose candidates lie as they are."""

    @classmethod
    def of(cls, request_of_N: Tensor, requests: int) -> "Grouping":
        """Builds it from ascending request_of_N. Waits for the device, once, with several requests."""
        N = request_of_N.shape[0]
        if requests == 1 or N == 0:  # with no candidates at all, [B, 0, D] needs no places either
            return cls(request_of_N, requests, N, None)
        count_B = torch.bincount(request_of_N, minlength=requests)
        most = int(count_B.max())
        gap_B = torch.arange(requests, device=count_B.device) * most - (count_B.cumsum(0) - count_B)
        place_N = torch.arange(N, device=count_B.device) + gap_B.index_select(0, request_of_N)
        return cls(request_of_N, requests, most, place_N)

    def pad(self, rows_ND: Tensor) -> Tensor:
        D = rows_ND.shape[1]
        if self.place_N is None:
            return rows_ND.view(self.requests, self.most, D)
        padded_PD = rows_ND.new_zeros(self.requests * self.most, D).index_copy(0, self.place_N, rows_ND)
        return padded_PD.view(self.requests, self.most, D)

    def unpad(self, padded_BCD: Tensor) -> Tensor:
        rows_PD = padded_BCD.flatten(0, 1)
        return rows_PD if self.place_N is None else rows_PD.index_select(0, self.place_N)


class StateReader(nn.Module):
    """Multi-head attention of one query a row over the states of the row's request."""

    def __init__(self, *, user_tokens: int, item_tokens: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = norm(width)
        self.kv = linear(width, 2 * width)
        self.user_query = linear(user_tokens * width, width)
        self.item_query = linear(item_tokens * width, width)
        self.out = linear(width, width, gain=BESIDE_EMBEDDINGS)

    def forward(
        self,
        states_BLD: Tensor,
        mask_B11L: Tensor | None,
        user_BUD: Tensor,
        item_NVD: Tensor,
        grouping: Grouping,
    ) -> tuple[Tensor, Tensor]:
        """What the request's query and the candidates' queries read: tokens [B, 1, D] and [N, 1, D]."""
        B, L, D = states_BLD.shape
        kv = self.kv(self.norm(states_BLD)).view(B, L, 2, self.heads, D // self.heads)
        k_BHLd, v_BHLd = kv.permute(2, 0, 3, 1, 4).unbind(0)
        # Two calls, not one over both: what the request reads is then the same bits whatever its candidates are.
        user_B1D = self._read(self.user_query(user_BUD.flatten(1)).unsqueeze(1), k_BHLd, v_BHLd, mask_B11L)
        query_BCD = grouping.pad(self.item_query(item_NVD.flatten(1)))
        item_ND = grouping.unpad(self._read(query_BCD, k_BHLd, v_BHLd, mask_B11L))
        return user_B1D, item_ND.unsqueeze(1)

    def _read(self, query_BCD: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, mask_B11L: Tensor | None) -> Tensor:
        B, C, D = query_BCD.shape
        q_BHCd = query_BCD.view(B, C, self.heads, D // self.heads).transpose(1, 2)
        seen_BHCd = F.scaled_dot_product_attention(q_BHCd, k_BHLd, v_BHLd, attn_mask=mask_B11L)
        read_BCD: Tensor = self.out(seen_BHCd.transpose(1, 2).reshape(B, C, D))
        return read_BCD
