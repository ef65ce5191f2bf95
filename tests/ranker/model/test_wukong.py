"""The layers' decompositions equal the plain formulas over [U; V]."""

import torch

from kernels.linear_compress import bind
from ranker.model.reader import Grouping
from ranker.model.wukong import CandidateLayer


def test_candidate_layer_is_wukong_over_user_and_candidate_tokens() -> None:
    torch.manual_seed(0)
    B, U, N, V, D, fm, compressed, rank = 3, 5, 7, 4, 8, 3, 2, 6
    layer = CandidateLayer(
        tokens=V - 1,
        user_tokens=U,
        fm=fm,
        compressed=compressed,
        rank=rank,
        hidden=16,
        width=D,
        compress=bind("decomposed"),
    )
    user_BUD, item_NVD = torch.randn(B, U, D), torch.randn(N, V, D)
    request_of_N = torch.tensor([0, 0, 0, 2, 2, 2, 2])
    out_NOD = layer(item_NVD[:, :-1], item_NVD, user_BUD, request_of_N)

    weights_KT = torch.cat([layer.w_user_KU, layer.w_item_KV], dim=1)
    W, Y = weights_KT[:compressed], weights_KT[compressed:].T
    for n in range(N):
        X = torch.cat([user_BUD[request_of_N[n]], item_NVD[n]])
        pairs = (X @ (X.T @ Y))[U:]  # the candidate's rows of X·XᵀY
        blocks = layer.blocks
        fmb = blocks.fm_down(torch.relu(blocks.fm_up(blocks.fm_norm(pairs.flatten())))).view(fm, D)
        assert blocks.skip_OT is None or blocks.skip_OT.shape == (fm + compressed, V - 1)
        own = item_NVD[n, :-1]
        skip = own if blocks.skip_OT is None else blocks.skip_OT @ own
        expected = blocks.norm(torch.cat([fmb, W @ X]) + skip)
        torch.testing.assert_close(out_NOD[n], expected, rtol=1e-4, atol=1e-5)


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
