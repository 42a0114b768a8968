"""Rosenbrock methods: order by trees, steps on stiff equations, the exact gradient, counts and refusals."""

import dataclasses
import math
from decimal import Decimal

import pytest
import torch
from torch import nn

from odegrad.checks.problems import StepLog
from odegrad.contracts import ImplicitWork
from odegrad.datasets.nets.stiff_fields import ProtheroRobinsonField, RobertsonField, VanDerPolField
from odegrad.errors import UnsupportedError, UsageError
from odegrad.measuring.counting import CountedField, Counts
from odegrad.methods.gradients.aca import Aca
from odegrad.methods.gradients.anode import Anode
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.gradients.revolve import Revolve
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import steps
from odegrad.methods.solvers.rosenbrock.tableau import ROSENBROCK_TABLEAUS
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient
from odegrad.states import Layout

REDOING = (Aca(), Anode(), Anode(steps_per_block=3), Revolve(checkpoints=1), Revolve(checkpoints=2))


class Swinging(nn.Module):
    """Nonlinear, dependent on time, with a Jacobian that depends on state, time and parameters."""

    def __init__(self):
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([1.3, 0.7], dtype=torch.float64))

    def forward(self, t, y):
        x, v = y.unbind(-1)
        a, b = self.rates
        return torch.stack([-a * x * v + torch.sin(2 * a * t), -b * v + torch.cos(3 * t) * torch.tanh(x)], dim=-1)


def standard(tableau):
    """Return ``alpha_ij + gamma_ij``, ``alpha_ij``, ``b`` and the embedded ``b`` as decimals of 28 digits."""
    s, g = tableau.stages, Decimal(tableau.gamma)
    c = [[Decimal(x) for x in row] for row in tableau.c]
    inverse = [[Decimal(0)] * s for _ in range(s)]
    for j in range(s):  # (I / g - c) times column j of Gamma is a unit vector
        for i in range(s):
            known = sum((c[i][k] * inverse[k][j] for k in range(i)), Decimal(int(i == j)))
            inverse[i][j] = g * known

    def through(row):
        return [sum((Decimal(x) * inverse[k][j] for k, x in enumerate(row)), Decimal(0)) for j in range(s)]

    alpha = [through(row) for row in tableau.a]
    both = [[x + y for x, y in zip(*rows, strict=True)] for rows in zip(alpha, inverse, strict=True)]
    embedded = [x - y for x, y in zip(tableau.m, tableau.error, strict=True)]
    return both, alpha, through(tableau.m), through(embedded)


TREES = {1: [()], 2: [((),)]}
"""Rooted trees by their number of vertices, each the tuple of its branches."""


def trees(order):
    """Return the rooted trees of ``order`` vertices."""
    if order not in TREES:
        found = set()
        for size in range(1, order):
            for branch in trees(size):
                found |= {tuple(sorted((*rest, branch))) for rest in trees(order - size)}
        TREES[order] = sorted(found)
    return TREES[order]


def size(tree):
    return 1 + sum(map(size, tree))


def density(tree):
    return size(tree) * math.prod(map(density, tree))


def weights(tree, both, alpha):
    """Return the elementary weights: a vertex with one branch takes both matrices (Hairer and Wanner II, IV.7)."""
    rows, out = both if len(tree) == 1 else alpha, [Decimal(1)] * len(both)
    for branch in tree:
        inner = weights(branch, both, alpha)
        out = [x * sum(r * w for r, w in zip(row, inner, strict=True)) for x, row in zip(out, rows, strict=True)]
    return out


def residual(both, alpha, b, order):
    """Return the largest residual of the conditions of ``order``."""
    found = (
        sum(x * w for x, w in zip(b, weights(t, both, alpha), strict=True)) - Decimal(1) / density(t)
        for t in trees(order)
    )
    return max(abs(float(x)) for x in found)


