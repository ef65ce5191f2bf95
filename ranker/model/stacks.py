"""The layers of a tier, from tokens to tokens, in either form of sharing; at every layer both sides read the log.

What a request reads has a query of its own, from its own tokens: so a form shares all that does not depend on the
candidate, and equals its evaluation pair by pair.
"""

# B requests, N candidates, U and V tokens of user and candidate, L states, D token width.

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.linear_compress import Compress
from ranker.config import TierConfig
from ranker.model.reader import Grouping, StateReader
from ranker.model.wukong import CandidateLayer, ExactLayer, UserLayer


@dataclass(frozen=True, slots=True)
class States:
    """The log's states [B, L, D] after each layer of the encoder, and their mask; see LogEncoder."""

    layers: list[Tensor]
    mask_B11L: Tensor | None

    def at(self, depth: int, depths: int) -> Tensor:
        """Each layer reads its own states: the last ones line up, and a shallow encoder's last serves the rest."""
        return self.layers[min(depth + max(len(self.layers) - depths, 0), len(self.layers) - 1)]


class Stack(nn.Module):
    """Either form. user_tokens and item_tokens: how many tokens of each side come out."""

    user_tokens: int
    item_tokens: int

    def __init__(self, tier: TierConfig) -> None:
        super().__init__()
        self.readers = nn.ModuleList()
        self.reads = int(tier.read_length > 0)
        self.depths = tier.layers
        self.item_tokens = tier.fm_tokens + tier.compressed_tokens

    def _add_reader(self, tier: TierConfig, user_tokens: int, item_tokens: int, width: int) -> None:
        if self.reads:
            self.readers.append(
                StateReader(user_tokens=user_tokens, item_tokens=item_tokens, width=width, heads=tier.heads)
            )

    def _read(
        self, depth: int, states: States | None, user_BUD: Tensor, item_NVD: Tensor, grouping: Grouping
    ) -> tuple[Tensor, Tensor]:
        """What the request and the candidates read, [B, 1, D] and [N, 1, D]; no tokens at all without a log."""
        if states is None:
            return user_BUD[:, :0], item_NVD[:, :0]
        read: tuple[Tensor, Tensor] = self.readers[depth](
            states.at(depth, self.depths), states.mask_B11L, user_BUD, item_NVD, grouping
        )
        return read


class TwoStack(Stack):
    """The request's tokens go through layers of their own; at each, the candidates' rows cross its input."""

    def __init__(self, tier: TierConfig, *, user_tokens: int, item_tokens: int, width: int, compress: Compress) -> None:
        super().__init__(tier)
        self.user_layers, self.item_layers = nn.ModuleList(), nn.ModuleList()
        self.user_tokens = tier.user_tokens
        for _ in range(tier.layers):
            self._add_reader(tier, user_tokens, item_tokens, width)
            self.item_layers.append(
                CandidateLayer(
                    tier,
                    tokens=item_tokens,
                    reads=self.reads,
                    user_tokens=user_tokens + self.reads,
                    width=width,
                    compress=compress,
                )
            )
            self.user_layers.append(UserLayer(tier, tokens=user_tokens, reads=self.reads, width=width))
            user_tokens, item_tokens = self.user_tokens, self.item_tokens

    def forward(
        self, user_BUD: Tensor, item_NVD: Tensor, states: States | None, grouping: Grouping
    ) -> tuple[Tensor, Tensor]:
        for depth, (user_layer, item_layer) in enumerate(zip(self.user_layers, self.item_layers, strict=True)):
            user_read, item_read = self._read(depth, states, user_BUD, item_NVD, grouping)
            user_all_BUD = torch.cat([user_BUD, user_read], dim=1)
            item_all_NVD = torch.cat([item_NVD, item_read], dim=1)
            item_NVD = item_layer(item_NVD, item_all_NVD, user_all_BUD, grouping.request_of_N)
            user_BUD = user_layer(user_BUD, user_all_BUD)
        return user_BUD, item_NVD


class ExactStack(Stack):
    """One stack over the tokens of both sides. The request's come out as they went in: heads read them beside it."""

    def __init__(self, tier: TierConfig, *, user_tokens: int, item_tokens: int, width: int, compress: Compress) -> None:
        super().__init__(tier)
        self.layers = nn.ModuleList()
        self.user_tokens = user_tokens
        for depth in range(tier.layers):
            self._add_reader(tier, user_tokens, item_tokens, width)
            self.layers.append(
                ExactLayer(
                    tier,
                    tokens=item_tokens,
                    reads=self.reads,
                    user_tokens=self.reads + (0 if depth else user_tokens),
                    first=depth == 0,
                    width=width,
                    compress=compress,
                )
            )
            item_tokens = self.item_tokens

    def forward(
        self, user_BUD: Tensor, item_NVD: Tensor, states: States | None, grouping: Grouping
    ) -> tuple[Tensor, Tensor]:
        for depth, layer in enumerate(self.layers):
            user_read, item_read = self._read(depth, states, user_BUD, item_NVD, grouping)
            item_all_NVD = torch.cat([item_NVD, item_read], dim=1)
            user_in = user_read if depth else torch.cat([user_BUD, user_read], dim=1)
            item_NVD = layer(item_NVD, item_all_NVD, user_in, grouping)
        return user_BUD, item_NVD


STACKS: dict[str, type[TwoStack] | type[ExactStack]] = {"two_stack": TwoStack, "exact": ExactStack}
