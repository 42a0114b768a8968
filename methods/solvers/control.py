"""Step-size control: the first step and the next, as torchdiffeq chooses them."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from odegrad.errors import NonFiniteError, UsageError
from odegrad.methods.solvers.dynamics import TRIAL, Dynamics

Control = Literal["elementary", "pi", "pi34"]
"""How the next step follows from the error: from the last one, or from the last two, with gains for explicit or for
implicit steps."""

PI_BETA = 0.04
"""Weight of the error before, beta (Hairer and Wanner, Solving ODEs II, IV.2: 0.04 for dopri5)."""

PI34_GAINS = (0.7, 0.4)
"""Exponents, times the order, of the error and of the one before: integral gain 0.3 and proportional gain 0.4, which
give smooth steps where no stability limit binds (Gustafsson 1994; Soederlind 2002)."""


@dataclass
class StepSize:
    """The signed size of the next step, carried from one solve to the next; None before the first."""

    h: float | None = None


@dataclass(frozen=True)
class Controller:
    """Step control: ``h' = h min(max_factor, max(safety / ratio^(1/order), min_factor))``.

    Hairer, Norsett and Wanner, Solving ODEs I, II.4; the constants and the rule that a good step never shrinks the
    next one are torchdiffeq's, so that the accepted grid is the same. ``pi`` is proportional-integral control
    (Gustafsson 1991; Hairer and Wanner, Solving ODEs II, IV.2): the factor is
    ``safety ratio^-(1/order - 0.75 beta) previous^beta``, and a good step may be followed by a smaller one. ``pi34`` is
    the same with ``safety (ratio^-0.7 previous^0.4)^(1/order)``, elementary where no accepted step is before it.
    """

    rtol: float
    atol: float
    safety: float = 0.9
    max_factor: float = 10.0
    min_factor: float = 0.2
    control: Control = "elementary"

    def __post_init__(self) -> None:
        """Check the kind of control."""
        if self.control not in ("elementary", "pi", "pi34"):
            raise UsageError(f"control: expected 'elementary', 'pi' or 'pi34', got {self.control!r}")

    def error_ratio(self, dynamics: Dynamics, error: Tensor, y: Tensor, y_next: Tensor) -> Tensor:
        """Return the norm of ``error / (atol + rtol max(|y|, |y_next|))``; the step is good if it is at most 1.

        All tensors are ``[d]``, and the norm a number that has not been read from the device.
        """
        # The larger of both ends: else a state that passes through zero would be held to the absolute tolerance alone.
        return dynamics.norm(error / self._scale(dynamics, torch.maximum(y.abs(), y_next.abs())))

    def for_explicit(self) -> "Controller":
        """Return the same control of explicit steps: elementary where the gains are for implicit ones."""
        return dataclasses.replace(self, control="elementary") if self.control == "pi34" else self

    def _scale(self, dynamics: Dynamics, size: Tensor) -> Tensor:
        """Return ``atol + rtol size``, ``[d]``, in the place of ``size``."""
        rtol, atol = dynamics.tolerances or (self.rtol, self.atol)
        return size.mul_(rtol).add_(atol)

    def next_step(self, h: float, ratio: float, order: int, previous: float | None = None) -> float:
        """Return the size of the next step after one of size ``h`` with error ``ratio``.

        ``previous`` is the error of the accepted step before, for ``pi`` and ``pi34``; None at the start and after a
        rejected step.
        """
        # Zero and infinity have no power to take: an exact step may grow, an overflow shrinks, each as far as allowed.
        if ratio == 0.0:
            return h * self.max_factor
        if not math.isfinite(ratio):
            return h * self.min_factor
        if self.control == "pi":
            # The floor is dopri5's own in Hairer and Wanner: one lucky step must not hold the next one back for long.
            gain = math.pow(ratio, -(1.0 / order - 0.75 * PI_BETA)) * math.pow(max(previous or 1.0, 1e-4), PI_BETA)
            return h * min(self.max_factor, max(self.safety * gain, self.min_factor))
        if self.control == "pi34" and previous is not None and ratio <= 1.0:
            of_this, of_previous = PI34_GAINS
            gain = math.pow(ratio, -of_this / order) * math.pow(max(previous, 1e-4), of_previous / order)
            return h * min(self.max_factor, max(self.safety * gain, self.min_factor))
        low = 1.0 if ratio < 1.0 else self.min_factor
        # The estimate is the local error of the embedded method, one order lower: it goes as h^order.
        factor = self.safety / math.pow(ratio, 1.0 / order)
        return h * min(self.max_factor, max(factor, low))

    def first_step(self, dynamics: Dynamics, t: float, span: float, y: Tensor, f0: Tensor, order: int) -> float:
        """Return the unsigned size of the first step (Hairer, Norsett and Wanner, Solving ODEs I, II.4).

        Costs one f call and two reads of the device. ``span`` is the signed length of the interval: the trial point
        stays inside it. ``y`` and ``f0 = f(t, y)`` are ``[d]``.

        Raises
        ------
        NonFiniteError
            If ``y`` or ``f0`` is not finite, or its norm is not.
        """
        scale = self._scale(dynamics, y.abs())
        d0, d1 = torch.stack([dynamics.norm(y / scale), dynamics.norm(f0 / scale)]).tolist()
        if not (math.isfinite(d0) and math.isfinite(d1)) and y.dtype != torch.float64:
            # Of numbers that are finite the squares need not be: a rate of 1e12 in units of 1e-8 has none in float32.
            wide = (x.double() / scale.double() for x in (y, f0))
            d0, d1 = (float(dynamics.norm(x)) for x in wide)
        if not (math.isfinite(d0) and math.isfinite(d1)):
            if bool(torch.isfinite(y).all()) and bool(torch.isfinite(f0).all()):
                raise NonFiniteError(
                    f"norm: expected a finite number of a finite state, got {d0:g} of y0 and {d1:g} of f(t0, y0) in "
                    f"units of the tolerances, at t = {t:g}; mend the function in options, or leave it out"
                )
            raise NonFiniteError(
                f"field: {'y0' if not math.isfinite(d0) else 'f(t0, y0)'} is not finite at t = {t:g}, before the first "
                "step; check the parameters and the initial state for NaN or infinity"
            )
        h0 = trial_step(d0, d1, span)
        signed = math.copysign(h0, span)
        f1 = torch.empty_like(f0)
        dynamics.prepare([t + signed])
        dynamics.write(t + signed, torch.add(y, f0, alpha=signed), f1, TRIAL)
        return step_after_trial(h0, d1, float(dynamics.norm((f1 - f0) / scale)), order)


def trial_step(d0: float, d1: float, span: float) -> float:
    """Return the unsigned size of the trial step, from the norms of state and rate in units of the tolerance."""
    # A trial that moves the state by a hundredth of its size; where either vanishes, their ratio says nothing.
    h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    return min(h0, abs(span))


def step_after_trial(h0: float, d1: float, change: float, order: int) -> float:
    """Return the unsigned size of the first step after a trial of size ``h0``, which has changed the rate so much."""
    d2 = change / h0
    # The first step's error is about h^order max(d1, d2), in units of the tolerance: a hundredth is wanted.
    if d1 <= 1e-15 and d2 <= 1e-15:
        h1 = max(1e-6, h0 * 1e-3)
    elif math.isfinite(d2):
        h1 = (0.01 / max(d1, d2)) ** (1.0 / order)
    else:
        h1 = 1e-3 * h0
    return min(100.0 * h0, h1)
