"""Every gradient method on the shared loop passes every conformance check that applies to it."""

import pytest

from odegrad.checks.conformance import CHECKS, check_method, run_check, shared_loop_methods, suitable_solver
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


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", METHODS)
def test_method_passes_check(name, check):
    """Each result of the check is a pass; its figure and threshold are in the message otherwise."""
    method = build_gradient(name)
    assert not [r for r in run_check(check, method, suitable_solver(method)) if not r.passed]


@pytest.mark.parametrize("check", [c for c in CHECKS if c.__name__ in OF_VARIANTS], ids=lambda c: c.__name__)
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda v: v if isinstance(v, str) else ",".join(v))
def test_variant_passes_check(name, options, check):
    """The same with options, for the checks that options can change."""
    method = build_gradient(name, options)
    assert not [r for r in run_check(check, method, suitable_solver(method)) if not r.passed]


def test_checks_yield_results_for_every_method():
    """No check is empty by accident."""
    for name, skipped in (
        ("anode", {"reverse_accuracy"}),
        ("forward_sensitivity", {"reverse_accuracy", "taps_only_watch"}),
        ("interpolation", {"equals_naive", "reverse_accuracy"}),
        ("mali", {"equals_naive", "logarithmic_norm_law"}),
    ):
        method = build_gradient(name)
        empty = {c.__name__ for c in CHECKS if next(run_check(c, method, suitable_solver(method)), None) is None}
        assert empty == skipped


def test_every_method_on_the_shared_loop_is_checked():
    """A method that is registered is in the list above."""
    assert set(METHODS) == set(shared_loop_methods())


def test_checks_catch_torchdiffeq_stepping_outside():
    """The published loop calls f outside the interval and ends no step on the outputs: the check must say so."""
    failed = {r.check for r in check_method("torchdiffeq_naive") if not r.passed}
    assert "G11 landing" in failed
