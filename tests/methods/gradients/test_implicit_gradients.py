"""Exact gradients of implicit steps: against backprop through Newton's iteration, each other, and scipy."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from odegrad.checks.problems import StepLog
from odegrad.datasets.nets.stiff_fields import (
    POLLU_START,
    ProtheroRobinsonField,
    RobertsonField,
    VanDerPolField,
    pollu_field,
)
from odegrad.errors import UnsupportedError, UsageError
from odegrad.measuring.counting import CountedField, Counts
from odegrad.methods.gradients.aca import Aca
from odegrad.methods.gradients.anode import Anode
from odegrad.methods.gradients.forward_sensitivity import ForwardSensitivity
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.gradients.revolve import Revolve
from odegrad.methods.gradients.symplectic_adjoint import SymplecticAdjoint
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import steps
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient
from odegrad.states import Layout

ADAPTIVE = ("tr_bdf2", "kvaerno3", "kencarp4", "kvaerno5")
CELLS = {
    "van der Pol": (lambda: VanDerPolField(100.0), (2.0, 0.0), 20.0, 1e-3),
    "Robertson": (RobertsonField, (1.0, 0.0, 0.0), 40.0, 1e-3),
    "Prothero and Robinson": (lambda: ProtheroRobinsonField(1e6), (1.0,), 2.0, 1e-4),
}
METHODS = (
    Aca(),
    Anode(),
    Anode(steps_per_block=3),
    Revolve(checkpoints=1),
    Revolve(checkpoints=2),
    Revolve(checkpoints=100),
    SymplecticAdjoint(),
    SymplecticAdjoint(keep_stages=True),
    ForwardSensitivity(),
)


def _relative(found, true):
    return float((found - true).norm() / true.norm())


def _through_newton(field, tableau, grid, y0):
    """Return the end of the recorded steps with the graph of full Newton iterations, Jacobians and all."""

    def rate(t, y):
        return field(torch.tensor(t, dtype=torch.float64), y[None])[0]

    y, k = y0, rate(grid[0].t, y0)
    for step in grid:
        times, h, g = tableau.times(step.t, step.h, step.t_next), step.h, tableau.gamma
        ks, base = [k], y
        for i in tableau.solved:
            base = y + h * sum(w * known for w, known in zip(tableau.a[i], ks, strict=True))
            z = h * g * ks[-1]
            for _ in range(8):
                w = torch.eye(len(z), dtype=z.dtype) - h * g * torch.autograd.functional.jacobian(
                    lambda x, t=times[i]: rate(t, x), base + z, create_graph=True
                )
                z = z - torch.linalg.solve(w, z - h * g * rate(times[i], base + z))
            ks.append(z / (h * g))
        y, k = base + z, ks[-1]
    return y


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ADAPTIVE)
def test_pull_back_is_backprop_through_full_newton(name, cell):
    """On the same grid, each stage converged: the gradient is that through every iteration and its Jacobian."""
    make, start, end, rtol = CELLS[cell]
    field, y0 = make(), torch.tensor([start], dtype=torch.float64)
    solver = make_solver(name, rtol=rtol, atol=1e-4 * rtol, newton=1e-12)
    with torch.no_grad():
        flat = FlatField(field, Layout.of(y0))
        grid = [step.grid_step for step in steps(flat, solver, y0.reshape(-1), [0.0, end])]
    leaf = y0[0].clone().requires_grad_()
    weights = torch.linspace(1.0, 2.0, leaf.numel(), dtype=torch.float64)
    end_state = _through_newton(field, solver.scheme.tableau, grid, leaf)
    true = torch.autograd.grad((weights * end_state).sum(), (leaf, *field.parameters()))
    leaf = y0.clone().requires_grad_()
    ys = Naive()(field, solver, leaf, torch.tensor([0.0, end], dtype=torch.float64))
    found = torch.autograd.grad((weights * ys[-1, 0]).sum(), (leaf, *field.parameters()))
    for a, b in zip(found, true, strict=True):
        error = float((a.reshape(-1) - b.reshape(-1)).abs().max() / b.abs().max())
        # Prothero and Robinson's state forgets its past: its derivatives are ten orders smaller than what they sum.
        assert error <= (1e-8 if cell == "Prothero and Robinson" else 1e-13)


def _robertson_batch():
    rates = torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64) * torch.tensor([[1.0], [0.5], [2.0]]).double()
    return RobertsonField(rates), torch.tensor([[1.0, 0, 0], [0.9, 0, 0.1], [0.7, 0, 0.3]], dtype=torch.float64)


def _gradient(method, solver, field, y0, ts):
    """Return (gradient, measured calls and products, predicted ones)."""
    counts, log = Counts(), StepLog()
    leaf = y0.clone().requires_grad_()
    ys = method(CountedField(field, counts), solver.observed_by(log), leaf, ts)
    forward, works = (len(log.ends), log.rejections), tuple(log.works)
    weights = torch.linspace(0.5, 1.5, ys[1:].numel(), dtype=ys.dtype).view_as(ys[1:])
    with counts.during("backward"):
        grads = torch.autograd.grad((weights * ys[1:]).sum(), (leaf, *field.parameters()))
    predicted = method.predicted_calls(solver.counted(len(ts) - 1, forward, works=works))
    return (
        torch.cat([g.reshape(-1) / g.abs().max() for g in grads]),
        (counts.calls["forward"], counts.calls["backward"]),
        (predicted.forward, predicted.backward),
    )


@pytest.mark.parametrize("outputs", ["step_ends", "dense"])
@pytest.mark.parametrize("name", ["tr_bdf2", "kencarp4"])
def test_every_exact_method_gives_naives_gradient_and_predicts_its_calls(name, outputs):
    """On one grid to rounding; f calls forward and backward are as predicted from the steps' Newton iterations."""
    field, y0 = _robertson_batch()
    ts = torch.tensor([0.0, 0.3, 4.0, 40.0], dtype=torch.float64)
    solver = make_solver(name, rtol=1e-3, atol=1e-7, outputs=outputs)
    true, calls, predicted = _gradient(Naive(), solver, field, y0, ts)
    assert calls == predicted
    for method in METHODS:
        found, calls, predicted = _gradient(method, solver, field, y0, ts)
        assert _relative(found, true) <= 1e-12, method
        if outputs == "step_ends":
            assert calls == predicted, method


