"""Pairs of a candidate's own tokens: against a plain double loop, and only where a tier asks for them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kernels.linear_compress import bind
from ranker.model.pairs import ItemPairs
from ranker.model.tier import Tier
from tests.ranker.model.cases import LIGHT, MODEL, PlainEmbedder, make_batch


def pairs_reference(weights_HP: Tensor, item_NVD: Tensor) -> Tensor:
    """Same contract as ItemPairs, in the precision of what it is given."""
    N, V, _ = item_NVD.shape
    logits_NH = item_NVD.new_zeros(N, len(weights_HP))
    pair = 0
    for v in range(V):
        for w in range(v + 1, V):
            logits_NH += torch.outer((item_NVD[:, v] * item_NVD[:, w]).sum(1), weights_HP[:, pair])
            pair += 1
    assert pair == weights_HP.shape[1]
    return logits_NH


@pytest.mark.parametrize("tokens", [1, 2, 11], ids=lambda tokens: f"{tokens} tokens")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pairs_and_their_gradients_equal_a_double_loop_in_float64(tokens: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = ItemPairs(heads=2, item_tokens=tokens)
    with torch.no_grad():
        pairs.pairs_HP.normal_(generator=generator)
    item_NVD = torch.randn(5, tokens, 16, generator=generator).to(dtype).requires_grad_()
    weights_HP = pairs.pairs_HP.detach().double().requires_grad_()
    exact_NVD = item_NVD.detach().double().requires_grad_()
    logits_NH, expected_NH = pairs(item_NVD), pairs_reference(weights_HP, exact_NVD)
    assert logits_NH.dtype == torch.float32
    torch.testing.assert_close(logits_NH.double(), expected_NH, rtol=1e-5, atol=1e-5)
    logits_NH.square().sum().backward()  # type: ignore[no-untyped-call]
    expected_NH.square().sum().backward()
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2  # a gradient has the dtype of what it is of
    for actual, expected in ((item_NVD.grad, exact_NVD.grad), (pairs.pairs_HP.grad, weights_HP.grad)):
        assert actual is not None
        assert expected is not None
        torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_fresh_tier_scores_as_without_and_one_that_does_not_ask_has_no_such_weights() -> None:
    plain = Tier(MODEL, LIGHT, compress=bind("decomposed"))
    paired = Tier(MODEL, replace(LIGHT, item_pairs=True), compress=bind("decomposed"))
    assert paired.state_dict().keys() - plain.state_dict().keys() == {"item_pairs.pairs_HP"}
    batch, embedder = make_batch([3, 2], [4, 9]), PlainEmbedder()
    before = paired(batch, embedder, None).click_N
    assert torch.equal(before, plain(batch, embedder, None).click_N)
    with torch.no_grad():
        assert paired.item_pairs is not None
        paired.item_pairs.pairs_HP.fill_(1.0)
    assert not torch.allclose(paired(batch, embedder, None).click_N, before)