def test_order_by_rooted_trees():
    """Order 5, the embedded method order 4, by every tree; and not one more."""
    both, alpha, b, embedded = standard(ROSENBROCK_TABLEAUS["rodas5p"])
    assert [len(trees(n)) for n in range(1, 7)] == [1, 1, 2, 4, 9, 20]
    assert max(residual(both, alpha, b, p) for p in range(1, 6)) <= 1e-13
    assert max(residual(both, alpha, embedded, p) for p in range(1, 5)) <= 1e-13
    assert residual(both, alpha, b, 6) > 1e-5
    assert residual(both, alpha, embedded, 5) > 1e-5


def test_stability():
    """Both R vanish at infinity, and |R(iy)| <= 1."""
    tableau = ROSENBROCK_TABLEAUS["rodas5p"]

    def r(z, weights_):
        u = []
        for a, c in zip(tableau.a, tableau.c, strict=True):
            state = 1 + sum(x * y for x, y in zip(a, u, strict=True))
            right = tableau.gamma * (z * state + sum(x * y for x, y in zip(c, u, strict=True)))
            u.append(right / (1 - z * tableau.gamma))
        return 1 + sum(x * y for x, y in zip(weights_, u, strict=True))

    embedded = [x - y for x, y in zip(tableau.m, tableau.error, strict=True)]
    assert abs(r(-1e9, tableau.m)) <= 1e-6
    assert abs(r(-1e9, embedded)) <= 1e-6
    assert max(abs(r(1j * 0.1 * n, tableau.m)) for n in range(1000)) <= 1 + 1e-9


def test_a_wrong_tableau_is_refused():
    """Its times and weights of f_t must be its row sums, or it converges at order 1 where f depends on time."""
    good = ROSENBROCK_TABLEAUS["rodas5p"]
    with pytest.raises(UsageError, match=r"alpha\[1\]"):
        dataclasses.replace(good, alpha=(0.0, good.alpha[1] + 1e-9, *good.alpha[2:]))
    with pytest.raises(UsageError, match=r"gammas\[1\]"):
        dataclasses.replace(good, gammas=(good.gammas[0], good.gammas[1] + 1e-9, *good.gammas[2:]))
    with pytest.raises(UsageError, match="7 stages"):
        dataclasses.replace(good, m=good.m[:-1], error=good.error)


def _gradient(name, field, y0, end, **options):
    leaf = y0.clone().requires_grad_()
    ys = Naive()(field, make_solver(name, **options), leaf, torch.tensor([0.0, end], dtype=torch.float64))
    grads = torch.autograd.grad((ys[-1] ** 2).sum(), (leaf, *field.parameters()))
    return ys[-1].detach(), torch.cat([g.reshape(-1) for g in grads])


def test_slopes_of_state_and_gradient():
    """On fixed grids both errors fall with the fifth power of the step, on a field that depends on time."""
    field, y0 = Swinging(), torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    true = _gradient("dopri8", field, y0, 2.0, num_steps=100)
    coarse, fine = (_gradient("rodas5p", field, y0, 2.0, num_steps=n) for n in (20, 40))
    for before, after, exact in zip(coarse, fine, true, strict=True):
        slope = math.log2(float((before - exact).norm() / (after - exact).norm()))
        assert abs(slope - 5) <= 0.15, slope


@pytest.mark.parametrize("rate", [1e2, 1e6])
def test_stiff_order(rate):
    """Prothero and Robinson's equation, which costs other methods of this order theirs: at least 1.8."""
    field, y0 = ProtheroRobinsonField(rate), torch.ones(1, 1, dtype=torch.float64)
    errors = []
    for n in (20, 40):
        with torch.no_grad():
            ys = Naive()(field, make_solver("rodas5p", num_steps=n), y0, torch.tensor([0.0, 2.0]).double())
        errors.append(abs(float(ys[-1]) - math.cos(2.0)))
    assert errors[1] <= 1e-13 or math.log2(errors[0] / errors[1]) >= 1.8, errors


