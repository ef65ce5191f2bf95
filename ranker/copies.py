"""Memory that copies are made into again and again.

Fresh memory comes from the system page by page, and each page at its first touch: that takes ten times as long as what
is then written there. So who copies the same things every half minute, while a step waits, keeps the room for it.
"""

import numpy as np
import torch
from torch import Tensor


class Copies:
    """Copies by name, on the CPU. The next one under a name lies where the last one did, and is instead of it."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def tensor(self, name: str, source: Tensor) -> Tensor:
        held = self._held.get(name)
        if held is None or held.shape != source.shape or held.dtype != source.dtype:
            held = self._held[name] = torch.empty(source.shape, dtype=source.dtype)
        return held.copy_(source)

    def array(self, name: str, source: np.ndarray) -> np.ndarray:
        copied: np.ndarray = self.tensor(name, torch.from_numpy(source)).numpy()
        return copied
