"""Whole configurations, as functions."""

from dataclasses import replace

from ranker.config import HOUR, ITEM, SURFACE, USER, ModelConfig, Slot, TableConfig, TierConfig


def demo_model() -> ModelConfig:
    """Two tiers on a laptop: what the demo, and the tests of the whole, run. They differ by the log that they count.

    Small enough that an update with all dense tensors stays in one record of Kafka's default size. The log is counted
    and not read: attention over it takes time and was not better by more than its spread (docs/decisions.md).
    """
    return ModelConfig(
        name="demo",
        slots=(
            Slot(name=USER, side="user"),
            Slot(name="segment", side="user"),
            Slot(name=SURFACE, side="context"),
            Slot(name=HOUR, side="context"),
            Slot(name="device", side="context"),
            Slot(name=ITEM, side="candidate", table="items"),
            Slot(name="category", side="candidate"),
            Slot(name="campaign", side="candidate"),
            Slot(name="advertiser", side="candidate"),
            Slot(name="price", side="candidate", kind="numeric"),
        ),
        tables=(TableConfig(name="items", rows=20_000), TableConfig(name="shared", rows=20_000)),
        tiers=(
            TierConfig(name="light", layers=1, log_length=64, hidden=32),
            TierConfig(name="heavy", layers=1, log_length=256, hidden=32),
        ),
        width=16,
        evidence=(ITEM, "category", "campaign", "advertiser"),
        crosses=(
            *((name,) for name in ("segment", SURFACE, HOUR, "device", ITEM, "category", "campaign", "advertiser")),
            *((name, "category") for name in ("segment", SURFACE, HOUR, "device")),
            ("segment", "device", "category"),
            (SURFACE, HOUR, "category"),
        ),
        statistics=((ITEM,), ("campaign",), ("category",), ("segment", "category")),
    )


def three_tiers() -> ModelConfig:
    """Light, medium and heavy: each counts a longer log, and costs more; what a router chooses from.

    Nothing else differs. More layers, wider ones, attention over the log and distillation cost more and were not better
    by more than their spread (docs/results/tiers.md).
    """
    demo = demo_model()
    return replace(
        demo,
        name="three-tiers",
        slots=(*demo.slots, Slot(name="theme", side="candidate")),
        evidence=(*demo.evidence, "theme"),
        crosses=(*demo.crosses, ("theme",), *((name, "theme") for name in ("segment", SURFACE, HOUR, "device"))),
        tiers=tuple(
            TierConfig(name=name, layers=1, log_length=log_length, hidden=32)
            for name, log_length in (("light", 64), ("medium", 512), ("heavy", 2_048))
        ),
    )
