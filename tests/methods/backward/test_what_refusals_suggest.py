"""What a refusal suggests works: a method that it names takes the solver, a solver that it names the method takes."""

import re

import pytest

from odegrad.catalogue import METHODS, SOLVERS
from odegrad.checks.conformance import shared_loop_methods
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

FIXED = {"euler", "midpoint", "heun", "heun3", "rk4", "implicit_euler", "implicit_midpoint"}
NAMES = {entry.name for entry in SOLVERS}, {entry.name for entry in METHODS}


def _solver(name, **options):
    return make_solver(name, **({"num_steps": 2} if name in FIXED else {}), **options)


def _suggested(reason, names):
    _, _, ways_out = reason.partition("; ")
    return [word for word in re.findall(r"[a-z_0-9]+", ways_out) if word in names]


@pytest.mark.parametrize("name", [entry.name for entry in SOLVERS])
def test_suggestions_are_not_refused_in_turn(name):
    """Of every method of the shared loop that refuses the solver; each says a way out."""
    solver = _solver(name)
    solvers, methods = NAMES
    for of_method in shared_loop_methods():
        method = build_gradient(of_method)
        reason = method.refuses(solver)
        if reason is None:
            continue
        other_methods, other_solvers = _suggested(reason, methods), _suggested(reason, solvers)
        assert other_methods or other_solvers or "explicit solver" in reason, (of_method, reason)
        for other in other_methods:
            assert build_gradient(other).refuses(solver) is None, (of_method, name, reason)
        for other in other_solvers:
            assert method.refuses(_solver(other)) is None, (of_method, name, reason)
