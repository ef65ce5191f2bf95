"""A tier of the ranking model: what a request costs and how well it is ranked, behind one forward.

Follow a batch through `Tier.forward`: tokens → the log's states → layers of the two stacks → heads. The path is
one-way: candidates read the request's side, and nothing of a candidate reaches it or another candidate. So sharing
the request's side among its candidates gives each the score that it would get alone.
"""

# B requests, N candidates, U and V tokens of user and candidate, E log events, D token width.

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.linear_compress import Compress
from ranker.config import CROSSES, LOG, STATISTICS, ModelConfig, TierConfig
from ranker.inputs.batch import Batch, Embedder, PastBatch, SlotValues
from ranker.inputs.hashing import hash64
from ranker.model.direct import DirectLogits
from ranker.model.encoder import LogEncoder
from ranker.model.evidence import Evidence
from ranker.model.heads import (
    CLICK,
    CONVERSION,
    Heads,
    PositionBias,
    calibrate,
    calibration_identity,
    calibration_step,
    trust_start,
    trust_step,
    trusted,
)
from ranker.model.init import BESIDE_EMBEDDINGS, linear, normal
from ranker.model.prune import cut
from ranker.model.reader import Grouping
from ranker.model.stacks import STACKS, States
from ranker.model.statistics import Statistics, read_statistics
from ranker.model.tokens import DenseToken, EventTokens, Log, newest, slot_tokens
from ranker.model.wide import cross_weights


@dataclass(frozen=True, slots=True)
class Logits:
    """float32 [N] each. Calibrated in serving, as the heads gave them (with the position's bias) in training."""

    click_N: Tensor
    conversion_N: Tensor
    distilled_NH: Tensor | None = None
    """[N, 2], of the auxiliary head that learns from the heaviest tier; in training alone."""
    late_N: Tensor | None = None
    """[N], of the auxiliary head that learns which conversions come late; in training alone."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of requests [B, U, D] (the last is the request's own), of candidates [N, V, D] and of log items [E, D]."""

    user_BUD: Tensor
    item_NVD: Tensor
    log: Log | None
    log_ED: Tensor | None


