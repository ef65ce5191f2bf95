"""What a plan would earn in a context, learned by Vowpal Wabbit. Knows nothing of price, exploration or budgets.

Stored form, little-endian: magic "TRVM" | version u8 | options digest 16 | BLAKE2b-128 of the rest | VW's own file.
"""

import math
import re
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

from router_bandit.plans import Context

_MAGIC = b"TRVM\x01"
_DIGEST = 16
_HEADER = len(_MAGIC) + 2 * _DIGEST
_FEATURES_VERSION = 1  # of how contexts and plans become features: another one is another model

# VW takes a malformed line in silence, so every line is held against the whole grammar that we write.
_FEATURE = r"[A-Za-z0-9_.~%=-]+(:-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?)?"
_LINE = re.compile(rf"(shared |0:-?[0-9.e+-]+:[0-9.e+-]+ )?\|[CP]( {_FEATURE})*")


class ModelBytesError(ValueError):
    """These bytes are not a value model that can be used here: keep the model there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueOptions:
    value_scale: float = 1.0
    """Earnings of one response at which the target is clipped. Targets are earnings / value_scale, in [0, 1]: too
    large a scale makes all of them small, too small a one cuts off what the best responses earn."""
    bits: int = 16
    """The weights' table has 2**bits places; 16 keep a stored model under 1.1 MB."""
    learning_rate: float = 0.01
    """Far under VW's 0.5, because rewards are sparse and each step is weighted by 1 / probability. With simulated
    clicks of 3 to 15 % the error of the predicted values was 0.03 after 5,000 requests and 0.02 after 20,000; at 0.5
    it was 0.27 and 0.15."""
    l2: float = 1e-7
    """Slow forgetting, so that weights of contexts no longer seen do not stay for ever."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value_scale) and self.value_scale > 0):
            raise ValueError(f"value_scale must be finite and > 0, got {self.value_scale}")
        if not 8 <= self.bits <= 17:
            raise ValueError(f"bits must be 8 to 17 (a stored model must stay under 4 MB), got {self.bits}")
        if not self.learning_rate > 0 or self.l2 < 0:
            raise ValueError(f"want learning_rate > 0 and l2 >= 0, got {self.learning_rate} and {self.l2}")

    def digest(self) -> bytes:
        return blake2b(repr((_FEATURES_VERSION, *astuple(self))).encode(), digest_size=_DIGEST).digest()

    def arguments(self) -> list[str]:
        return [
            *("--cb_adf", "--cb_type", "mtr", "--quiet", "-q", "CP"),
            *("-b", str(self.bits), "-l", str(self.learning_rate), "--l2", str(self.l2)),
            *("--random_seed", str(self.seed)),
        ]


class VWValueModel:
    """Q(context, plan): earnings per response, by regression on the plans that were chosen.

    `--cb_adf --cb_type mtr`: multi-task regression, each example weighted by 1 / (probability of its plan), as in
    Bietti, Agarwal & Langford 2021, "A Contextual Bandit Bake-off", section 2. Features are the context, the plan and
    their products. The cost that VW sees is -min(max(earned, 0), value_scale) / value_scale, so a plan that was never
    tried is predicted near 0. Learning holds the interpreter lock: one process learns, the ranking ones only predict.
    """

    def __init__(self, options: ValueOptions, *, read_only: bool = False) -> None:
        self._start(options, [], read_only)

    def _start(self, options: ValueOptions, extra: list[str], read_only: bool) -> None:
        try:
            from vowpalwabbit import Workspace
        except ModuleNotFoundError as exc:
            raise ModuleNotFoundError("VWValueModel needs vowpalwabbit: pip install vowpalwabbit") from exc
        self.options = options
        self.read_only = read_only
        self.clipped = 0
        """Rewards outside [0, value_scale] since this object was made."""
        testonly = ["-t"] if read_only else []
        self._vw: Any = Workspace(arg_list=[*options.arguments(), *testonly, *extra])

    def predict(self, context: Context, plans: Sequence[str]) -> dict[str, float]:
        """Earnings per response of each plan, in the unit of what was learned; 0 for all before anything was.

        Raises ValueError for a context that has a nameless feature, a number that is not finite, or another type.
        """
        costs = self._vw.predict(_lines(context, plans, {}))
        return {plan: -cost * self.options.value_scale for plan, cost in zip(plans, costs, strict=True)}

    def learn(self, context: Context, plans: Sequence[str], plan: str, probability: float, earned: float) -> None:
        """Learn that `plan`, chosen of `plans` with this probability, earned this much.

        Raises ValueError, with nothing learned, for what `predict` refuses, a plan that was not among the plans, a
        probability outside (0, 1], or earnings that are not finite. Raises RuntimeError on a read-only model.
        """
        if self.read_only:
            raise RuntimeError("a read-only value model does not learn: learning belongs to the one learner process")
        if plan not in plans:
            raise ValueError(f"the plan must be one of {list(plans)}, got {plan!r}")
        if not 0 < probability <= 1:
            raise ValueError(f"the probability of plan {plan!r} must be in (0, 1], got {probability}")
        if not math.isfinite(earned):
            raise ValueError(f"earned must be finite, got {earned}")
        target = min(max(earned / self.options.value_scale, 0.0), 1.0)
        self.clipped += target != earned / self.options.value_scale
        self._vw.learn(_lines(context, plans, {plan: f"0:{-target:.9g}:{probability:.9g} "}))

    def to_bytes(self) -> bytes:
        """The whole model, learning state included: a loaded one goes on learning as this one would."""
        with tempfile.TemporaryDirectory(prefix="tiderank-") as folder:
            path = Path(folder, "model.vw")
            self._vw.save(str(path))
            body = path.read_bytes()
        return _MAGIC + self.options.digest() + _checksum(body) + body

    @classmethod
    def from_bytes(cls, blob: bytes, options: ValueOptions, *, read_only: bool = False) -> "VWValueModel":
        """Inverse of to_bytes. Raises ModelBytesError for another format, other options, or a wrong checksum."""
        body = _checked_body(blob, options)
        model = cls.__new__(cls)
        with tempfile.TemporaryDirectory(prefix="tiderank-") as folder:
            path = Path(folder, "model.vw")
            path.write_bytes(body)
            model._start(options, ["-i", str(path)], read_only)
        return model


def _checksum(body: bytes) -> bytes:
    return blake2b(body, digest_size=_DIGEST).digest()


def _checked_body(blob: bytes, options: ValueOptions) -> bytes:
    if len(blob) < _HEADER or blob[: len(_MAGIC)] != _MAGIC:
        raise ModelBytesError(
            f"a value model starts with {_MAGIC!r} and has at least {_HEADER} bytes; got {len(blob)}, "
            f"first {bytes(blob[: len(_MAGIC)])!r}"
        )
    digest = blob[len(_MAGIC) : len(_MAGIC) + _DIGEST]
    if digest != options.digest():
        raise ModelBytesError(
            f"the value model was learned with other options (digest {digest.hex()}, here {options.digest().hex()}): "
            "give learner and ranking processes the same ones"
        )
    body = blob[_HEADER:]
    if _checksum(body) != blob[len(_MAGIC) + _DIGEST : _HEADER]:
        raise ModelBytesError("the value model's checksum does not match its bytes: it was damaged on its way")
    return body


def _lines(context: Context, plans: Sequence[str], labels: dict[str, str]) -> list[str]:
    """VW's text: the shared context, then a line for each plan, the chosen one labelled."""
    if not plans:
        raise ValueError("at least one plan is needed, got none")
    shared = " ".join(["shared |C", *(_feature(name, value) for name, value in context.items())])
    lines = [shared, *(f"{labels.get(plan, '')}|P {_feature('plan', plan)}" for plan in plans)]
    for line in lines:
        if not _LINE.fullmatch(line):
            raise ValueError(f"this would not be read as it is meant: {line!r}")
    return lines


def _feature(name: str, value: str | float) -> str:
    """One feature as VW reads it; everything that its grammar uses (space, bar, colon, line end) is percent-encoded."""
    if not name:
        raise ValueError(f"a context feature must have a name, got '' with value {value!r}")
    if isinstance(value, str):
        return f"{quote(name, safe='')}={quote(value, safe='')}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"context feature {name!r} must be a string or a finite number, got {value!r}")
    return f"{quote(name, safe='')}:{float(value):.9g}"
