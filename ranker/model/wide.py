"""The wide part: a weight for every cross of slot values, summed (Cheng et al., 2016, "Wide & Deep Learning").

    logit = Σ_c w[cross c of the candidate]

A cross is a key that is hashed into the table of crosses, which all tiers share. It remembers what values say together,
as "this segment, this theme": a layer would have to learn a function for it.
"""

# N candidates, C crosses, H the two heads.

from torch import Tensor

from ranker.config import CROSSES
from ranker.inputs.batch import Embedder, SlotValues


def cross_weights(crosses: SlotValues, count: int, embedder: Embedder) -> Tensor:
    """[N, C, H] of `count` crosses for each candidate."""
    weights_TH = embedder.embed({CROSSES: crosses})[CROSSES]
    return weights_TH.view(-1, count, weights_TH.shape[1])
