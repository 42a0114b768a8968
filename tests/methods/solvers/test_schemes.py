"""Schemes beside the plain tableaus: what leapfrog and reversible wrapper promise; PI control; the seminorm peer."""

import math
from itertools import pairwise

import pytest
import torch
import torchdiffeq
from scipy.integrate import solve_ivp
from torch import nn

from odegrad.checks.problems import SmoothNet, StepLog
from odegrad.errors import UsageError
from odegrad.measuring.counting import CountedField, Counts
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.control import PI_BETA, Controller
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.solver import make_solver
from odegrad.methods.solvers.steppers import plain_stepper
from odegrad.registry import build_gradient
from odegrad.states import Layout


def _start(batch=6):
    return torch.randn(batch, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _exact(field, y0, end):
    """Return the solution at ``end`` by scipy at tight tolerance."""

    def rate(t, y):
        with torch.no_grad():
            return field(torch.tensor(t).double(), torch.from_numpy(y).view_as(y0)).reshape(-1).numpy()

    found = solve_ivp(rate, (0.0, end), y0.reshape(-1).numpy(), method="DOP853", rtol=1e-13, atol=1e-13)
    return torch.from_numpy(found.y[:, -1]).view_as(y0)


@pytest.mark.parametrize("base", ["midpoint", "bosh3", "rk4"])
@pytest.mark.parametrize("coupling", [1.0, 0.99])
def test_reversible_wrapper_keeps_the_order_and_one_step_matches_its_formula(base, coupling):
    """McCallum and Foster 2024: y' = l y + (1 - l) z + Psi_h(z), z' = z - Psi_-h(y'); the order is the base's."""
    field, y0 = SmoothNet(), _start()
    solver = make_solver(base, coupling=coupling, num_steps=1)
    plain = make_solver(base, num_steps=1)

    def increment(y, t, h):
        ts = torch.tensor([t, t + h], dtype=torch.float64)
        with torch.no_grad():
            return Naive()(field, plain, y, ts)[-1] - y

    h, y, z = 0.3, y0, y0
    for i in range(2):
        moved = coupling * y + (1 - coupling) * z + increment(z, i * h, h)
        z = z - increment(moved, (i + 1) * h, -h)
        y = moved
    two = make_solver(base, coupling=coupling, num_steps=2)
    with torch.no_grad():
        found = Naive()(field, two, y0, torch.tensor([0.0, 2 * h], dtype=torch.float64))[-1]
    torch.testing.assert_close(found, y, rtol=1e-13, atol=1e-14)
    assert solver.order == plain.order
    truth, errors = _exact(field, y0, 1.0), []
    for n in (10, 20, 40):
        at = make_solver(base, coupling=coupling, num_steps=n)
        with torch.no_grad():
            errors.append(float((Naive()(field, at, y0, torch.tensor([0.0, 1.0]).double())[-1] - truth).norm()))
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] >= plain.order - 0.2


def test_leapfrog_steps_are_undone_by_steps_back():
    """The undamped asynchronous leapfrog run from its end with -h returns to its start (Zhuang et al. 2021)."""
    field, y0 = SmoothNet(), _start()
    flat = FlatField(field, Layout.of(y0))
    solver = make_solver("alf", num_steps=1)
    with torch.no_grad():
        stepper = plain_stepper(solver, flat, y0.reshape(-1))
        x = start = stepper.start(0.0, y0.reshape(-1))
        places = [(0.1 * i, 0.1 * (i + 1)) for i in range(16)]
        for t, t_next in places:
            x = stepper.attempt(t, t_next - t, t_next, x)
        assert float((x - start).norm()) > 0.1
        for t, t_next in reversed(places):
            x = stepper.attempt(t_next, t - t_next, t, x)
    assert float((x - start).norm() / start.norm()) <= 1e-13


class _VanDerPol(nn.Module):
    def forward(self, t, y):
        x, v = y[..., 0], y[..., 1]
        return torch.stack([v, 5 * (1 - x**2) * v - x], dim=-1)


