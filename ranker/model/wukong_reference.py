"""The exact form as its formula reads: all tokens of a pair in one tensor, the request's copied for each candidate."""

# B requests, N candidates, U and V tokens of user and candidate, T = V + U, R rank, D token width.

import torch
from torch import Tensor

from ranker.model.reader import Grouping
from ranker.model.wukong import ExactLayer


def exact_layer_reference(
    layer: ExactLayer, own_NVD: Tensor, all_NVD: Tensor, user_BUD: Tensor, grouping: Grouping
) -> Tensor:
    """Same contract as layer(...): slow, and obviously Wukong."""
    user_NUD = user_BUD.index_select(0, grouping.request_of_N)
    x_NTD = torch.cat([all_NVD, user_NUD], dim=1)
    weights = layer.w_item_KV if layer.w_user_KU is None else torch.cat([layer.w_item_KV, layer.w_user_KU], dim=1)
    compressed, rank = layer.compressed, layer.rank
    mixed_NKD = weights @ x_NTD
    y_NRD = mixed_NKD[:, compressed : compressed + rank]
    if layer.attentive_item is not None:
        y_NRD = y_NRD + layer.attentive_item(all_NVD)
    if layer.attentive_user is not None:
        y_NRD = y_NRD + layer.attentive_user(user_NUD)
    pairs_NTR = x_NTD @ y_NRD.transpose(1, 2)
    V = all_NVD.shape[1]
    # The layer's weights over U's pairs are laid out rank first.
    pairs_NP = torch.cat([pairs_NTR[:, :V].flatten(1), pairs_NTR[:, V:].transpose(1, 2).flatten(1)], dim=1)
    first = len(weights) > compressed + rank
    skip_NOD = mixed_NKD[:, compressed + rank :] if first else own_NVD
    out_NOD: Tensor = layer.blocks(pairs_NP, mixed_NKD[:, :compressed], skip_NOD)
    return out_NOD
