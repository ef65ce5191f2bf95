"""A tier of the ranking model: what a request costs and how well it is ranked, behind one forward.

Follow a batch through `Tier.forward`: tokens → the log's states → layers of the two stacks → heads. The path is
one-way: candidates read the request's side, and nothing of a candidate reaches it or another candidate. So sharing
the request's side among its candidates gives each the score that it would get alone.
"""

# B requests, N candidates, U and V tokens of user and candidate, E log events, D token width.

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.linear_compress import Compress
from ranker.batch import Batch, Embedder, SlotValues
from ranker.config import LOG, ModelConfig, TierConfig
from ranker.hashing import hash64
from ranker.model.encoder import LogEncoder
from ranker.model.heads import (
    CLICK,
    CONVERSION,
    Heads,
    PositionBias,
    calibrate,
    calibration_identity,
    calibration_step,
)
from ranker.model.init import linear, normal
from ranker.model.reader import Grouping, StateReader
from ranker.model.tokens import DenseToken, EventTokens, Log, newest, slot_tokens
from ranker.model.wukong import CandidateLayer, UserLayer


@dataclass(frozen=True, slots=True)
class Logits:
    """float32 [N] each. Calibrated in serving, as the heads gave them (with the position's bias) in training."""

    click_N: Tensor
    conversion_N: Tensor