@pytest.mark.parametrize("name", ["implicit_euler", "implicit_midpoint"])
def test_methods_without_an_explicit_first_stage(name):
    """Nothing is carried beside the state; naive, replay, partner and columns agree, at fixed steps."""
    field, y0 = VanDerPolField(5.0), torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    ts, solver = (
        torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64),
        make_solver(name, num_steps=20, rtol=1e-4, atol=1e-6),
    )
    true, calls, predicted = _gradient(Naive(), solver, field, y0, ts)
    assert calls == predicted
    for method in METHODS:
        found, calls, predicted = _gradient(method, solver, field, y0, ts)
        assert _relative(found, true) <= 1e-12, method
        assert calls == predicted, method


def test_products_alone_give_the_same_gradient():
    """With GMRES, pull-backs solve to rounding: naive's gradient is that of the same steps by every method."""
    field, y0 = VanDerPolField(10.0), torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    ts, solver = torch.tensor([0.0, 1.0], dtype=torch.float64), make_solver("kencarp4", rtol=1e-4, linear="krylov")
    true, *_ = _gradient(Naive(), solver, field, y0, ts)
    for method in (Aca(), SymplecticAdjoint(), SymplecticAdjoint(keep_stages=True)):
        assert _relative(_gradient(method, solver, field, y0, ts)[0], true) <= 1e-11
    blocks, *_ = _gradient(Naive(), make_solver("kencarp4", rtol=1e-4, linear="blocks"), field, y0, ts)
    assert _relative(true, blocks) <= 1e-3