def test_pi_control_follows_its_formula():
    """Factor safety ratio^-(1/order - 0.75 beta) previous^beta, between the limits (Hairer and Wanner II, IV.2)."""
    control = Controller(1e-3, 1e-3, control="pi")
    for ratio, previous in ((0.5, 0.2), (0.9, 0.9), (3.0, 0.7), (1e-9, 0.5), (1e6, None)):
        factor = 0.9 * ratio ** -(0.2 - 0.75 * PI_BETA) * (1.0 if previous is None else previous) ** PI_BETA
        expected = 0.1 * min(10.0, max(0.2, factor))
        assert control.next_step(0.1, ratio, 5, previous) == pytest.approx(expected, rel=1e-14)


def test_pi_control_rejects_fewer_steps_at_no_larger_an_error():
    """Van der Pol's oscillator, where the elementary controller rejects often."""
    field, y0, ts = _VanDerPol(), torch.tensor([[2.0, 0.0]], dtype=torch.float64), torch.tensor([0.0, 12.0]).double()
    truth = _exact(field, y0, 12.0)
    rejected, errors = {}, {}
    for control in ("elementary", "pi"):
        log = StepLog()
        solver = make_solver("dopri5", rtol=1e-6, atol=1e-6, control=control).observed_by(log)
        with torch.no_grad():
            end = Naive()(field, solver, y0, ts)[-1]
        rejected[control], errors[control] = log.rejections, float((end - truth).norm())
    assert rejected["pi"] < rejected["elementary"]
    assert errors["pi"] <= 1.5 * errors["elementary"]


@pytest.mark.parametrize("name", ["torchdiffeq_adjoint", "torchdiffeq_seminorm"])
def test_peers_are_torchdiffeqs_own_calls(name):
    """Same gradient, bit for bit, and same f calls as odeint_adjoint called by hand."""
    ts, options = torch.tensor([0.0, 0.5, 1.5]).double(), {"norm": "seminorm"} if "semi" in name else None
    grads, calls = [], []
    for ours in (True, False):
        field, y0, counts = SmoothNet(), _start().requires_grad_(), Counts()
        counted = CountedField(field, counts)
        if ours:
            ys = build_gradient(name)(counted, make_solver("dopri5", rtol=1e-6, atol=1e-6), y0, ts)
        else:
            ys = torchdiffeq.odeint_adjoint(
                counted, y0, ts, rtol=1e-6, atol=1e-6, method="dopri5", adjoint_options=options
            )
        with counts.during("adjoint"):
            grads.append(torch.autograd.grad((ys**2).sum(), [y0, *field.parameters()]))
        calls.append(dict(counts.calls))
    assert calls[0] == calls[1]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_seminorm_peer_takes_fewer_calls():
    """Kidger et al. 2021: the parameter gradient out of the norm saves backward calls."""
    calls = {}
    for name in ("torchdiffeq_adjoint", "torchdiffeq_seminorm"):
        field, counts = SmoothNet(), Counts()
        solver = make_solver("dopri5", rtol=1e-8, atol=1e-8)
        ys = build_gradient(name)(CountedField(field, counts), solver, _start(), torch.tensor([0.0, 3.0]).double())
        with counts.during("adjoint"):
            torch.autograd.grad((100.0 * ys).pow(2).sum(), list(field.parameters()))
        calls[name] = counts.calls["adjoint"]
    assert calls["torchdiffeq_seminorm"] < calls["torchdiffeq_adjoint"]


def test_wrong_options_name_what_is_expected():
    with pytest.raises(UsageError, match="eta: expected a damping"):
        make_solver("alf", eta=0.0)
    with pytest.raises(UsageError, match="coupling: expected a number"):
        make_solver("rk4", coupling=1.5)
    with pytest.raises(UsageError, match="coupling: expected none with solver alf"):
        make_solver("alf", coupling=0.9)
    with pytest.raises(UsageError, match="control: expected 'elementary', 'pi' or 'pi34'"):
        make_solver("dopri5", control="pid")
