"""Every gradient method on the shared loop passes every conformance check that applies to it."""

import pytest

from odegrad.check import CHECKS, check_method, run_check
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

METHODS = [
    ("naive", {}),
    ("adjoint", {}),
    ("adjoint", {"parameters": "state", "normalize_costate": False}),
    ("adjoint_seminorm", {}),
    ("aca", {}),
    ("interpolation_dense", {}),
    ("gauss_adjoint", {}),
    ("symplectic_adjoint", {}),
    ("anode", {}),
    ("anode", {"steps_per_block": 2}),
    ("interpolation", {"num_nodes": 20}),
    ("interpolation", {"num_nodes": 20, "kind": "first"}),
    ("interpolation", {"parameters": "state"}),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize(("name", "options"), METHODS, ids=lambda v: v if isinstance(v, str) else ",".join(v) or "-")
def test_method_passes_check(name, options, check):
    """Each result of the check is a pass; its figure and threshold are in the message otherwise."""
    results = list(run_check(check, build_gradient(name, options), make_solver("dopri5")))
    failed = [r for r in results if not r.passed]
    assert not failed, failed


def test_checks_yield_results_for_every_method():
    """No check is empty by accident: exact methods skip none, continuous ones only the equality with naive."""
    for name, skipped in (("naive", set()), ("interpolation", {"equals_naive"})):
        method = build_gradient(name)
        empty = {c.__name__ for c in CHECKS if not list(run_check(c, method, make_solver("dopri5")))}
        assert empty == skipped


def test_checks_catch_torchdiffeq_stepping_outside():
    """The published loop calls f outside the interval and ends no step on the outputs: the check must say so."""
    failed = {r.check for r in check_method("torchdiffeq_naive") if not r.passed}
    assert "G11 landing" in failed