class Tier(nn.Module):
    """One tier over the shared embeddings. All that serving needs of it is in its state_dict.

    Parameters and buffers keep their addresses: updates are copied into them.
    """

    calibration: Tensor
    """What serving applies."""
    platt: Tensor
    """The calibration without trust."""
    trust: Tensor
    lasting: Tensor

    def __init__(self, model: ModelConfig, tier: TierConfig, *, compress: Compress) -> None:
        """Weights are drawn from model.seed and the tier's name, whatever the state of torch's generator.

        Raises ValueError for a model without candidate slots, and for a `pruned` that does not fit the tier.
        """
        super().__init__()
        self.config = tier
        self.crosses, self.past_crosses = len(model.crosses), len(model.past_crosses)
        self.counted = len(model.statistics)
        self.register_buffer("lasting", torch.tensor(model.lasting_crosses, dtype=torch.int64), persistent=False)
        self.lasting_of_past = [model.past_crosses.index(place) for place in model.lasting_crosses]
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
        D, embedded = tier.width or model.width, model.width
        # One projection for all: slots may share a table, and the layers tell tokens apart by their place.
        self.widen = linear(embedded, D) if embedded != D else None
        self.user_dense = DenseToken(user_features, tier.hidden, D) if user_features else None
        self.item_dense = DenseToken(item_features, tier.hidden, D) if item_features else None
        sent = len(self.user_slots) + bool(user_features)
        self.request_token = normal(D, fan_in=1, gain=BESIDE_EMBEDDINGS)
        self.request = linear(sent * D, D) if sent else None
        self.events = EventTokens(D) if tier.read_length else None
        self.encoder = (
            LogEncoder(
                tier.encoder,
                layers=tier.encoder_layers,
                width=D,
                heads=tier.heads,
                hidden=tier.hidden,
                dropout=tier.dropout,
            )
            if tier.read_length
            else None
        )
        self.evidence = (
            Evidence(slots=len(model.evidence), hidden=tier.hidden, heads=2, prior=model.click_prior)
            if model.evidence and tier.log_length
            else None
        )
        self.statistics = Statistics(self.counted, model.conversion_prior) if self.counted else None
        user_tokens = sent + 1
        item_tokens = len(self.item_slots) + bool(item_features)
        self.stack = STACKS[tier.form](
            tier, user_tokens=user_tokens, item_tokens=item_tokens, width=D, compress=compress
        )
        self.direct = DirectLogits(heads=2, user_tokens=user_tokens, item_tokens=item_tokens, width=D)
        self.heads = Heads(
            tier,
            user_tokens=self.stack.user_tokens,
            item_tokens=self.stack.item_tokens,
            width=D,
            priors=(model.click_prior, model.conversion_prior),
            learns_late=model.learns_late,
        )
        self.position = PositionBias(model.max_position)
        self.register_buffer("calibration", calibration_identity())
        self.register_buffer("platt", calibration_identity())
        self.register_buffer("trust", trust_start())
        for pruned in tier.pruned:
            cut(self, tier.name, pruned)

    def forward(self, batch: Batch, embedder: Embedder, position_N: Tensor | None) -> Logits:
        """Logits of every candidate of the batch (of at least one request).

        position_N: int64, where each candidate was shown: training. None: serving, with the bias of an average
        position, calibrated.
        """
        tokens = self.tokens(batch, embedder)
        grouping = Grouping.of(batch.request_of_N, batch.num_requests)
        user_BUD, item_NVD = self.stack(tokens.user_BUD, tokens.item_NVD, self.states(tokens, embedder), grouping)
        direct_NH = self.direct(tokens.user_BUD, tokens.item_NVD, grouping)
        plain_NH = self._plain(batch, embedder)
        if plain_NH is not None:
            direct_NH = direct_NH + plain_NH
        logits_NH, distilled_NH, late_N = self.heads(user_BUD, item_NVD, direct_NH, batch.request_of_N)
        click_N, conversion_N = logits_NH[:, CLICK], logits_NH[:, CONVERSION]
        if position_N is not None:
            bias_N = self.position.at(position_N)
            if distilled_NH is not None:
                distilled_NH = distilled_NH + torch.stack([bias_N, torch.zeros_like(bias_N)], dim=1)
            return Logits(click_N + bias_N, conversion_N, distilled_NH, late_N)
        logits_NH = torch.stack([click_N + self.position.mean(), conversion_N], dim=1)
        calibrated_NH = calibrate(self.calibration, logits_NH)
        return Logits(calibrated_NH[:, CLICK], calibrated_NH[:, CONVERSION])

    def past_logits(self, past: PastBatch, embedder: Embedder) -> Tensor:
        """Logits [M] of a click, by crosses and evidence alone: training."""
        assert self.evidence is not None
        wide_M = expected_M = past.click_M.new_zeros(len(past.click_M))
        if past.crosses is not None:
            weights_MC = cross_weights(past.crosses, self.past_crosses, embedder)[:, :, CLICK]
            wide_M, expected_M = weights_MC.sum(dim=1), weights_MC[:, self.lasting_of_past].sum(dim=1)
        logits_MH = self.evidence(past.evidence_MSC, expected_M.detach())
        click_M: Tensor = logits_MH[:, CLICK] + wide_M + self.evidence.bias
        return click_M

    def tokens(self, batch: Batch, embedder: Embedder) -> Tokens:
        """What the batch says, as tokens; in training with some of them zeroed, as dropout asks."""
        log = newest(batch, self.config.read_length) if self.config.read_length else None
        slots: dict[str, SlotValues] = {s.name: batch.slots[s.name] for s in (*self.user_slots, *self.item_slots)}
        embedded = embedder.embed(slots if log is None else {**slots, LOG: log.items})
        if self.widen is not None:
            embedded = {name: self.widen(values_TD) for name, values_TD in embedded.items()}
        user = slot_tokens(self.user_slots, batch, embedded, embedder)
        if self.user_dense is not None:
            user.append(self.user_dense(batch.dense_user_BF))
        item = slot_tokens(self.item_slots, batch, embedded, embedder)
        if self.item_dense is not None:
            item.append(self.item_dense(batch.dense_item_NF))
        request_BD = self.request_token.expand(batch.num_requests, -1)
        if self.request is not None:
            request_BD = request_BD + self.request(torch.cat(user, dim=1))
        user_BUD, item_NVD = torch.stack([*user, request_BD], dim=1), torch.stack(item, dim=1)
        if self.config.dropout:
            user_BUD = F.dropout(user_BUD, self.config.dropout, self.training)
            item_NVD = F.dropout(item_NVD, self.config.dropout, self.training)
        return Tokens(user_BUD, item_NVD, log, None if log is None else embedded[LOG])

    def _plain(self, batch: Batch, embedder: Embedder) -> Tensor | None:
        """Logits [N, H] of crosses, evidence and statistics; None where there is none."""
        plain_NH: Tensor | None = None
        expected_N = batch.dense_item_NF.new_zeros(batch.num_candidates)
        if self.crosses:
            weights_NCH = cross_weights(batch.slots[CROSSES], self.crosses, embedder)
            plain_NH = weights_NCH.sum(dim=1)
            expected_N = weights_NCH[:, :, CLICK].index_select(1, self.lasting).sum(dim=1).detach()
        if self.evidence is not None:
            if batch.evidence_NSC is None:
                raise ValueError(f"tier {self.config.name!r} reads evidence, and the batch has none (Featurizer.batch)")
            evidence_NH = self.evidence(batch.evidence_NSC, expected_N)
            plain_NH = evidence_NH if plain_NH is None else plain_NH + evidence_NH
        if self.statistics is not None:
            statistics_NSC = read_statistics(batch.slots[STATISTICS], self.counted, embedder)
            statistics_NH = self.statistics(statistics_NSC, expected_N + self.heads.out_bias[CLICK].detach())
            plain_NH = statistics_NH if plain_NH is None else plain_NH + statistics_NH
        return plain_NH

    def states(self, tokens: Tokens, embedder: Embedder) -> States | None:
        """The log as every candidate of a request will read it; None for a tier that reads none."""
        log, log_ED = tokens.log, tokens.log_ED
        if self.events is None or self.encoder is None or log is None or log_ED is None:
            return None
        layers, mask_B11L = self.encoder(
            self.events(log, log_ED), log.age_E, log.lengths_B, log.longest, tokens.user_BUD[:, -1], embedder.pad
        )
        return States(layers, mask_B11L)

    @torch.no_grad()
    def observe(
        self,
        logits: Logits,
        position_N: Tensor,
        labels_NH: Tensor,
        weights_NH: Tensor,
        *,
        means: tuple[float, float] | None = None,
        position_rate: float = 1e-3,
        calibration_rate: float = 2e-3,
    ) -> None:
        """Let serving know of graded impressions: the positions shown, and how calibrated the logits were.

        Call it once a training step, with the finite logits of its forward (of weights that had not learned from
        these labels). labels_NH, of clicks and conversions: float32 in [0, 1], NaN where there is none; weights_NH: how
        often each counts. means: log-odds of the mean click before these labels and with them: clicks are trusted as
        far as they told apart better than the former, and predicted towards the latter where they are not; None: they
        are trusted. Rates are a labelled example's weight.
        """
        shown_N = ~labels_NH[:, 0].isnan() & (weights_NH[:, 0] > 0)
        self.position.observe(position_N[shown_N], rate=position_rate)
        logits_NH = torch.stack([logits.click_N, logits.conversion_N], dim=1)
        if means is not None:
            calibrated_N = calibrate(self.platt, logits_NH)[:, CLICK]
            self.trust.copy_(trust_step(self.trust, calibrated_N, labels_NH[:, CLICK], weights_NH[:, CLICK], means[0]))
        self.platt.copy_(
            calibration_step(self.platt, logits_NH, labels_NH, weights_NH=weights_NH, rate=calibration_rate)
        )
        self.calibration.copy_(self.platt)
        if means is not None:
            self.calibration[CLICK] = trusted(self.platt[CLICK], self.trust, means[1])


def is_plain(parameter: str) -> bool:
    """Whether the parameter of this name is of what counts, rather than of the layers: few, and soon known."""
    return parameter.startswith(("evidence.", "statistics.", "position.")) or parameter == "heads.out_bias"


def count_parameters(tier: Tier) -> int:
    """Dense parameters of a tier; embeddings are not its own."""
    return sum(p.numel() for p in tier.parameters())
