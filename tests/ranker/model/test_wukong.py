"""The layers' decompositions equal the plain formulas over [U; V]."""

import pytest
import torch

from kernels.linear_compress import bind
from ranker.config import TierConfig
from ranker.model.reader import Grouping
from ranker.model.wukong import CandidateLayer, ExactLayer
from ranker.model.wukong_reference import exact_layer_reference

TIER = TierConfig(name="tests", fm_tokens=3, compressed_tokens=2, fm_rank=6, hidden=16)
B, U, N, V, D = 3, 5, 7, 4, 8
REQUEST_OF_N = torch.tensor([0, 0, 0, 2, 2, 2, 2])


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(B, U, D), torch.randn(N, V, D)


def test_candidate_layer_is_wukong_over_user_and_candidate_tokens() -> None:
    user_BUD, item_NVD = tokens()
    layer = CandidateLayer(TIER, tokens=V - 1, reads=1, user_tokens=U, width=D, compress=bind("decomposed"))
    out_NOD = layer(item_NVD[:, :-1], item_NVD, user_BUD, REQUEST_OF_N)

    compressed, blocks, skip_OV = layer.compressed, layer.blocks, layer.skip_OV
    assert skip_OV is not None
    weights_KT = torch.cat([layer.w_user_KU, layer.w_item_KV], dim=1)
    W, Y = weights_KT[:compressed], weights_KT[compressed:].T
    for n in range(N):
        X = torch.cat([user_BUD[REQUEST_OF_N[n]], item_NVD[n]])
        pairs = (X @ (X.T @ Y))[U:]  # the candidate's rows of X·XᵀY
        fmb = blocks.fm.down(torch.relu(blocks.fm.up(blocks.fm_norm(pairs.flatten())))).view(-1, D)
        expected = blocks.norm(torch.cat([fmb, W @ X]) + skip_OV @ item_NVD[n, :-1])
        torch.testing.assert_close(out_NOD[n], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attentive", [False, True], ids=["one Y", "attentive Y"])
@pytest.mark.parametrize(("user_tokens", "first"), [(U, True), (1, False), (0, False)])
def test_exact_layer_is_wukong_over_all_tokens(user_tokens: int, first: bool, attentive: bool) -> None:
    user_BUD, item_NVD = tokens()
    user_BUD = user_BUD[:, :user_tokens]
    tier = TierConfig(name="tests", fm_tokens=2, compressed_tokens=1, fm_rank=6, hidden=16, attentive=attentive)
    layer = ExactLayer(
        tier, tokens=V - 1, reads=1, user_tokens=user_tokens, first=first, width=D, compress=bind("decomposed")
    )
    grouping = Grouping.of(REQUEST_OF_N, B)
    arguments = (item_NVD[:, :-1], item_NVD, user_BUD, grouping)
    expected = exact_layer_reference(layer, *arguments)
    assert expected.shape == (N, 3, D)
    torch.testing.assert_close(layer(*arguments), expected, rtol=1e-4, atol=1e-5)


def test_grouping_pads_and_unpads_ragged_requests() -> None:
    grouping = Grouping.of(torch.tensor([0, 0, 2, 3, 3, 3]), 5)
    rows = torch.arange(12.0).view(6, 2)
    padded = grouping.pad(rows)
    assert padded.shape == (5, 3, 2)
    assert padded[:, :, 0].tolist() == [[0, 2, 0], [0, 0, 0], [4, 0, 0], [6, 8, 10], [0, 0, 0]]
    assert torch.equal(grouping.unpad(padded), rows)


def test_grouping_leaves_one_request_as_it_is() -> None:
    rows = torch.randn(6, 2)
    grouping = Grouping.of(torch.zeros(6, dtype=torch.int64), 1)
    assert grouping.pad(rows).data_ptr() == rows.data_ptr()
    assert torch.equal(grouping.unpad(grouping.pad(rows)), rows)
