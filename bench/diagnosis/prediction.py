"""Why a gradient method fails on a model: growth along the trajectory, predicted errors, observed errors, a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from odegrad.diagnosis.bounds import LOOSE, Bound, costate_bound, interpolation_bounds
from odegrad.diagnosis.costates import BatchedField, segments
from odegrad.diagnosis.field_checks import check_field
from odegrad.diagnosis.observation import Observations, observe
from odegrad.diagnosis.outcomes import Growth, Outcome, growth_of, outcome_of
from odegrad.diagnosis.solver_choice import SolverChoice, choose_solver
from odegrad.diagnosis.trajectory import TrajectoryNorms, log_norms
from odegrad.errors import UsageError
from odegrad.reference.allowance import Allowance, Tell, in_silence
from odegrad.reference.sensitivity import sensitivity_error
from odegrad.reference.subject import Subject, of_model
from odegrad.registry import build_gradient, default_gradients, gradients, odeint_solver
from odegrad.states import flatten
from odegrad.user.models import Model

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
    whole: Subject | None = None,
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
    whole
        The loss, of which ``model`` is the first of several solves: the errors are observed on all of it. None where
        the model is all of it.

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
    seen = observe(subject if whole is None else whole, methods or _default_methods(), solver, wanted, allowance, tell)
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
        outcomes=tuple(outcome_of(each, seen.true, growth, bounds, wanted, precision) for each in seen.methods),
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


def _decay(norms: TrajectoryNorms) -> float:
    """Return ``int max(-Re lambda) dt`` of the fastest sample: by eigenvalues, or their bound ``mu_2(-J)``."""
    rate = norms.mu_2_minus if norms.eigenvalues is None else -norms.eigenvalues.real.amin(-1)
    return float(torch.trapezoid(rate.clamp_min(0.0), (norms.times - norms.times[0]).abs(), dim=0).amax())
