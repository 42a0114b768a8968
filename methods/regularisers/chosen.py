"""Which penalties a training has: their names, weights and options, and what they cannot go with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from odegrad.contracts import GradientMethod, Scalar
from odegrad.errors import UnknownNameError, UnsupportedError, UsageError
from odegrad.methods.regularisers.step_sums import SUMS

NAMES = ("kinetic", "jacobian", "taylor", "error", "stiffness", "local", "steer", "log_norm")
"""The regularisers."""

OPTIONS: Mapping[str, Scalar] = {
    "taylor.order": 2,
    "error.scaled": False,
    "local.scaled": False,
    "local.over": "time",
    "log_norm.of": "backward",
}
"""Their options with the defaults."""


@dataclass(frozen=True)
class Regularisers:
    """Which penalties, with which weights.

    Parameters
    ----------
    weights
        Name -> weight: what the penalty is multiplied by, and of ``steer`` the half-width b of the last time, in units
        of time. 0 leaves one out.
    options
        Of ``OPTIONS``: ``taylor.order`` (K, 1 to 4), ``error.scaled`` and ``local.scaled`` (E_j in units of the
        tolerance), ``local.over`` (t1 uniform over ``time`` or over accepted ``steps``), ``log_norm.of`` (the growth
        of the ``backward`` solve or of the ``forward`` one).

    Raises
    ------
    UsageError
        If a name is unknown or a value out of range.
    """

    weights: Mapping[str, float]
    options: Mapping[str, Scalar] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Scalar]) -> "Regularisers":
        """Return what ``{"kinetic": 0.01, "taylor.order": 3}`` says: weights by name, options behind a dot."""
        weights = {}
        for name, value in given.items():
            if "." in name:
                if name not in OPTIONS:
                    raise UnknownNameError("option", name, OPTIONS, of="the regularisers")
                continue
            if name not in NAMES:
                raise UnknownNameError("regulariser", name, NAMES)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise UsageError(f"regulariser {name}: expected a weight of at least 0, got {value!r}")
            weights[name] = float(value)
        options = {name: value for name, value in given.items() if "." in name}
        lonely = sorted(name for name in options if name.partition(".")[0] not in weights)
        if lonely:
            raise UsageError(f"regularisers: option {lonely[0]!r} belongs to a regulariser without a weight; add one")
        return cls({name: weight for name, weight in weights.items() if weight != 0.0}, options)

    def __post_init__(self) -> None:
        """Check the options."""
        order = self.option("taylor.order")
        if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= 4:
            raise UsageError(f"taylor.order: expected a whole number from 1 to 4, got {order!r}")
        for name, allowed in (("local.over", ("time", "steps")), ("log_norm.of", ("backward", "forward"))):
            if self.option(name) not in allowed:
                raise UsageError(f"{name}: expected one of {list(allowed)}, got {self.option(name)!r}")
        for name in ("error.scaled", "local.scaled"):
            if not isinstance(self.option(name), bool):
                raise UsageError(f"{name}: expected true or false, got {self.option(name)!r}")

    def option(self, name: str) -> Scalar:
        """Return an option's value."""
        return self.options.get(name, OPTIONS[name])

    @property
    def integrated(self) -> tuple[str, ...]:
        """Return those that are integrals along the solution."""
        return tuple(name for name in ("kinetic", "jacobian", "taylor") if name in self.weights)

    @property
    def summed(self) -> tuple[str, ...]:
        """Return those that are sums over the steps."""
        return tuple(name for name in SUMS if name in self.weights)

    def refuses(self, method: GradientMethod) -> str | None:
        """Return why these penalties cannot go with ``method``, or None if they can."""
        traits = method.traits
        if self.summed and not (traits.shared_loop and traits.exact and traits.state_from in ("graph", "replay")):
            return f"{self.summed[0]} sums over computed steps, whose gradient {traits.name} does not take; use aca"
        if self.integrated and traits.peer is not None and not traits.peer.takes_norm:
            return f"{self.integrated[0]} must stay out of the error norm, which {traits.name} cannot be told; use aca"
        return None


def check_regularised(method: GradientMethod, regularisers: Regularisers) -> None:
    """Raise UnsupportedError with the reason if ``method`` cannot be trained with ``regularisers``."""
    reason = regularisers.refuses(method)
    if reason is not None:
        raise UnsupportedError(f"regulariser: {reason}")
