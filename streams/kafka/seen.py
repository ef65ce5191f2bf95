"""Ids that came before, as many of the newest as there is room for."""

from collections import OrderedDict

REMEMBERED = 200_000


class SeenIds:
    """The newest ids, to tell what was delivered twice."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._limit = limit

    def add(self, name: str) -> bool:
        """False if it was there."""
        if name in self._ids:
            return False
        self._ids[name] = None
        if len(self._ids) > self._limit:
            self._ids.popitem(last=False)
        return True
