"""The recipe that workers run with while a log is replayed: its slots, its windows, its clock."""

from pathlib import Path

from feature_store.config import JoinConfig, LogConfig
from streams.config.builtin import LOG_PREFIX
from streams.config.recipe import RankingConfig, Recipe, RoutingConfig
from streams.datasets.logs.columns import load_mapping
from streams.datasets.logs.sources import open_log

PREFIX = LOG_PREFIX


def log_recipe(log: str) -> Recipe:
    """Returns the recipe of a log, given by name (`obd`, `ml-100k`) or by the path of a column mapping. Raises
    ValueError where `log` is neither.

    One tier and no bids: what is judged is the click probability of what was shown, not the order.
    """
    if log.endswith(".toml"):
        mapping = load_mapping(Path(log))
        model, window_ms = mapping.model(Path(log).stem), round(mapping.click_window_s * 1000)
        begins_ms = mapping.begins_ms
    else:
        source = open_log(log)
        model, window_ms, begins_ms = source.model, source.click_window_ms, source.begins_ms
    return Recipe(
        name=f"{PREFIX}{log}",
        model=model,
        log=LogConfig(length=model.max_log_length),
        # Logs of impressions and clicks know of no purchases.
        join=JoinConfig(
            click_window_ms=window_ms,
            attribution_window_ms=window_ms,
            state_ttl_s=max(JoinConfig().state_ttl_s, 2 * window_ms // 1000),
        ),
        ranking=RankingConfig(value="pctr"),
        routing=RoutingConfig(tiers=tuple(tier.name for tier in model.tiers), cascades=(), reward_window_ms=window_ms),
        clock="event",
        min_event_ms=begins_ms,
    )
