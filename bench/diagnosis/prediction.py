"""Why a gradient method fails on a model: growth along the trajectory, predicted errors, observed errors, a verdict.

The prediction knows of a method only what it states: how its backward pass knows the state. Kept or replayed states
lose nothing; a state that is solved back has its errors multiplied by ``exp(int mu_2(-J))``; one that is rebuilt by
inverting steps, its rounding; one that is read from an interpolant makes the costate's error of bound (A)
(``odegrad.diagnosis.growth``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odegrad.binding import solve_with
from odegrad.contracts import GradientMethod, Problem, VectorField
from odegrad.diagnosis.bounds import LOOSE, Bound, costate_bound, interpolation_bounds
from odegrad.diagnosis.costates import BatchedField, segments
from odegrad.diagnosis.field_checks import check_field
from odegrad.diagnosis.observation import UNOBSERVED, Observations, Observed, observe
from odegrad.diagnosis.solver_choice import SolverChoice, choose_solver
from odegrad.diagnosis.trajectory import TrajectoryNorms, log_norms
from odegrad.errors import UsageError
from odegrad.reference.allowance import Allowance, Tell, in_silence
from odegrad.reference.reference import Reference
from odegrad.reference.sensitivity import sensitivity_error
from odegrad.reference.subject import of_model
from odegrad.registry import build_gradient, build_solver, default_gradients, gradients, odeint_solver
from odegrad.states import flatten, mapped
from odegrad.user.models import Model

TIGHT_TOLERANCE = 1e-13
"""Of the solves of a loss behind its first one."""
STABILITY = 3.3
"""Length of dopri5's stability region on the negative real axis (Hairer and Wanner, Solving ODEs II, figure IV.2.1)."""
BOUND_NODES = (8, 16)
"""Numbers of interpolation nodes whose bounds are told."""
MANY_OUTPUTS = 4
"""From so many output intervals on, the least number of nodes only, and fewer times."""
POINTS_A_NODE = {False: 4, True: 2}
"""Times at which the bounds' integrals are taken: between nodes the interpolation error goes up and down once. Fewer
where there are many output intervals, each of them short."""
UNTIL_BOUNDS = 0.7
"""Of the time that a diagnosis may take: behind it no bound begins."""


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
    notes: tuple[str, ...] = ()
    """What there was no time for, in sentences."""
    choice: SolverChoice | None = None
    """What sets dopri5's steps at ``rtol``, and what an implicit solver takes; None where there was no time for it."""


def first_solve(problem: Problem) -> Model:
    """Return the first solve of a float64 problem's loss on its probe batch, the rest of the loss behind it."""
    batch = problem.probe_batch()
    exact = solve_with(build_gradient("naive"), build_solver("dopri8", TIGHT_TOLERANCE, TIGHT_TOLERANCE))
    seen: list[tuple[Any, Any, Tensor]] = []

    def first(field: VectorField, y0: Any, ts: Tensor) -> Any:
        if not seen:
            start = mapped(y0, Tensor.detach)
            seen.append((field, start, ts.detach()))
        return exact(field, y0, ts)

    with torch.no_grad():
        problem.loss(first, batch)
    field, start, ts = seen[0]

    def loss(ys: Any) -> Tensor:
        waiting = [ys]

        def rest(field: VectorField, y0: Any, ts: Tensor) -> Any:
            return waiting.pop() if waiting else exact(field, y0, ts)

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
    with_bounds: bool = True,
    budget: float | None = None,
    tell: Tell = in_silence,
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
    with_bounds
        Whether bounds (A) and (C) to (E) are taken, from which the error of interpolating methods is predicted.
    budget
        Seconds after which no further gradient and no bound is begun: the diagnosis ends with what is known, and its
        notes say what is not. The logarithmic norms are taken anyway. None for as long as it takes.
    tell
        Takes a line on each stage and each method as they come.

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
    if budget is not None and not budget > 0:
        raise UsageError(f"budget: expected a positive number of seconds or None, got {budget!r}")
    # Everything here goes along the batch: samples with times of their own are looked at at all of these.
    model = model.at_all_times()
    allowance, subject = Allowance(budget), of_model(model)
    field = BatchedField(model.field, model.y0)
    y0, ts = flatten(model.y0).detach(), model.ts
    check_field(field, ts[0].to(y0.device), y0)
    solver = odeint_solver("dopri5", rtol, atol)
    seen = observe(subject, methods or _default_methods(), solver, wanted, allowance, tell)
    many = len(ts) > MANY_OUTPUTS
    numbers = BOUND_NODES[:1] if many else BOUND_NODES
    tell(f"solving the trajectory, {len(ts) - 1} intervals between outputs")
    pieces = segments(field, y0, ts, model.loss, POINTS_A_NODE[many] * max(numbers) + 1)
    tell("taking logarithmic norms along it")
    norms = tuple(log_norms(field, piece.times, piece.states, tolerance=LOOSE) for piece in pieces)
    late = with_bounds and allowance.over(UNTIL_BOUNDS)
    if late:
        tell(f"{allowance} is nearly spent: no bounds")
    elif with_bounds:
        tell("taking the bounds on the interpolation's errors")
    bounds = {n: interpolation_bounds(field, pieces, norms, n) for n in (numbers if with_bounds and not late else ())}
    steps = _Steps()
    with torch.no_grad():
        build_gradient("naive")(field, solver.observed_by(steps), y0, ts)
    growth = growth_of(norms)
    if not allowance.over():
        tell("looking at what sets the steps of an explicit solver")
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
        outcomes=tuple(_outcome(each, seen.true, growth, bounds, wanted, precision) for each in seen.methods),
        reference_error=seen.true.error,
        reference_failure=seen.true.reason,
        sensitivity_error=sensitivity_error(subject, solver),
        notes=_notes(seen, late, allowance),
        choice=None if allowance.over() else choose_solver(field, y0, ts, solver),
    )


def _notes(seen: Observations, without_bounds: bool, allowance: Allowance) -> tuple[str, ...]:
    """Return what there was no time for, in a sentence; nothing where there was enough."""
    said = [f"the error of {', '.join(seen.missing)} was not observed"] if seen.missing else []
    said += ["the bounds on the interpolation's errors were not taken"] if without_bounds else []
    text = str(allowance)
    return (f"{text[0].upper()}{text[1:]} was spent: {' and '.join(said)}. A larger budget does it.",) if said else ()


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
    seen: Observed,
    true: Reference,
    grown: Growth,
    bounds: dict[int, tuple[Bound, ...]],
    wanted: float,
    precision: torch.dtype,
) -> Outcome:
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
    elif failure:
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
    if number is None or not bounds or number < min(bounds):
        return None
    (of_costate,) = (b for b in bounds[max(n for n in bounds if n <= number)] if b.letter == "A")
    return of_costate.bound