def _by_formula(field, tableau, grid, y):
    """Return the end of the steps by Hairer and Wanner's formula, all of it in autograd's hands."""

    def rate(t, state):
        return field(t, state[None])[0]

    g = tableau.gamma
    for step in grid:
        h, t = step.h, torch.tensor(step.t, dtype=torch.float64, requires_grad=True)
        jacobian = torch.autograd.functional.jacobian(lambda x, at=t: rate(at, x), y, create_graph=True)
        of_time = torch.autograd.functional.jacobian(lambda at, x=y: rate(at, x), t, create_graph=True)
        w, u = torch.eye(len(y), dtype=y.dtype) / (h * g) - jacobian, []
        for i, time in enumerate(tableau.times(step.t, h, step.t_next)):
            state = y + sum(x * k for x, k in zip(tableau.a[i], u, strict=True))
            right = rate(torch.tensor(time, dtype=torch.float64), state) + h * tableau.gammas[i] * of_time
            right = right + sum(x * k for x, k in zip(tableau.c[i], u, strict=True)) / h
            u.append(torch.linalg.solve(w, right))
        y = y + sum(x * k for x, k in zip(tableau.m, u, strict=True))
    return y


@pytest.mark.parametrize(
    ("make", "start", "end", "options"),
    [
        (Swinging, (1.0, 0.5), 2.0, {"rtol": 1e-4, "atol": 1e-6}),
        (lambda: VanDerPolField(100.0), (2.0, 0.0), 20.0, {"rtol": 1e-3, "atol": 1e-5}),
        (RobertsonField, (1.0, 0.0, 0.0), 40.0, {"rtol": 1e-3, "atol": 1e-7}),
    ],
)
def test_pull_back_is_backprop_through_the_formula(make, start, end, options):
    """The derivatives of the Jacobian and of f_t are part of the gradient."""
    field, y0, solver = make(), torch.tensor([start], dtype=torch.float64), make_solver("rodas5p", **options)
    with torch.no_grad():
        flat = FlatField(field, Layout.of(y0))
        grid = [step.grid_step for step in steps(flat, solver, y0.reshape(-1), [0.0, end])]
    cotangent = torch.linspace(1.0, 2.0, len(start), dtype=torch.float64)
    leaf = y0[0].clone().requires_grad_()
    state = _by_formula(field, solver.scheme.tableau, grid, leaf)
    true = torch.autograd.grad((cotangent * state).sum(), (leaf, *field.parameters()))
    leaf = y0.clone().requires_grad_()
    ys = Naive()(field, solver, leaf, torch.tensor([0.0, end], dtype=torch.float64))
    assert torch.allclose(ys[-1, 0], state, rtol=1e-11, atol=0.0)
    found = torch.autograd.grad((cotangent * ys[-1, 0]).sum(), (leaf, *field.parameters()))
    for a, b in zip(found, true, strict=True):
        assert float((a.reshape(-1) - b.reshape(-1)).abs().max() / b.abs().max()) <= 1e-11


def _measured(method, solver, field, y0, ts):
    """Return gradient, measured and predicted (f calls forward, f calls backward, products), and the works."""
    counts, log = Counts(), StepLog()
    leaf = y0.clone().requires_grad_()
    ys = method(CountedField(field, counts), solver.observed_by(log), leaf, ts)
    forward, works = (len(log.ends), log.rejections), tuple(log.works)
    cotangent = torch.linspace(0.5, 1.5, ys[1:].numel(), dtype=ys.dtype).view_as(ys[1:])
    with counts.during("backward"):
        grads = torch.autograd.grad((cotangent * ys[1:]).sum(), (leaf, *field.parameters()))
    predicted = method.predicted_calls(solver.counted(len(ts) - 1, forward, works=works))
    measured = (counts.calls["forward"], counts.calls["backward"], counts.vjps["backward"])
    later = sum(log.works[len(works) :], ImplicitWork())
    systems = (later.jacobians, later.factorisations, later.solves)
    return (
        torch.cat([g.reshape(-1) / g.abs().max() for g in grads]),
        (*measured, *systems),
        (predicted.forward, predicted.backward, predicted.vjps,
         predicted.jacobians, predicted.factorisations, predicted.solves),
    )  # fmt: skip


