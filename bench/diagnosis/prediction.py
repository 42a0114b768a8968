"""Why a gradient method fails on a model: growth along the trajectory, predicted errors, observed errors, a verdict.

The prediction knows of a method only what it states: how its backward pass knows the state. Kept or replayed states
lose nothing; a state that is solved back has its errors multiplied by ``exp(int mu_2(-J))``; one that is rebuilt by
inverting steps, its rounding; one that is read from an interpolant makes the costate's error of bound (A)
(``odegrad.diagnosis.growth``).
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odegrad.binding import solve_with
from odegrad.contracts import GradientMethod, Problem, VectorField
from odegrad.diagnosis.bounds import LOOSE, Bound, costate_bound, interpolation_bounds
from odegrad.diagnosis.costates import FlatField, segments
from odegrad.diagnosis.field_checks import check_field
from odegrad.diagnosis.trajectory import TrajectoryNorms, log_norms
from odegrad.errors import InaccurateGradientWarning, OdegradError, UsageError
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.reference.reference import Reference, reference
from odegrad.reference.sensitivity import sensitivity_error
from odegrad.reference.subject import Subject, of_model
from odegrad.reference.two_ways import relative_distance
from odegrad.registry import build_gradient, build_solver, default_gradients, gradients
from odegrad.states import flatten, mapped
from odegrad.user.models import Model

TIGHT_TOLERANCE = 1e-13
"""Of the solves of a loss behind its first one."""
STABILITY = 3.3
"""Length of dopri5's stability region on the negative real axis (Hairer and Wanner, Solving ODEs II, figure IV.2.1)."""
NODES = (8, 16)
"""Numbers of interpolation nodes whose bounds are told."""
MANY_OUTPUTS = 4
"""From so many output intervals on, the least number of nodes only."""
POINTS_A_NODE = 4
"""Times at which the bounds' integrals are taken: between nodes the interpolation error goes up and down once."""


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


@dataclass(frozen=True)
class Diagnosis:
    """Everything that ``odegrad diagnose`` tells of a model at one set of parameters."""

    name: str
    rtol: float
    wanted: float
    """Largest relative error of the gradient that counts as safe."""
    duration: float
    norms: tuple[TrajectoryNorms, ...]
    """Of every output interval, its two ends included."""
    growth: Growth
    steps: int
    """Accepted steps of the forward solve at ``rtol``."""
    steps_for_stability: float
    """Steps that dopri5's stability region alone would ask for."""
    bounds: tuple[Bound, ...]
    outcomes: tuple[Outcome, ...]
    reference_error: float | None
    """How far the gradient is known that the observed errors are distances to; None where there is no reference."""
    reference_failure: str
    """Why there is none; empty if there is one."""
    sensitivity_error: float
    """By how much naive's gradient changes if every step of the forward solve is halved, relative to its size."""


def first_solve(problem: Problem) -> Model:
    """Return the first solve of a float64 problem's loss on its probe batch, the rest of the loss behind it."""
    batch = problem.probe_batch()
    exact = build_gradient("naive")
    tight = build_solver("dopri8", TIGHT_TOLERANCE, TIGHT_TOLERANCE)
    seen: list[tuple[Any, Any, Tensor]] = []

    def first(field: VectorField, y0: Any, ts: Tensor) -> Any:
        if not seen:
            start = mapped(y0, Tensor.detach)
            seen.append((field, start, ts.detach()))
        return exact(field, tight, y0, ts)

    with torch.no_grad():
        problem.loss(first, batch)
    field, start, ts = seen[0]

    def loss(ys: Any) -> Tensor:
        waiting = [ys]

        def rest(field: VectorField, y0: Any, ts: Tensor) -> Any:
            return waiting.pop() if waiting else exact(field, tight, y0, ts)

        return problem.loss(rest, batch)

    return Model(field, start, ts, loss)


