"""The columns of implicit steps: what a run counts, and what its method predicts of it."""

import pytest
import torch

from odegrad.datasets.nets.stiff_fields import VanDerPolField
from odegrad.measuring.call_counts import count_columns
from odegrad.methods.solvers.solver import make_solver
from odegrad.reference.subject import Subject
from odegrad.registry import build_gradient


def _columns(method, solver):
    field, y0 = VanDerPolField(10.0), torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    ts = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    subject = Subject(lambda solve: solve(field, y0, ts)[1:].sum(), (field.mu,), (field,))
    return count_columns(subject, build_gradient(method), solver)


@pytest.mark.parametrize("method", ["naive", "aca", "symplectic_adjoint"])
def test_newton_and_linear_systems_are_counted_and_predicted(method):
    """Predictions are equalities; the sums are those of the algorithm."""
    found = _columns(method, make_solver("kencarp4", rtol=1e-3, atol=1e-5))
    steps, attempts = found["accepted_steps"], found["accepted_steps"] + found["rejected_steps"]
    newton = found["newton_iterations"] + found["newton_iterations_lost"]
    assert found["nfe_forward"] == found["predicted_nfe_forward"] == 2 + newton + steps
    assert found["nfe_backward"] == found["predicted_nfe_backward"]
    redone = 0 if method == "naive" else 2 * steps
    assert found["vjps"] == found["predicted_vjps"] == 5 * steps * 3 + 1 + redone
    assert found["jacobians_forward"] == steps
    assert found["factorisations_forward"] == attempts + found["newton_failures"]
    assert found["linear_solves_forward"] == newton + attempts
    for name in ("jacobians", "factorisations", "linear_solves"):
        assert found[f"{name}_backward"] == found[f"predicted_{name}_backward"] > 0
    assert found["newton_iterations_backward"] == (0 if method == "naive" else found["newton_iterations"])
    assert found["jacobians_backward"] == (5 if method == "naive" else 6) * steps


def test_explicit_steps_have_no_such_columns():
    """None, not zero: there is nothing to compare."""
    found = _columns("aca", make_solver("dopri5", rtol=1e-3, atol=1e-5))
    assert found["newton_iterations"] is None
    assert found["predicted_jacobians_backward"] is None
    assert found["nfe_backward"] == found["predicted_nfe_backward"]


@pytest.mark.parametrize("method", ["naive", "aca", "symplectic_adjoint"])
def test_what_a_sample_takes_is_the_taps(method):
    """A tap's own calls, and one for each rate that has a cotangent; all others are as before, and as predicted."""
    field, y0 = VanDerPolField(10.0), torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    ts = torch.tensor([0.0, 0.5], dtype=torch.float64)
    subject = Subject(lambda solve: solve(field, y0, ts)[1:].sum(), (field.mu,), (field,))
    solver = make_solver("kencarp4", rtol=1e-3, atol=1e-5)

    own = []

    class Sample:
        def sample_times(self, t0, t1):
            return []

        def observe(self, field, t, y, a, weight):
            own.append(field(torch.as_tensor(t, dtype=torch.float64), y))

    plain = count_columns(subject, build_gradient(method), solver)
    found = count_columns(subject, build_gradient(method), solver, Sample())
    for name in ("nfe_forward", "nfe_backward", "vjps"):
        assert found[name] == plain[name] == found[f"predicted_{name}"]
    assert plain["nfe_tap"] == 0
    assert found["nfe_tap"] == len(own) + plain["accepted_steps"]