def _variational(rates, y0, end, rtol):
    """Return Robertson's state ``[3]`` and its derivatives by state and rates ``[3, 6]``, by scipy's Radau."""
    k1, k2, k3 = rates

    def both(_t, x):
        (a, b, c), s = x[:3], x[3:].reshape(3, 6)
        f = np.array([k3 * b * c - k1 * a, k1 * a - k2 * b * b - k3 * b * c, k2 * b * b])
        by_y = np.array([[-k1, k3 * c, k3 * b], [k1, -2 * k2 * b - k3 * c, -k3 * b], [0, 2 * k2 * b, 0]])
        by_rates = np.array([[-a, 0, b * c], [a, -b * b, -b * c], [0, b * b, 0]])
        ds = by_y @ s
        ds[:, 3:] += by_rates
        return np.concatenate([f, ds.reshape(-1)])

    start = np.concatenate([y0, np.hstack([np.eye(3), np.zeros((3, 3))]).reshape(-1)])
    # The derivatives by the second rate are ten orders smaller: each column's own scale is its tolerance.
    atol = np.concatenate([np.full(3, 1e-14), np.tile([1e-12, 1e-12, 1e-12, 1e-12, 1e-21, 1e-17], 3)])
    found = solve_ivp(both, (0.0, end), start, method="Radau", rtol=rtol, atol=atol).y[:, -1]
    return found[:3], found[3:].reshape(3, 6)


@pytest.fixture(scope="module")
def robertson_truth():
    return _variational((0.04, 3e7, 1e4), np.array([1.0, 0.0, 0.0]), 1e4, 1e-9)


@pytest.mark.parametrize(
    ("name", "rtol", "of_state", "of_gradient"),
    [
        ("tr_bdf2", 1e-4, 8e-5, 3e-4),
        ("kvaerno3", 1e-4, 4e-6, 2e-5),
        ("kencarp4", 1e-4, 3e-6, 1e-6),
        ("kencarp4", 1e-6, 3e-7, 7e-8),
        ("kvaerno5", 1e-4, 4e-7, 9e-7),
    ],
)
def test_robertson_against_scipys_variational_equations(name, rtol, of_state, of_gradient, robertson_truth):
    """State and gradient of ``y1`` at 1e4 s are within three times the errors known from a prototype."""
    state, derivatives = robertson_truth
    field, y0 = RobertsonField(), torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    solver = make_solver(name, rtol=rtol, atol=1e-4 * rtol)
    end = Aca()(field, solver, y0, torch.tensor([0.0, 1e4], dtype=torch.float64))[-1]
    grads = torch.autograd.grad(end[0, 0], (y0, field.rates))
    assert np.linalg.norm(end.detach()[0].numpy() - state) <= 3 * of_state * np.linalg.norm(state)
    # Relative to each, as rates of 1e7 and 1e-2 have derivatives ten orders apart.
    found = np.concatenate([g.reshape(-1).numpy() for g in grads])
    error = np.abs(found - derivatives[0]) / np.abs(derivatives[0])
    assert error.max() <= 3 * of_gradient + 1e-7


def _van_der_pol_truth(mu, end, rtol):
    """Return the state ``[2]`` from (2, 0) and the derivatives by start and damping ``[2, 3]``, by scipy's Radau."""

    def both(_t, x):
        (y, v), s = x[:2], x[2:].reshape(2, 3)
        by_y = np.array([[0.0, 1.0], [-2 * mu * y * v - 1, mu * (1 - y * y)]])
        ds = by_y @ s
        ds[1, 2] += (1 - y * y) * v
        return np.concatenate([[v, mu * (1 - y * y) * v - y], ds.reshape(-1)])

    start = np.concatenate([[2.0, 0.0], np.hstack([np.eye(2), np.zeros((2, 1))]).reshape(-1)])
    found = solve_ivp(both, (0.0, end), start, method="Radau", rtol=rtol, atol=1e-3 * rtol).y[:, -1]
    return found[:2], found[2:].reshape(2, 3)


