"""Every gradient method on the shared loop passes every conformance check that applies to it."""

import pytest

from odegrad.checks.behaviour import landing_and_range
from odegrad.checks.conformance import CHECKS, run_check, shared_loop_methods, suitable_solver
from odegrad.registry import build_gradient

METHODS = [
    "naive",
    "anode",
    "aca",
    "revolve",
    "symplectic_adjoint",
    "mali",
    "reversible_rk",
    "forward_sensitivity",
    "adjoint",
    "adjoint_seminorm",
    "interpolation",
    "interpolation_dense",
    "gauss_adjoint",
]

VARIANTS = [
    ("adjoint", {"parameters": "state", "normalize_costate": False}),
    ("anode", {"steps_per_block": 2}),
    ("interpolation", {"num_nodes": 20, "kind": "first"}),
    ("interpolation", {"parameters": "state"}),
    ("revolve", {"checkpoints": 1}),
    ("revolve", {"checkpoints": 2}),
    ("revolve", {"checkpoints": 3}),
    ("revolve", {"checkpoints": 1000}),
    ("reversible_rk", {"coupling": 1.0}),
]
OF_VARIANTS = {"closed_forms", "equals_naive", "reverse_accuracy", "counts", "outputs_and_states", "memory_slopes"}


EMPTY = {
    **{name: {"reverse_accuracy"} for name in ("naive", "anode", "aca", "revolve", "symplectic_adjoint")},
    **{name: {"equals_naive", "logarithmic_norm_law"} for name in ("mali", "reversible_rk")},
    "forward_sensitivity": {"reverse_accuracy", "taps_only_watch"},
}
"""The checks that say nothing of a method; of the continuous ones these are ``OF_EXACT``."""
OF_EXACT = {"equals_naive", "reverse_accuracy"}


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", METHODS)
def test_method_passes_check(name, check):
    """Each result is a pass, its figure and threshold in the message otherwise; no check is empty by accident."""
    method = build_gradient(name)
    results = list(run_check(check, method, suitable_solver(method)))
    assert not [r for r in results if not r.passed]
    assert (not results) == (check.__name__ in EMPTY.get(name, OF_EXACT))


@pytest.mark.parametrize("check", [c for c in CHECKS if c.__name__ in OF_VARIANTS], ids=lambda c: c.__name__)
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda v: v if isinstance(v, str) else ",".join(v))
def test_variant_passes_check(name, options, check):
    """The same with options, for the checks that options can change."""
    method = build_gradient(name, options)
    assert not [r for r in run_check(check, method, suitable_solver(method)) if not r.passed]


def test_every_method_on_the_shared_loop_is_checked():
    """A method that is registered is in the list above."""
    assert set(METHODS) == set(shared_loop_methods())


def test_checks_catch_torchdiffeq_stepping_outside():
    """The published loop calls f outside the interval and ends no step on the outputs: the check must say so."""
    method = build_gradient("torchdiffeq_naive")
    results = list(run_check(landing_and_range, method, suitable_solver(method)))
    assert {(r.check, r.passed) for r in results} == {("G11 landing", False)}
