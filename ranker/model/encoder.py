"""The log encoder: sequence states of a request, computed once for all its candidates."""

# B requests, L states of a request (its own token, then its events), H attention heads, D token width, d = D / H.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.model.init import linear, norm
from ranker.model.mlp import Mlp

BUCKETS = 16
"""Buckets of distances in time, and of distances in place: powers of four seconds, and of two events."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """What the layers know of the states besides the states."""

    mask_B11L: Tensor | None
    """0 on states and -inf behind a shorter log; None for one request."""
    lengths_B: Tensor
    """int64, the request's own token counted."""
    apart_BLL: Tensor | None
    """int64: bucket of the distance between two states, in time and place; None for encoders that do not ask."""


class SoftmaxLayer(nn.Module):
    """Softmax self-attention (Vaswani et al., 2017), then an MLP; each on a norm of its input, added to it."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = norm(width)
        self.qkv = linear(width, 3 * width)
        self.out = linear(width, width)
        self.mlp_norm = norm(width)
        self.mlp = Mlp(width, hidden, width, dropout=dropout)

    def forward(self, states_BLD: Tensor, sequence: Sequence) -> Tensor:
        B, L, D = states_BLD.shape
        qkv = self.qkv(self.attention_norm(states_BLD)).view(B, L, 3, self.heads, D // self.heads)
        q_BHLd, k_BHLd, v_BHLd = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        seen_BHLd = F.scaled_dot_product_attention(q_BHLd, k_BHLd, v_BHLd, attn_mask=sequence.mask_B11L)
        states_BLD = states_BLD + self.out(seen_BHLd.transpose(1, 2).reshape(B, L, D))
        added_BLD: Tensor = self.mlp(self.mlp_norm(states_BLD))
        return states_BLD + added_BLD


class GatedLayer(nn.Module):
    """Pointwise attention with a gate (HSTU: Zhai et al., 2024, "Actions Speak Louder than Words", section 3.1).

        U, V, Q, K = split(SiLU(norm(X) · W₁));   X + (norm(A · V) ⊙ U) · W₂
        A = SiLU(Q·Kᵀ/√d + bias(time apart, places apart)) / length

    Nothing is normalized over the log, so how much there is of something counts, not its share alone. Events are seen
    both ways, as the log is all past.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        """hidden and dropout are of the softmax form's MLP, which this one has not."""
        super().__init__()
        self.heads = heads
        self.input_norm = norm(width)
        self.uvqk = linear(width, 4 * width)
        self.output_norm = norm(width)
        self.out = linear(width, width)
        self.bias_HA = nn.Parameter(torch.zeros(heads, 2 * BUCKETS * BUCKETS))

    def forward(self, states_BLD: Tensor, sequence: Sequence) -> Tensor:
        B, L, D = states_BLD.shape
        assert sequence.apart_BLL is not None
        uvqk = F.silu(self.uvqk(self.input_norm(states_BLD))).view(B, L, 4, self.heads, D // self.heads)
        u_BHLd, v_BHLd, q_BHLd, k_BHLd = uvqk.permute(2, 0, 3, 1, 4).unbind(0)
        bias_BHLL = self.bias_HA[:, sequence.apart_BLL].transpose(0, 1)
        scores_BHLL = q_BHLd @ k_BHLd.transpose(2, 3) * (D // self.heads) ** -0.5 + bias_BHLL
        weight_BHLL = F.silu(scores_BHLL)
        if sequence.mask_B11L is not None:
            weight_BHLL = weight_BHLL * (sequence.mask_B11L == 0)
        seen_BHLd = weight_BHLL @ v_BHLd / sequence.lengths_B.view(B, 1, 1, 1)
        gated_BLD = self.output_norm(_flat(seen_BHLd)) * _flat(u_BHLd)
        added_BLD: Tensor = self.out(gated_BLD)
        return states_BLD + added_BLD


LAYERS = {"softmax": SoftmaxLayer, "gated": GatedLayer}


class LogEncoder(nn.Module):
    """Encodes [request token; events], so that the request's features condition every state.

    The request token also stands for an empty log: no query ever meets a request without a state.
    """

    def __init__(
        self, kind: Literal["softmax", "gated"], *, layers: int, width: int, heads: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.kind = kind
        self.layers = nn.ModuleList(LAYERS[kind](width, heads, hidden, dropout) for _ in range(layers))

    def forward(
        self,
        event_ED: Tensor,
        age_E: Tensor,
        lengths_B: Tensor,
        longest: int,
        request_BD: Tensor,
        pad: Callable[[Tensor, Tensor, int], Tensor],
    ) -> tuple[list[Tensor], Tensor | None]:
        """States [B, 1 + longest, D] after each layer (of the input, with no layers), and what to add to scores.

        event_ED are the logs' tokens back to back, age_E the log1p of their ages in seconds, lengths_B the logs'
        lengths, the largest of them `longest`; pad is the embedder's. The mask [B, 1, 1, 1 + longest] is 0 on states
        and -inf behind a shorter log; None for one request.
        """
        B = request_BD.shape[0]
        alone = B == 1
        event_BLD = event_ED.unsqueeze(0) if alone else pad(event_ED, lengths_B, longest)
        states_BLD = torch.cat([request_BD.unsqueeze(1), event_BLD], dim=1)
        mask_B11L = None
        if not alone:
            behind_BL = torch.arange(1 + longest, device=lengths_B.device) > lengths_B.unsqueeze(1)
            mask_BL = states_BLD.new_zeros(behind_BL.shape).masked_fill(behind_BL, float("-inf"))
            mask_B11L = mask_BL.view(B, 1, 1, 1 + longest)
        apart_BLL = None
        if self.kind == "gated" and len(self.layers):
            age_BL = age_E.unsqueeze(0) if alone else pad(age_E.unsqueeze(1), lengths_B, longest).squeeze(2)
            apart_BLL = _apart(age_BL, lengths_B)
        sequence = Sequence(mask_B11L, lengths_B + 1, apart_BLL)
        states = [] if len(self.layers) else [states_BLD]
        for layer in self.layers:
            states_BLD = layer(states_BLD, sequence)
            states.append(states_BLD)
        return states, mask_B11L


def _apart(age_BE: Tensor, lengths_B: Tensor) -> Tensor:
    """Buckets [B, 1 + E, 1 + E] of how far apart states are: time, place, and which of the two is the newer.

    The request's token stands at age 0, one place past the newest event. Differences of one request's states alone
    go in, so a longer batch mate changes nothing.
    """
    B, E = age_BE.shape
    second_BL = F.pad(torch.expm1(age_BE), (1, 0))
    place_BL = torch.arange(1 + E, device=age_BE.device).expand(B, -1).clone()
    place_BL[:, 0] = lengths_B + 1
    seconds_BLL = (second_BL.unsqueeze(2) - second_BL.unsqueeze(1)).abs()
    places_BLL = place_BL.unsqueeze(2) - place_BL.unsqueeze(1)
    time = (torch.log2(1 + seconds_BLL) / 2).long().clamp_(max=BUCKETS - 1)
    near = torch.log2(1 + places_BLL.abs()).long().clamp_(max=BUCKETS - 1)
    return ((places_BLL > 0).long() * BUCKETS + near) * BUCKETS + time


def _flat(heads_BHLd: Tensor) -> Tensor:
    B, H, L, d = heads_BHLd.shape
    return heads_BHLd.transpose(1, 2).reshape(B, L, H * d)