@pytest.mark.minutes
def test_van_der_pol_against_scipys_variational_equations():
    """A damping of 100 over two and a half relaxations: errors and f calls as known from a prototype.

    The gradient is off by 1e4 times what the state is, for the step control watches the state alone.
    """
    state, derivatives = _van_der_pol_truth(100.0, 200.0, 1e-9)
    for name, rtol, of_state, of_gradient, calls in (
        ("kvaerno3", 1e-4, 6e-5, 0.23, 4_749),
        ("kencarp4", 1e-6, 3e-6, 2e-2, 5_775),
        ("kvaerno5", 1e-6, 3e-7, 6e-3, 6_643),
    ):
        log, field, y0 = StepLog(), VanDerPolField(100.0), torch.tensor([[2.0, 0.0]]).double().requires_grad_()
        solver = make_solver(name, rtol=rtol, atol=1e-2 * rtol).observed_by(log)
        end = Naive()(field, solver, y0, torch.tensor([0.0, 200.0]).double())[-1]
        newton = sum(work.newton + work.newton_lost for work in log.works)
        grads = torch.autograd.grad(end.sum(), (y0, field.mu))
        found, true = np.concatenate([g.reshape(-1).numpy() for g in grads]), derivatives.sum(0)
        print(
            name,
            2 + newton,
            np.linalg.norm(end.detach()[0].numpy() - state),
            np.linalg.norm(found - true) / np.linalg.norm(true),
        )
        assert abs(2 + newton - calls) <= 0.25 * calls
        assert np.linalg.norm(end.detach()[0].numpy() - state) <= 3 * of_state * np.linalg.norm(state)
        assert np.linalg.norm(found - true) <= 3 * of_gradient * np.linalg.norm(true)


def test_single_precision_takes_the_same_steps():
    """Robertson's reaction in float32 at rtol 1e-4: the same counts, the gradient to 3e-5.

    Its rare species is 1e-5 of the others: a correction that is rounding beside these is none beside it.
    """
    grads, counts = [], []
    for dtype in (torch.float64, torch.float32):
        field, y0 = RobertsonField().to(dtype), torch.tensor([[1.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
        log = StepLog()
        solver = make_solver("kencarp4", rtol=1e-4, atol=1e-8).observed_by(log)
        end = Naive()(field, solver, y0, torch.tensor([0.0, 1e4], dtype=dtype))[-1]
        found = torch.autograd.grad(end[0, 0], (y0, field.rates))
        grads.append(torch.cat([g.double().reshape(-1) for g in found]))
        counts.append((len(log.ends), log.rejections))
    assert counts[0] == counts[1]
    assert float(((grads[1] - grads[0]) / grads[0]).abs().max()) <= 3e-5


POLLU_AT_60 = (
    0.5646255480022769e-01, 0.1342484130422339, 0.4139734331099427e-08, 0.5523140207484359e-02, 0.2018977262302196e-06,
    0.1464541863493966e-06, 0.7784249118997964e-01, 0.3245075353396018, 0.7494013383880406e-02, 0.1622293157301561e-07,
    0.1135863833257075e-07, 0.2230505975721359e-02, 0.2087162882798630e-03, 0.1396921016840158e-04,
    0.8964884856898295e-02, 0.4352846369330103e-17, 0.6899219696263405e-02, 0.1007803037365946e-03,
    0.1772146513969984e-05, 0.5682943292316392e-04,
)  # fmt: skip
"""The published solution of POLLU at its end (Mazzia and Magherini, Test set for initial value problem solvers)."""


def test_pollu_against_its_published_solution():
    """20 species, 25 reactions: the state as published; the derivative along all rates by a difference of losses."""
    field, y0 = pollu_field(), torch.zeros(1, 20, dtype=torch.float64)
    for species, amount in POLLU_START.items():
        y0[0, species - 1] = amount
    solver = make_solver("kencarp4", rtol=1e-7, atol=1e-13, newton=1e-4)
    ts = torch.tensor([0.0, 60.0], dtype=torch.float64)
    end = Aca()(field, solver, y0, ts)[-1, 0]
    truth = torch.tensor(POLLU_AT_60, dtype=torch.float64)
    assert float(((end.detach() - truth) / truth).abs().max()) <= 1e-5
    (found,) = torch.autograd.grad(end[0], (field.log_rates,))
    direction, values = torch.cos(torch.arange(25, dtype=torch.float64)), []
    for step in (1e-3, -1e-3):
        with torch.no_grad():
            field.log_rates.add_(step * direction)
            values.append(float(Aca()(field, solver, y0, ts)[-1, 0, 0]))
            field.log_rates.sub_(step * direction)
    assert float(found @ direction) == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-3)


def test_a_tolerance_below_single_precision_is_told():
    """The floor of Robertson's gradient is near 5e-6 in float32."""
    y0, ts = torch.ones(1, 1), torch.tensor([0.0, 0.1])
    with pytest.warns(UserWarning, match=r"rtol = 5e-06: the linear systems of solver kencarp4.*use float64"):
        Aca()(ProtheroRobinsonField(1.0).float(), make_solver("kencarp4", rtol=5e-6), y0, ts)


class _Contracting(nn.Module):
    """``y1' = -30 (y1 - cos t)``, ``y2' = y1^2``: solved back, y1 grows by exp(30)."""

    def forward(self, t, y):
        a, b = y.unbind(-1)
        return torch.stack([-30 * (a - torch.cos(t)), a * a + 0 * b], dim=-1)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("adjoint", "whose state cannot be solved back; use aca or interpolation_dense"),
        ("adjoint_seminorm", "whose state cannot be solved back; use aca or interpolation_dense"),
        ("mali", "no inverse step"),
        ("reversible_rk", "no inverse step"),
    ],
)
def test_methods_that_cannot_go_back_refuse(name, why):
    """An L-stable method damps the mode that a backward solve should follow: wrong without a sign of trouble."""
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    with pytest.raises(UnsupportedError, match=why):
        build_gradient(name)(_Contracting(), make_solver("kvaerno5"), y0, torch.tensor([0.0, 1.0]).double())
    assert build_gradient(name).refuses(make_solver("kvaerno5")) is not None


