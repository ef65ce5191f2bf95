"""Models for logs: slots as a log has them, sizes for a minute's training on a CPU."""

from collections.abc import Sequence

from ranker.config import ANY, HOUR, ITEM, LOG, SURFACE, USER, ModelConfig, Slot, TableConfig, TierConfig

_OWN = {USER, ITEM, LOG, HOUR, SURFACE}
"""Slots that are filled without a feature of that name."""


def log_model(
    name: str,
    *,
    user: Sequence[str] = (),
    item: Sequence[str] = (),
    context: Sequence[str] = (),
    numeric: Sequence[str] = (),
    hour: bool = True,
    rows: int = 20_000,
) -> ModelConfig:
    """A one-tier model with the ids of user and item, and the named features of each side.

    The log is counted as a whole and for each category of the items, which says what a user makes of it; crosses are
    each category alone, and the item with those of the user and the context.

    Features named in `numeric` are dense inputs, all others categories. Raises ValueError for a name used twice, or
    one that the model fills by itself.
    """
    if taken := _OWN & {*user, *item, *context}:
        raise ValueError(f"features must not be named {sorted(taken)}: the model fills those slots itself")
    slots = [Slot(name=USER, side="user"), Slot(name=ITEM, side="candidate", table="items")]
    if hour:
        slots.append(Slot(name=HOUR, side="context"))
    for side, names in (("user", user), ("context", context), ("candidate", item)):
        for feature in names:
            kind = "numeric" if feature in numeric else "categorical"
            slots.append(Slot(name=feature, side=side, kind=kind))  # type: ignore[arg-type]
    of_item = [feature for feature in item if feature not in numeric]
    of_request = [feature for feature in (*user, *context) if feature not in numeric]
    return ModelConfig(
        name=name,
        slots=tuple(slots),
        tables=(TableConfig(name="items", rows=rows), TableConfig(name="shared", rows=rows)),
        tiers=(TierConfig(name="light", layers=1, log_length=64, hidden=32),),
        evidence=(ITEM, ANY, *of_item),
        crosses=(
            *((feature,) for feature in (USER, ITEM, *of_request, *of_item)),
            *((feature, ITEM) for feature in of_request),
            *((USER, feature) for feature in of_item),
        ),
    )
