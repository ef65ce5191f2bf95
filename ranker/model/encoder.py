"""The log encoder: sequence states of a request, computed once for all its candidates."""

# B requests, L states of a request, H attention heads, D token width.

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.model.init import linear, norm


class EncoderLayer(nn.Module):
    """Softmax self-attention, then a two-layer MLP; each on a norm of its input, added to it. No biases."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = norm(width)
        self.qkv = linear(width, 3 * width)
        self.out = linear(width, width)
        self.mlp_norm = norm(width)
        self.up = linear(width, hidden)
        self.down = linear(hidden, width, after_relu=True)

    def forward(self, states_BLD: Tensor, mask_B11L: Tensor | None) -> Tensor:
        B, L, D = states_BLD.shape
        qkv = self.qkv(self.attention_norm(states_BLD)).view(B, L, 3, self.heads, D // self.heads)
        q_BHLd, k_BHLd, v_BHLd = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        seen_BHLd = F.scaled_dot_product_attention(q_BHLd, k_BHLd, v_BHLd, attn_mask=mask_B11L)
        states_BLD = states_BLD + self.out(seen_BHLd.transpose(1, 2).reshape(B, L, D))
        added_BLD: Tensor = self.down(F.relu(self.up(self.mlp_norm(states_BLD))))
        return states_BLD + added_BLD


class LogEncoder(nn.Module):
    """Encodes [request token; events], so that the request's features condition every state.

    The request token also stands for an empty log: no query ever meets a request without a state.
    """

    def __init__(self, *, layers: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(layers))

    def forward(
        self,
        event_ED: Tensor,
        lengths_B: Tensor,
        longest: int,
        request_BD: Tensor,
        pad: Callable[[Tensor, Tensor, int], Tensor],
    ) -> tuple[list[Tensor], Tensor | None]:
        """States [B, 1 + longest, D] after each layer (of the input, with no layers), and what to add to scores.

        event_ED are the logs' tokens back to back, lengths_B their lengths, the largest of them `longest`; pad is
        the embedder's. The mask [B, 1, 1, 1 + longest] is 0 on states and -inf behind a shorter log; None for one
        request.
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
        states = [] if len(self.layers) else [states_BLD]
        for layer in self.layers:
            states_BLD = layer(states_BLD, mask_B11L)
            states.append(states_BLD)
        return states, mask_B11L
