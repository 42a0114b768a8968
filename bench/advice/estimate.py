"""How long a comparison will take: told before it, from one gradient by naive backprop."""

from odegrad.advice.race import FEW_ROUNDS
from odegrad.binding import solve_with
from odegrad.measuring.timing import forward_and_backward
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.reference.subject import Subject
from odegrad.registry import build_gradient

STARTING_SECONDS = 4.0
"""What torch imports and sets up when its functions are first used."""
REFERENCE_GRADIENTS = 40.0
"""Gradients by naive whose time the reference takes."""
MEASURED_GRADIENTS = 9.0
"""And one method's errors, counts and bytes."""
ROUND_GRADIENTS = 2.5
"""And one method's gradient in a round: most call the field twice as often as naive."""


def estimate(subject: Subject, solver: OneStepSolver, methods: int, rounds: int) -> str:
    """Return about how long a comparison of so many methods takes, in a sentence.

    What naive backprop raises is told in its row of the comparison; there is no estimate then.
    """
    try:
        with subject.left_as_it_was():
            seconds = sum(forward_and_backward(subject, solve_with(build_gradient("naive"), solver.uncompiled())))
    except Exception:
        return "no estimate: naive backprop fails on this model, and its row will say why"
    timed = min(rounds, FEW_ROUNDS) * methods + max(0, rounds - FEW_ROUNDS) * 3
    gradients = REFERENCE_GRADIENTS + MEASURED_GRADIENTS * methods + ROUND_GRADIENTS * timed
    total = STARTING_SECONDS + gradients * seconds
    return f"about {total:.0f} s for {methods} methods: one gradient by naive takes {1e3 * seconds:.3g} ms"
