"""The recipes that are there by name, each a function that returns it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from feature_store.config import JoinConfig
from ranker.config import LearnerConfig
from ranker.recipes import demo_model, three_tiers
from router_bandit.budget import BudgetOptions
from streams.config.recipe import Cascade, Recipe, RoutingConfig, TrainingConfig

LOG_PREFIX = "log:"
"""Prefix of the names of the recipes of logs (streams/config/logged.py): `log:ml-100k`, `log:mapping.toml`."""


def default() -> Recipe:
    """Ten minutes for a click, after two seconds a provisional label, and a day for a conversion; the demo's model."""
    return Recipe(
        name="default",
        model=demo_model(),
        join=JoinConfig(click_elapsed_ms=2_000),
        training=TrainingConfig(learner=LearnerConfig(clicks="es_dfm")),
    )


def demo() -> Recipe:
    """The simulated world at its own pace: windows of seconds, so that a minute shows every part at work."""
    return Recipe(
        name="demo",
        model=demo_model(),
        join=JoinConfig(click_window_ms=2_000, attribution_window_ms=10_000),
        routing=RoutingConfig(reward_window_ms=4_000, budget=BudgetOptions(budget_ms=6.0, window=100)),
        # On two cores for everything: half the steps cost half the time, and keep a click fresh well within a second.
        training=TrainingConfig(step_s=0.2),
    )


def tiers() -> Recipe:
    """As the demo, with three tiers that read logs of 64, 512 and 2,048 events."""
    base = demo()
    routing = replace(
        base.routing, tiers=("light", "medium", "heavy"), cascades=(Cascade(first="light", then="heavy", keep=20),)
    )
    return replace(base, name="tiers", model=three_tiers(), routing=routing)


RECIPES: Mapping[str, Callable[[], Recipe]] = MappingProxyType({"default": default, "demo": demo, "tiers": tiers})
