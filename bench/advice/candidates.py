"""The gradient methods of a comparison: what each is given, what is measured of it, and whether it is accurate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from odegrad.binding import solve_with
from odegrad.contracts import GradientMethod, Scalar, equivalent_solver
from odegrad.measuring.call_counts import counted_iteration
from odegrad.measuring.memory import cheap_collections, measured_bytes
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.reference.accuracy import UNDECIDED, accuracy, largest_error
from odegrad.reference.allowance import Allowance, Tell, in_silence
from odegrad.reference.reference import Reference
from odegrad.reference.subject import Subject
from odegrad.reference.two_ways import relative_distance
from odegrad.registry import build_gradient, solver_for
from odegrad.reports.units import count, error, memory

MEASURING_SHARE = 0.7
"""Of the time that a comparison may take: no method is begun to be measured later, so that some is left to race."""
TOO_LOOSE = "solver too loose"
"""The verdict on an exact gradient whose steps are too coarse, where no method at all is accurate."""
REFUSED = "refused"
"""The verdict on a method that does not take the solver."""
UNMEASURED = "not measured"
"""The verdict on a method for which there was no time."""


@dataclass
class Candidate:
    """A method with the solver that it gets, and what is known of it so far."""

    method: GradientMethod
    solver: OneStepSolver
    row: dict[str, Any]


def candidate(chosen: str | tuple[str, Mapping[str, Scalar]], solver: OneStepSolver) -> Candidate:
    """Return the method with ``solver``, or with alf if it takes no other; a refusal is a verdict.

    Raises
    ------
    UsageError
        If there is no such method, or an option is unknown.
    """
    name, settings = (chosen, {}) if isinstance(chosen, str) else chosen
    method = build_gradient(name, settings)
    row: dict[str, object] = {"gradient": name, "exact": method.traits.exact}
    taken = solver_for(method, solver)
    if taken is None:
        return Candidate(method, solver, row | {"verdict": f"{REFUSED}: {method.refuses(solver)}"})
    return Candidate(method, taken, row)


class NaiveGradients:
    """Naive backprop's gradients of one subject, each found once."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._known: list[tuple[OneStepSolver, Tensor]] = []

    def by(self, solver: OneStepSolver) -> Tensor:
        """Return the gradient by ``solver``, uncompiled."""
        for known, gradient in self._known:
            if known is solver:
                return gradient
        found = self._subject.gradient(solve_with(build_gradient("naive"), solver.uncompiled()))
        self._known.append((solver, found))
        return found


def measure(
    subject: Subject,
    solver: OneStepSolver,
    candidates: Sequence[Candidate],
    true: Reference,
    allowance: Allowance | None = None,
    tell: Tell = in_silence,
) -> None:
    """Fill in errors, counts, bytes and the verdict of every candidate that is not refused, and tell each as it comes.

    What a method raises is its own failure: a row with the first line of the message. Once ``MEASURING_SHARE`` of the
    allowance is over, the others are not measured, which is their verdict.
    """
    naive, allowance = NaiveGradients(subject), allowance or Allowance()
    limit = largest_error(_naive_error(naive, solver, true), solver.controller.rtol)
    with cheap_collections():
        for c in candidates:
            if "verdict" not in c.row and allowance.over(MEASURING_SHARE):
                c.row["verdict"] = f"{UNMEASURED}: {allowance} was spent"
            elif "verdict" not in c.row:
                failure = _measured(c, subject, naive, true)
                other = "" if c.solver is solver else f", with solver {c.solver.name}"
                c.row["verdict"] = failure or _verdict(c, true, limit) + other
            tell(told(c.row))
    if not any(str(c.row["verdict"]).startswith("accurate") for c in candidates):
        for c in candidates:
            c.row["verdict"] = _of_the_solver(c, limit)


def told(row: Mapping[str, Any]) -> str:
    """Return a row in a few words, with units."""
    words = [f"{row['gradient']}: {row['verdict'].partition(':')[0]}"]
    if "gradient_error" in row:
        words.append(f"error {error(row['gradient_error'])}")
    if "peak_bytes" in row:
        words.append(f"NFE {count(row['nfe_forward'])} / {count(row['nfe_backward'])}")
        words.append(f"peak {memory(row['peak_bytes'])}")
    return ", ".join(words)


def _measured(c: Candidate, subject: Subject, naive: NaiveGradients, true: Reference) -> str:
    """Fill in errors, counts and bytes; return how it failed, or nothing."""
    try:
        c.row |= _errors(subject, c, naive, true) | _counted(subject, c)
        c.row |= measured_bytes(subject, partial(solve_with, c.method, c.solver.uncompiled()))
    except Exception as raised:
        return f"failed: {(str(raised) or type(raised).__name__).splitlines()[0]}"
    return ""


def _naive_error(naive: NaiveGradients, solver: OneStepSolver, true: Reference) -> float | None:
    """Return what naive is off by with ``solver``; None if it is not known or naive cannot be solved."""
    if true.gradient is None:
        return None
    try:
        return relative_distance(naive.by(solver), true.gradient)
    except Exception:  # then naive's own row says why
        return None


def _errors(subject: Subject, c: Candidate, naive: NaiveGradients, true: Reference) -> dict[str, object]:
    found = subject.gradient(solve_with(c.method, c.solver))
    errors: dict[str, object] = {}
    if true.gradient is not None:
        errors["gradient_error"] = relative_distance(found, true.gradient)
    if c.method.traits.shared_loop:
        errors["method_error"] = relative_distance(found, naive.by(equivalent_solver(c.method, c.solver)))
    return errors


def _counted(subject: Subject, c: Candidate) -> dict[str, object]:
    with subject.left_as_it_was():
        counts, _ = counted_iteration(subject, c.method, c.solver.uncompiled())
    back = c.method.traits.backward_phase
    return {
        "nfe_forward": counts.calls["forward"],
        "nfe_backward": counts.calls[back],
        "vjps": counts.vjps[back],
        "reconstruction_error": counts.reconstruction_error,
    }


def _verdict(c: Candidate, true: Reference, limit: float) -> str:
    error = c.row.get("gradient_error")
    verdict = accuracy(error, true.error, limit)
    if verdict == "accurate":
        return verdict
    if error is None:
        return f"{UNDECIDED}: {true.reason}"
    if not math.isfinite(error):
        return f"{verdict}: its gradient is not finite"
    known = f", known to {true.error:.1e}" if verdict == UNDECIDED else ""
    state = c.row.get("reconstruction_error")
    lost = "" if state is None or state <= limit else f"; the state of its backward pass is off by {state:.1e}"
    return f"{verdict}: off by {error:.1e}{known}, accurate is {limit:.1e}{lost}"


def _of_the_solver(c: Candidate, limit: float) -> str:
    """Return the verdict where nobody is accurate: an exact gradient is right for steps that are too coarse."""
    verdict, error = str(c.row["verdict"]), c.row.get("gradient_error")
    exact = c.method.traits.exact and c.row.get("method_error", math.inf) <= limit
    if not (exact and verdict.startswith("inaccurate") and error is not None and math.isfinite(error)):
        return verdict
    return f"{TOO_LOOSE}: exact for its steps, which are off by {error:.1e}; accurate is {limit:.1e}"
