"""The plain form of linear compression, to compare the others with: slow, obviously right."""

import torch
from torch import Tensor


def linear_compress_reference(
    user_BUD: Tensor, item_NVD: Tensor, request_of_N: Tensor, w_user_KU: Tensor, w_item_KV: Tensor
) -> Tensor:
    """Same contract as linear_compress: repeats the user's tokens for each candidate, sums in float64."""
    tokens_NTD = torch.cat([user_BUD[request_of_N], item_NVD], dim=1).double()
    w_KT = torch.cat([w_user_KU, w_item_KV], dim=1).double()
    return torch.einsum("kt,ntd->nkd", w_KT, tokens_NTD).to(item_NVD.dtype)
