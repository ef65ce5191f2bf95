"""Memory that copies are made into again and again.

Fresh memory comes from the system page by page, and each page at its first touch: that takes ten times as long as what
is then written there. So who copies the same things every half minute, while a step waits, keeps the room for it.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class Copies:
    """Named CPU copies; copying again under a name overwrites the earlier one in place."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._arrays: dict[str, np.ndarray] = {}

    def tensor(self, name: str, source: "Tensor") -> "Tensor":
        held = self._tensors.get(name)
        if held is None or held.shape != source.shape or held.dtype != source.dtype:
            held = self._tensors[name] = source.new_empty(source.shape, device="cpu")
        return held.copy_(source)

    def array(self, name: str, source: np.ndarray) -> np.ndarray:
        held = self._arrays.get(name)
        if held is None or held.shape != source.shape or held.dtype != source.dtype:
            held = self._arrays[name] = np.empty_like(source)
        np.copyto(held, source)
        return held
