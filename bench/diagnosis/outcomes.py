"""What the theory says of one gradient method's error, what is seen of it, and the verdict.

The prediction knows of a method only what it states: how its backward pass knows the state. Kept or replayed states
lose nothing; a state that is solved back has its errors multiplied by ``exp(int mu_2(-J))``; one that is rebuilt by
inverting steps, its rounding; one that is read from an interpolant makes the costate's error of bound (A)
(``odegrad.diagnosis.growth``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from odegrad.contracts import GradientMethod
from odegrad.diagnosis.bounds import Bound
from odegrad.diagnosis.observation import METHOD_REFUSES, UNOBSERVED, Observed
from odegrad.diagnosis.trajectory import TrajectoryNorms
from odegrad.reference.accuracy import UNDECIDED
from odegrad.reference.reference import Reference


@dataclass(frozen=True)
class Outcome:
    """One gradient method: what the theory says of its error, and what is seen; relative to the gradient's size."""

    gradient: str
    exact: bool
    state_from: str
    growth: float
    """By how much an error in the state may grow in the backward pass; 1 if the state is kept, replayed or read."""
    predicted: float | None
    """``rtol`` or rounding times growth, or bound (A); None where the error is that of the forward solve alone."""
    observed: float | None
    """Distance to the reference, in float64; None if it failed or there is no reference."""
    safe_rtol: float
    """The loosest rtol at which the predicted error is what is asked for, the worst case; 0 if there is none."""
    verdict: str


@dataclass(frozen=True)
class Growth:
    """Integrals of logarithmic norms over time: exponents of what differences between solutions may grow to."""

    forward: tuple[float, float]
    """Least and largest ``int mu_2(J) dt`` over samples."""
    backward: tuple[float, float]
    """Least and largest ``int mu_2(-J) dt`` over samples."""
    backward_interval: float
    """Largest ``int mu_2(-J) dt`` over samples and output intervals: at outputs a backward solve starts anew."""


def growth_of(norms: Sequence[TrajectoryNorms]) -> Growth:
    """Return the integrals of logarithmic norms over all output intervals."""
    forward = torch.stack([n.integral("mu_2") for n in norms])
    backward = torch.stack([n.integral("mu_2_minus") for n in norms])
    total, back = forward.sum(0), backward.sum(0)
    return Growth(
        forward=(float(total.amin()), float(total.amax())),
        backward=(float(back.amin()), float(back.amax())),
        backward_interval=float(backward.amax()),
    )


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def outcome_of(
    seen: Observed,
    true: Reference,
    grown: Growth,
    bounds: dict[int, tuple[Bound, ...]],
    wanted: float,
    precision: torch.dtype,
) -> Outcome:
    """Return what theory and observation say of a method, held against the error that is ``wanted``."""
    name, method, observed, failure = seen.name, seen.method, seen.error, seen.failure
    traits = method.traits
    eps, rtol = torch.finfo(precision).eps, seen.solver.controller.rtol
    growth, predicted, safe = 1.0, None, wanted
    if traits.state_from == "solve":
        growth = _exp(max(0.0, grown.backward_interval))
        predicted, safe = rtol * growth, wanted / growth
    elif traits.state_from == "inverse":
        growth = _exp(max(0.0, grown.backward[1]))
        predicted = eps * growth
        safe = wanted if predicted <= wanted else 0.0
    elif traits.state_from == "interpolant":
        bound = _of_nodes(method, bounds)
        predicted = None if bound is None else max(rtol, bound)
        safe = wanted if bound is None or bound <= wanted else 0.0
    if failure.startswith(UNOBSERVED):
        verdict = failure
    elif failure.startswith(METHOD_REFUSES):
        verdict, safe = failure.partition(";")[0], 0.0
    elif failure:
        verdict = f"failed: {failure.partition(';')[0]}"
    elif observed is None or true.error is None:
        verdict = f"{UNDECIDED}: there is no reference"
    elif not observed > wanted + true.error and not observed <= wanted - true.error:
        verdict = f"{UNDECIDED}: off by {observed:.1e}, known to {true.error:.1e}"
    elif observed > wanted:
        verdict = _unsafe(traits.state_from, observed, safe, 10 * eps, str(precision).removeprefix("torch."))
    else:
        verdict = "safe" if rtol <= safe else "safe as observed, not as predicted"
    return Outcome(name, traits.exact, traits.state_from, growth, predicted, observed, min(safe, wanted), verdict)


def _unsafe(state_from: str, observed: float, safe: float, tightest: float, precision: str) -> str:
    """Return the verdict on a method whose error is larger than wanted, and what would help."""
    if state_from == "interpolant":
        return "unsafe: take more nodes, or interpolation_dense"
    if safe < tightest:
        return f"unsafe at any rtol that {precision} holds"
    return f"unsafe, safe from rtol {safe:.0e}" if state_from == "solve" else f"unsafe: off by {observed:.1e}"


def _of_nodes(method: GradientMethod, bounds: dict[int, tuple[Bound, ...]]) -> float | None:
    """Return bound (A), relative to the costate, for no more nodes than the method has; None if it has none to set."""
    number = getattr(method, "num_nodes", None)
    if number is None or not bounds or number < min(bounds):
        return None
    (of_costate,) = (b for b in bounds[max(n for n in bounds if n <= number)] if b.letter == "A")
    return of_costate.bound