class Tier(nn.Module):
    """One tier over the shared embeddings. All that serving needs of it is in its state_dict.

    Parameters and buffers keep their addresses: updates are copied into them.
    """

    calibration: Tensor

    def __init__(self, model: ModelConfig, tier: TierConfig, *, compress: Compress) -> None:
        """Weights are drawn from model.seed and the tier's name, whatever the state of torch's generator.

        Raises ValueError for a model without candidate slots.
        """
        super().__init__()
        self.config = tier
        self.user_slots = model.side("user", "categorical") + model.side("context", "categorical")
        self.item_slots = model.side("candidate", "categorical")
        user_features = sum(s.kind == "numeric" and s.side != "candidate" for s in model.slots)
        item_features = len(model.side("candidate", "numeric"))
        if not self.item_slots and not item_features:
            raise ValueError(f"model {model.name!r} has no slot of side 'candidate': there is nothing to rank by")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((hash64(tier.name) + model.seed) % 2**63)
            self._build(model, tier, user_features, item_features, compress)

    def _build(
        self, model: ModelConfig, tier: TierConfig, user_features: int, item_features: int, compress: Compress
    ) -> None:
        D = model.width
        self.user_dense = DenseToken(user_features, tier.hidden, D) if user_features else None
        self.item_dense = DenseToken(item_features, tier.hidden, D) if item_features else None
        sent = len(self.user_slots) + bool(user_features)
        self.request_token = normal(D, fan_in=D)
        self.request = linear(sent * D, D) if sent else None
        self.events = EventTokens(D)
        self.encoder = LogEncoder(layers=tier.encoder_layers, width=D, heads=tier.heads, hidden=tier.hidden)

        self.readers, self.user_layers, self.item_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        user_tokens, item_tokens = sent + 1, len(self.item_slots) + bool(item_features)
        user_fm = tier.user_tokens // 2
        for _ in range(tier.layers):
            self.readers.append(
                StateReader(user_tokens=user_tokens, item_tokens=item_tokens, width=D, heads=tier.heads)
            )
            self.item_layers.append(
                CandidateLayer(
                    tokens=item_tokens,
                    user_tokens=user_tokens + 1,
                    fm=tier.fm_tokens,
                    compressed=tier.compressed_tokens,
                    rank=tier.fm_rank,
                    hidden=tier.hidden,
                    width=D,
                    compress=compress,
                )
            )
            self.user_layers.append(
                UserLayer(
                    tokens=user_tokens,
                    fm=user_fm,
                    compressed=tier.user_tokens - user_fm,
                    rank=tier.fm_rank,
                    hidden=tier.hidden,
                    width=D,
                )
            )
            user_tokens, item_tokens = tier.user_tokens, tier.fm_tokens + tier.compressed_tokens
        self.heads = Heads(user_tokens=user_tokens, item_tokens=item_tokens, hidden=tier.hidden, width=D)
        self.position = PositionBias(model.max_position)
        self.register_buffer("calibration", calibration_identity())

    def forward(self, batch: Batch, embedder: Embedder, position_N: Tensor | None) -> Logits:
        """Logits of every candidate of the batch (of at least one request).

        position_N: int64, where each candidate was shown: training. None: serving, with the bias of an average
        position, calibrated.
        """
        user_BUD, item_NVD = self.run_stacks(batch, embedder)
        logits_NH = self.heads(user_BUD, item_NVD, batch.request_of_N)
        click_N, conversion_N = logits_NH[:, CLICK], logits_NH[:, CONVERSION]
        if position_N is not None:
            return Logits(click_N + self.position.at(position_N), conversion_N)
        logits_NH = torch.stack([click_N + self.position.mean(), conversion_N], dim=1)
        calibrated_NH = calibrate(self.calibration, logits_NH)
        return Logits(calibrated_NH[:, CLICK], calibrated_NH[:, CONVERSION])

    def run_stacks(self, batch: Batch, embedder: Embedder) -> tuple[Tensor, Tensor]:
        """Final tokens of the requests [B, U, D] and of the candidates [N, V, D]."""
        log = newest(batch, self.config.log_length)
        user_BUD, item_NVD, log_ED = self._tokens(batch, log, embedder)
        states, mask_B11L = self.encoder(
            self.events(log, log_ED), log.lengths_B, log.longest, user_BUD[:, -1], embedder.pad
        )
        grouping = Grouping.of(batch.request_of_N, batch.num_requests)
        for depth, (read, user_layer, item_layer) in enumerate(
            zip(self.readers, self.user_layers, self.item_layers, strict=True)
        ):
            states_BLD = states[self._states_of(depth, len(states))]
            user_read_B1D, item_read_N1D = read(states_BLD, mask_B11L, user_BUD, item_NVD, grouping)
            user_all_BUD = torch.cat([user_BUD, user_read_B1D], dim=1)
            item_all_NVD = torch.cat([item_NVD, item_read_N1D], dim=1)
            item_NVD = item_layer(item_NVD, item_all_NVD, user_all_BUD, batch.request_of_N)
            user_BUD = user_layer(user_BUD, user_all_BUD)
        return user_BUD, item_NVD

    def _states_of(self, depth: int, available: int) -> int:
        """Each layer reads its own states: the last ones line up, and a shallow encoder's last serves the rest."""
        return min(depth + max(available - self.config.layers, 0), available - 1)

    def _tokens(self, batch: Batch, log: Log, embedder: Embedder) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of requests [B, U, D] (the last is the request's own), candidates [N, V, D] and log items [E, D]."""
        slots: dict[str, SlotValues] = {s.name: batch.slots[s.name] for s in (*self.user_slots, *self.item_slots)}
        embedded = embedder.embed({**slots, LOG: log.items})
        user = slot_tokens(self.user_slots, batch, embedded, embedder)
        if self.user_dense is not None:
            user.append(self.user_dense(batch.dense_user_BF))
        item = slot_tokens(self.item_slots, batch, embedded, embedder)
        if self.item_dense is not None:
            item.append(self.item_dense(batch.dense_item_NF))
        request_BD = self.request_token.expand(batch.num_requests, -1)
        if self.request is not None:
            request_BD = request_BD + self.request(torch.cat(user, dim=1))
        return torch.stack([*user, request_BD], dim=1), torch.stack(item, dim=1), embedded[LOG]

    @torch.no_grad()
    def observe(
        self,
        logits: Logits,
        position_N: Tensor,
        click_N: Tensor,
        conversion_N: Tensor,
        *,
        position_rate: float = 1e-3,
        calibration_rate: float = 2e-3,
    ) -> None:
        """Let serving know of graded impressions: the positions shown, and how calibrated the logits were.

        Call it once a training step, with the finite logits of its forward (of weights that had not learned from
        these labels). Labels are 0 or 1, float32, NaN where there is none. Rates are a labelled example's weight.
        """
        self.position.observe(position_N[~click_N.isnan()], rate=position_rate)
        logits_NH = torch.stack([logits.click_N, logits.conversion_N], dim=1)
        labels_NH = torch.stack([click_N, conversion_N], dim=1)
        self.calibration.copy_(calibration_step(self.calibration, logits_NH, labels_NH, rate=calibration_rate))


def count_parameters(tier: Tier) -> int:
    """Dense parameters of a tier; embeddings are not its own."""
    return sum(p.numel() for p in tier.parameters())