@pytest.mark.parametrize(("make", "adaptive"), [(RobertsonField, True), (Swinging, True), (Swinging, False)])
def test_every_exact_method_gives_naives_gradient_and_predicts_its_calls(make, adaptive):
    """On one grid to rounding; calls, products and linear systems are as predicted, with and without time."""
    field, start = make(), (1.0, 0.0, 0.0) if make is RobertsonField else (1.0, 0.5)
    y0 = torch.tensor([start, start], dtype=torch.float64) * torch.tensor([[1.0], [0.8]], dtype=torch.float64)
    ts = torch.tensor([0.0, 0.3, 4.0], dtype=torch.float64)
    control = {"rtol": 1e-3, "atol": 1e-7} if adaptive else {"num_steps": 4}
    solver = make_solver("rodas5p", **control)
    true, measured, predicted = _measured(Naive(), solver, field, y0, ts)
    assert measured == predicted
    for method in REDOING:
        found, measured, predicted = _measured(method, solver, field, y0, ts)
        assert float((found - true).norm() / true.norm()) <= 1e-12, method
        assert measured == predicted, method


def test_robertson_at_tight_tolerances_takes_fewer_calls_than_kvaerno5():
    """To t = 1e4 at 1e-6: f calls, and the state against kvaerno5 at 1e-10."""
    y0, ts = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), torch.tensor([0.0, 1e4], dtype=torch.float64)
    found = {}
    for name in ("kvaerno5", "rodas5p"):
        counts = Counts()
        with torch.no_grad():
            field = CountedField(RobertsonField(), counts)
            ys = Naive()(field, make_solver(name, rtol=1e-6, atol=1e-10), y0, ts)
        found[name] = (ys[-1, 0], counts.calls["forward"])
    true = torch.tensor([0.10730042903, 4.80016700e-7, 0.89269909095], dtype=torch.float64)
    assert found["rodas5p"][1] < 0.75 * found["kvaerno5"][1]
    assert float((found["rodas5p"][0] - true).abs().max()) <= 1e-7


def test_float32():
    """A stiff equation in single precision: within its tolerance of double precision."""
    ends = []
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad():
            ys = Naive()(
                RobertsonField().to(dtype),
                make_solver("rodas5p", rtol=1e-4, atol=1e-7),
                torch.tensor([[1.0, 0.0, 0.0]], dtype=dtype),
                torch.tensor([0.0, 40.0], dtype=dtype),
            )
        ends.append(ys[-1].double())
    assert torch.allclose(*ends, rtol=1e-4, atol=1e-7)


class _Mixing(nn.Module):
    def forward(self, t, y):
        return -(y - y.mean(0))


class _Infinite(nn.Module):
    def forward(self, t, y):
        return -y / (y - y)


START, TIMES = torch.ones(3, 2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("name", ["adjoint", "mali", "reversible_rk", "interpolation", "gauss_adjoint",
                                  "symplectic_adjoint", "forward_sensitivity"])  # fmt: skip
def test_methods_that_cannot_go_back_through_its_steps_say_so(name):
    """Each with a way out."""
    method, solver = build_gradient(name), make_solver("rodas5p")
    with pytest.raises(UnsupportedError, match=r"use|take"):
        method(Swinging(), solver, START, TIMES)
    assert method.refuses(solver) is not None


def test_bad_input():
    """One sentence each."""
    with pytest.raises(UsageError, match="no Newton iteration"):
        make_solver("rodas5p", newton=1e-3)
    with pytest.raises(UsageError, match="solved exactly"):
        make_solver("rodas5p", linear="krylov")
    with pytest.raises(UsageError, match="no inverse"):
        make_solver("rodas5p", coupling=0.9)
    with pytest.raises(UsageError, match="no dense output"):
        make_solver("rodas5p", outputs="dense")
    solver = make_solver("rodas5p")
    with pytest.raises(UnsupportedError, match="depend on each other"):
        Naive()(_Mixing(), solver, START, TIMES)
    with pytest.raises(UnsupportedError, match="factors"):
        Naive()(_Mixing(), solver, torch.ones(8, 65, dtype=torch.float64), TIMES)


def test_a_jacobian_that_is_not_finite_ends_the_solve():
    """With the time at which it is met."""
    with pytest.raises(Exception, match="not finite") as caught:
        Naive()(_Infinite(), make_solver("rodas5p"), START, TIMES)
    assert "t = 0" in str(caught.value)