def diagnose(
    name: str,
    model: Model,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    wanted: float = 1e-2,
    methods: Sequence[str] | None = None,
    precision: torch.dtype = torch.float32,
) -> Diagnosis:
    """Return the growth of errors along the trajectory, predicted and observed errors of gradients, and verdicts.

    Parameters
    ----------
    name, model
        What to diagnose, in float64; it is left as it was.
    rtol, atol
        Tolerances of dopri5 (or alf), whose gradients are observed in float64.
    wanted
        Largest relative error of a gradient that counts as safe.
    methods
        Gradient methods; by default all on the shared loop whose cost does not grow with the number of parameters.
    precision
        The type that the model is trained in: what a state's rounding and the tightest tolerance are.

    Raises
    ------
    UsageError
        If ``wanted`` is no positive number, or a method is unknown.
    NonFiniteError
        If a Jacobian is not finite; the message names time and sample.
    SolverError
        If the trajectory cannot be solved at tight tolerance.
    """
    if not wanted > 0:
        raise UsageError(f"wanted (--error): expected a positive relative error, got {wanted!r}; 1e-2 is usual")
    subject = of_model(model)
    field = FlatField(model.field, model.y0)
    y0, ts = flatten(model.y0).detach(), model.ts
    check_field(field, ts[0], y0)
    numbers = NODES[:1] if len(ts) > MANY_OUTPUTS else NODES
    pieces = segments(field, y0, ts, model.loss, POINTS_A_NODE * max(numbers) + 1)
    norms = tuple(log_norms(field, piece.times, piece.states, tolerance=LOOSE) for piece in pieces)
    bounds = {n: interpolation_bounds(field, pieces, norms, n) for n in numbers}
    solver, steps = build_solver("dopri5", rtol, atol), _Steps()
    with torch.no_grad():
        build_gradient("naive")(field, solver.observed_by(steps), y0, ts)
    growth = growth_of(norms)
    true = reference(subject)
    names = methods or _default_methods()
    return Diagnosis(
        name=name,
        rtol=rtol,
        wanted=wanted,
        duration=abs(float(ts[-1] - ts[0])),
        norms=norms,
        growth=growth,
        steps=steps.count,
        steps_for_stability=sum(map(_decay, norms)) / STABILITY,
        bounds=(costate_bound(pieces, norms), *(b for found in bounds.values() for b in found)),
        outcomes=tuple(_outcome(each, subject, true, solver, growth, bounds, wanted, precision) for each in names),
        reference_error=true.error,
        reference_failure=true.reason,
        sensitivity_error=sensitivity_error(subject, solver),
    )


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


class _Steps:
    """Counts accepted steps."""

    count = 0

    def accepted(self, _t: float, _h: float) -> None:
        """Count one."""
        self.count += 1

    def rejected(self, _t: float, _h: float) -> None:
        """Leave it out."""


def _default_methods() -> list[str]:
    return [name for name in default_gradients() if gradients.get(name).traits.shared_loop]


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _decay(norms: TrajectoryNorms) -> float:
    """Return ``int max(-Re lambda) dt`` of the fastest sample: by eigenvalues, or their bound ``mu_2(-J)``."""
    rate = norms.mu_2_minus if norms.eigenvalues is None else -norms.eigenvalues.real.amin(-1)
    return float(torch.trapezoid(rate.clamp_min(0.0), (norms.times - norms.times[0]).abs(), dim=0).amax())


def _outcome(
    name: str,
    subject: Subject,
    true: Reference,
    solver: OneStepSolver,
    grown: Growth,
    bounds: dict[int, tuple[Bound, ...]],
    wanted: float,
    precision: torch.dtype,
) -> Outcome:
    method = build_gradient(name)
    traits = method.traits
    if method.refuses(solver) is not None:
        solver = build_solver("alf", solver.controller.rtol, solver.controller.atol)
    eps, rtol = torch.finfo(precision).eps, solver.controller.rtol
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
    observed, failure = _observed(method, subject, true, solver)
    if failure:
        verdict = f"failed: {failure.partition(';')[0]}"
    elif observed is None or true.error is None:
        verdict = "undecided: there is no reference"
    elif not observed > wanted + true.error and not observed <= wanted - true.error:
        verdict = f"undecided: off by {observed:.1e}, known to {true.error:.1e}"
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
    if number is None or number < min(bounds):
        return None
    (of_costate,) = (b for b in bounds[max(n for n in bounds if n <= number)] if b.letter == "A")
    return of_costate.bound


def _observed(
    method: GradientMethod, subject: Subject, true: Reference, solver: OneStepSolver
) -> tuple[float | None, str]:
    """Return the relative error of the gradient, None where nothing is known to hold it against, and what it raised."""
    try:
        with warnings.catch_warnings(action="ignore", category=InaccurateGradientWarning):
            found = subject.gradient(solve_with(method, solver))
    except (OdegradError, RuntimeError) as error:
        return None, str(error).splitlines()[0]
    if not bool(torch.isfinite(found).all()):
        return None, "its gradient is not finite"
    return (None if true.gradient is None else relative_distance(found, true.gradient)), ""