def test_a_contracting_state_has_the_right_gradient():
    """The example that ``adjoint`` fails on: dL/dy1(0) is 0.1000."""
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    solver = make_solver("kvaerno5", rtol=1e-6, atol=1e-8)
    end = Aca()(_Contracting(), solver, y0, torch.tensor([0.0, 1.0], dtype=torch.float64))[-1]
    (found,) = torch.autograd.grad(end[0, 1], y0)
    # y1 = c(t) + (2 - c(0)) exp(-30 t), c = (900 cos t + 30 sin t) / 901: the derivative of its square's integral.
    t = np.linspace(0.0, 1.0, 200_001)
    c = (900 * np.cos(t) + 30 * np.sin(t)) / 901
    y1 = c + (2 - 900 / 901) * np.exp(-30 * t)
    assert float(found[0, 0]) == pytest.approx(np.trapezoid(2 * y1 * np.exp(-30 * t), t), rel=1e-4)


def test_a_second_derivative_raises():
    """It is no graph of Newton's iteration: never silently wrong."""
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    field = VanDerPolField(5.0)
    end = Naive()(field, make_solver("kencarp4", rtol=1e-3), y0, torch.tensor([0.0, 1.0]).double())[-1]
    (g,) = torch.autograd.grad((end**2).sum(), y0, create_graph=True)
    with pytest.raises(UnsupportedError, match="an implicit step has no second derivative; use an explicit solver"):
        torch.autograd.grad((g**2).sum(), y0)


def test_a_tensor_out_of_sight_is_refused():
    """What reaches the field by a closure would get no gradient."""
    hidden = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    class Closure(nn.Module):
        def forward(self, t, y):
            return -hidden * y

    y0 = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    for name in ("kencarp4", "implicit_euler"):
        fixed = {} if name == "kencarp4" else {"num_steps": 4}
        for method in (Naive(), Aca(), SymplecticAdjoint()):
            with pytest.raises(UsageError, match=r"not among field\.parameters"):
                method(Closure(), make_solver(name, **fixed), y0, torch.tensor([0.0, 1.0]).double())


def test_stages_are_kept_for_implicit_solvers_only():
    """An explicit step's stages are f calls that the partner redoes anyway."""
    assert "implicit" in SymplecticAdjoint(keep_stages=True).refuses(make_solver("dopri5"))
    with pytest.raises(UsageError, match="keep_stages"):
        SymplecticAdjoint(keep_stages=1)
