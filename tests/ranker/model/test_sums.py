"""Sums over the log: their formula, and that they tell one request's log from another's."""

import math

import torch

from ranker.model.sums import AGES, SCALE, LogSums
from ranker.model.tokens import ACTIONS, newest
from tests.ranker.model.cases import PlainEmbedder, make_batch

K, D = 8, 16


def random_sums() -> LogSums:
    torch.manual_seed(0)
    sums = LogSums(K)
    with torch.no_grad():
        sums.action_AK.normal_()
        sums.age_GK.normal_()
    return sums


def test_sums_are_their_formula() -> None:
    lengths = [3, 0, 7, 1]
    batch = make_batch([1] * 4, lengths)
    log = newest(batch, 64)
    torch.manual_seed(1)
    item_ED = torch.randn(sum(lengths), D)
    sums = random_sums()
    sum_BKD = sums(log, item_ED, PlainEmbedder())
    first = 0
    for b, length in enumerate(lengths):
        for k in range(K):
            expected = torch.zeros(D, dtype=torch.float64)
            for e in range(first, first + length):
                bucket = min(math.floor(float(log.age_E[e])), AGES - 1)
                weight = sums.action_AK[int(log.action_E[e]), k].double() * sums.age_GK[bucket, k].double()
                expected += weight * item_ED[e].double()
            expected *= SCALE / math.sqrt(1 + length)
            torch.testing.assert_close(sum_BKD[b, k], expected.float(), rtol=1e-5, atol=1e-6)
        first += length


def test_a_log_alone_sums_as_in_company() -> None:
    sums, embedder = random_sums(), PlainEmbedder()
    batch = make_batch([1], [9])
    log = newest(batch, 64)
    item_ED = torch.randn(9, D)
    alone_KD = sums(log, item_ED, embedder)[0]
    both = newest(make_batch([1, 1], [9, 4]), 64)
    both.action_E[:9], both.age_E[:9] = log.action_E, log.age_E
    company_KD = sums(both, torch.cat([item_ED, torch.randn(4, D)]), embedder)[0]
    torch.testing.assert_close(alone_KD, company_KD)


def test_at_first_each_kind_of_action_has_a_sum_of_its_own() -> None:
    sums = LogSums(K)
    assert sums.action_AK.shape == (ACTIONS, K)
    assert torch.equal(sums.action_AK[1:6].argmax(1), torch.arange(1, 6))
    assert torch.equal(sums.action_AK.sum(1), torch.ones(ACTIONS))
