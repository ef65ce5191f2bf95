"""The price of compute: λ, moved so that the mean cost of a request is the budget. One owner; all others read it."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

HISTORY = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetOptions:
    budget_ms: float = 10.0
    """Mean milliseconds of compute that a request may take."""
    window: int = 300
    """Costs in one mean. The price moves once a window: a short one follows noise, a long one is slow."""
    price_min: float = 1e-6
    """Earnings per millisecond. Where even this price leaves the budget unspent, compute is as good as free."""
    price_max: float = 1e3
    initial_price: float = 1e-3
    gain_min: float = 0.1
    gain_max: float = 4.0
    """Bounds of the step, as a power of the price per power of the cost: at 1 a cost 10 % too high raises the price
    by 10 %. Inside them the step is found by itself."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.budget_ms) and self.budget_ms > 0):
            raise ValueError(f"budget_ms must be finite and > 0, got {self.budget_ms}")
        if self.window < 1:
            raise ValueError(f"window must be >= 1, got {self.window}")
        if not 0 < self.price_min <= self.initial_price <= self.price_max < math.inf:
            raise ValueError(
                "want 0 < price_min <= initial_price <= price_max, "
                f"got {self.price_min}, {self.initial_price}, {self.price_max}"
            )
        if not 0 < self.gain_min <= self.gain_max:
            raise ValueError(f"want 0 < gain_min <= gain_max, got {self.gain_min}, {self.gain_max}")


class PriceController:
    """Integral control of log λ.

    After each window: log λ += gain * log(mean cost / budget), the logarithm clipped to [-1, 1], λ kept within its
    bounds (the price is the whole integral, so bounding it leaves nothing to wind up). The gain halves when the error
    changes its sign and grows by half while it does not (as the step sizes of Rprop, Riedmiller & Braun 1993), so
    that neither a steep nor a flat answer of cost to price needs tuning.

    Costs come back late, when reward windows close. A cost says how the price did *that its decision was made at*, so
    only those of the price in force count: the loop has no dead time to oscillate in, however long the delay.
    """

    def __init__(
        self,
        options: BudgetOptions,
        *,
        price: float | None = None,
        spent_ms: float = 0.0,
        history: Iterable[float] = (),
    ) -> None:
        """Start at the options' price, or go on at `price` with `spent_ms` and `history` (oldest first)."""
        self.options = options
        start = options.initial_price if price is None else price
        if not (math.isfinite(start) and start > 0):
            raise ValueError(f"price must be finite and > 0, got {start}")
        self._price = min(max(start, options.price_min), options.price_max)
        self._history: deque[float] = deque(history, maxlen=HISTORY)
        self._gain = min(max(1.0, options.gain_min), options.gain_max)
        self._last_error = 0.0
        self._sum_ms = 0.0
        self._count = 0
        self._spent_ms = spent_ms

    @property
    def price(self) -> float:
        """λ: earnings that one millisecond must bring."""
        return self._price

    @property
    def spent_ms(self) -> float:
        """Mean cost over the newest window that was full; 0 before there was one."""
        return self._spent_ms

    @property
    def history(self) -> list[float]:
        """The prices that were left, oldest first; at most the newest 256."""
        return list(self._history)

    def observe(self, cost_ms: float, price: float) -> bool:
        """Take in what a request took that was decided at `price`. True when this moved the price.

        Raises ValueError, with nothing taken in, if the cost is negative or not finite.
        """
        if not 0 <= cost_ms < math.inf:
            raise ValueError(f"cost_ms must be finite and >= 0, got {cost_ms}")
        if price != self._price:
            return False
        self._sum_ms += cost_ms
        self._count += 1
        if self._count < self.options.window:
            return False
        self._spent_ms = self._sum_ms / self._count
        self._sum_ms, self._count = 0.0, 0
        return self._step()

    def _step(self) -> bool:
        ratio = max(self._spent_ms / self.options.budget_ms, math.exp(-1))  # also keeps the logarithm of 0 out
        error = min(math.log(ratio), 1.0)
        turned = error * self._last_error < 0
        gain = self._gain * (0.5 if turned else 1.5)
        self._gain = min(max(gain, self.options.gain_min), self.options.gain_max)
        self._last_error = error
        price = self._price * math.exp(self._gain * error)
        price = min(max(price, self.options.price_min), self.options.price_max)
        if price == self._price:
            return False
        self._history.append(self._price)
        self._price = price
        return True
