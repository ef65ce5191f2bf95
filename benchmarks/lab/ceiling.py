"""What a log of some length can tell about passions, at best: the normalized entropy of an ideal reader.

The ideal reader knows all of the world but who has which passion, and weighs each user's impressions of a theme, as
far as its log reaches, by Bayes' rule. No model can beat it with that log; what it gains from a longer one is what
there is to gain.
"""

# n graded impressions, L lengths.

from dataclasses import dataclass

import numpy as np

from benchmarks.lab.grades import entropy
from benchmarks.lab.simulated import Plan, draw_impressions
from ranker.arrays import F32, F64, I64
from streams.simulate.config import WORLDS
from streams.simulate.world import World, sigmoid

_EVENTS_PER_IMPRESSION = 1.15
"""Clicks, searches and purchases lie in the log as well."""


@dataclass(frozen=True)
class Ideal:
    place_n: I64
    """Which impressions of the stream these are."""
    click_n: F32
    p_Ln: F64
    """Predictions of the ideal reader, by log length."""


def ceilings(plan: Plan, lengths: list[int]) -> list[float]:
    """By log length."""
    ideal = ideal_reader(plan, lengths)
    return [entropy(ideal.click_n, p_n) for p_n in ideal.p_Ln]


def ideal_reader(plan: Plan, lengths: list[int], *, sample: int = 4_000) -> Ideal:
    """Predicts `sample` impressions of the stream's last half."""
    world = World(WORLDS[plan.world](), seed=plan.seed)
    if world.riches is None:
        raise ValueError(f"world {plan.world!r} has no themes, so no passions that a log could tell of")
    drawn = draw_impressions(plan, world)
    passion_n = world.riches.passion_UH[drawn.shown.user, world.item_theme[drawn.shown.item]]
    rest_n = drawn.logit - passion_n
    look_n = world.examination(drawn.shown.position)
    low, high = np.unique(world.riches.passion_UH)[[0, -1]]
    p_low_n, p_high_n = look_n * sigmoid(rest_n + low), look_n * sigmoid(rest_n + high)
    hit_n = drawn.clicked
    ratio_n: F64 = np.where(hit_n, np.log(p_high_n / p_low_n), np.log((1 - p_high_n) / (1 - p_low_n)))

    rng = np.random.default_rng([plan.seed, 8])
    graded_n = rng.choice(np.arange(len(hit_n) - plan.requests * plan.candidates // 2, len(hit_n)), sample)
    user_n, theme_n = drawn.shown.user, world.item_theme[drawn.shown.item]
    of_user = {int(u): np.flatnonzero(user_n == u) for u in np.unique(user_n[graded_n])}
    prior = np.log(world.config.theme_share / (1 - world.config.theme_share))
    p_Ln = np.empty((len(lengths), sample))
    for column, n in enumerate(graded_n.tolist()):
        mine = of_user[int(user_n[n])]
        order = np.argsort(drawn.shown.at_ms[mine], kind="stable")
        past = mine[order][: int(np.searchsorted(drawn.shown.at_ms[mine][order], drawn.shown.at_ms[n]))]
        for row, length in enumerate(lengths):
            read = past[len(past) - min(len(past), round(length / _EVENTS_PER_IMPRESSION)) :]
            has = sigmoid(np.asarray(prior + ratio_n[read[theme_n[read] == theme_n[n]]].sum()))
            p_Ln[row, column] = has * p_high_n[n] + (1 - has) * p_low_n[n]
    before = len(hit_n) - plan.requests * plan.candidates
    return Ideal(graded_n - before, hit_n[graded_n].astype(np.float32), p_Ln)
