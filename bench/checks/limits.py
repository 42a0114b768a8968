"""Checks where methods reach their limits: inverted steps (G5), contracting dynamics (G6), single precision (G15)."""

import copy
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from odegrad.checks.choice import at_tolerance, fixed_solver, naive_gradient
from odegrad.checks.problems import SmoothNet, gradient, relative, smooth_net_for, smooth_net_start
from odegrad.checks.result import CheckResult, at_most
from odegrad.contracts import GradientMethod
from odegrad.errors import InaccurateGradientWarning
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import OneStepSolver, make_solver
from odegrad.user.models import Loss

CONTRACTIONS = (2, 5, 10, 20, 30, 40)
"""``lam`` of the contracting problem."""


def reverse_accuracy(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G5: a method that inverts its steps gives the gradient of naive backprop through them; damping is refused."""
    if method.traits.state_from != "inverse":
        return
    ts = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    for dtype, threshold, tolerance in ((torch.float64, 1e-12, 1e-5), (torch.float32, 1e-3, 1e-4)):
        field, (y0, _) = SmoothNet().to(dtype), smooth_net_start()

        def loss(ys: Tensor) -> Tensor:
            return 0.5 * (ys[1:] ** 2).sum(-1).mean()

        for each in (at_tolerance(solver, tolerance), fixed_solver(method, solver, 32)):
            found = gradient(method, field, each, y0.to(dtype), ts.to(dtype), loss)
            true = naive_gradient(method, field, each, y0.to(dtype), ts.to(dtype), loss)
            yield at_most("G5 reverse accuracy", relative(found, true), threshold, f"smooth net, {each.name}, {dtype}")
    damped = make_solver("alf", num_steps=8, eta=0.9)
    refused = method.refuses(damped) is not None
    yield CheckResult("G5 reverse accuracy", refused, None, None, "the damped leapfrog (eta = 0.9) is refused")


class _Contracting(nn.Module):
    """``y' = A y``, A symmetric with eigenvalues -1 and -lam in turned axes: mu_2(-A) = lam."""

    def __init__(self, lam: float) -> None:
        super().__init__()
        turn = torch.tensor([[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]], dtype=torch.float64)
        self.matrix = nn.Parameter(turn @ torch.diag(torch.tensor([-1.0, -lam], dtype=torch.float64)) @ turn.T)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return y @ self.matrix.T


def contraction_error(method: GradientMethod, solver: OneStepSolver, lam: float) -> float:
    """Return the relative error of dL/dA on the contracting problem against the matrix exponential's derivative."""
    field = _Contracting(lam)
    y0 = torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=torch.float64)
    ts, weights = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)

    def loss(ys: Tensor) -> Tensor:
        return (ys[-1] * weights).sum()

    (true,) = torch.autograd.grad(loss((y0 @ torch.linalg.matrix_exp(field.matrix).T)[None]), field.matrix)
    with warnings.catch_warnings(action="ignore", category=InaccurateGradientWarning):
        found = gradient(method, field, solver.with_tolerances(1e-6, 1e-9), y0, ts, loss)[y0.numel() :]
    return relative(found, true.reshape(-1))


def logarithmic_norm_law(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G6: on contracting dynamics a state that is solved back loses exp(int mu_2(-J)), one that is kept nothing.

    For methods that invert their steps the law says nothing.
    """
    source = method.traits.state_from
    if source == "inverse" or not method.traits.shared_loop:
        return
    errors = {lam: contraction_error(method, solver, lam) for lam in CONTRACTIONS}
    told = ", ".join(f"{error:.1e}" for error in errors.values())
    if source == "solve":
        slope = math.log(errors[40] / errors[20]) / 20
        detail = f"error at lam = {CONTRACTIONS}: {told}; slope {slope:.3f}, 0.8 to 1.3 expected"
        yield CheckResult("G6 log-norm law", 0.8 <= slope <= 1.3, slope, None, detail)
        return
    threshold = 1e-5 if source == "interpolant" else 1e-6
    yield at_most("G6 log-norm law", max(errors.values()), threshold, f"error at lam = {CONTRACTIONS}: {told}")


def single_precision(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G15: float32 is within 50 eps x condition of float64; a tolerance below what float32 holds is warned of."""
    fixed = fixed_solver(method, solver, 16)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    y0, target = smooth_net_start()

    def loss(ys: Tensor) -> Tensor:
        return 0.5 * ((ys[-1] - target.to(ys.dtype)) ** 2).sum(-1).mean()

    if method.refuses(fixed) is None:
        double = gradient(method, smooth_net_for(method), fixed, y0, ts, loss)
        single = gradient(method, smooth_net_for(method).float(), fixed, y0.float(), ts.float(), loss)
        condition = _condition(smooth_net_for(method), y0, ts, loss)
        bound = 50 * torch.finfo(torch.float32).eps * condition
        detail = f"{fixed.name}, condition {condition:.2g}"
        yield at_most("G15 single precision", relative(single.double(), double), bound, detail)
    if method.traits.shared_loop:
        hopeless = replace(solver.with_tolerances(1e-9, 1e-9), max_steps=200)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                method(smooth_net_for(method).float(), hopeless, y0.float(), ts.float())
                ended = "solved"
            except RuntimeError as error:
                ended = type(error).__name__
        warned = any("below what" in str(w.message) for w in heard)
        yield CheckResult("G15 single precision", warned, None, None, f"rtol 1e-9 in float32 is warned of; it {ended}")


def _condition(net: SmoothNet, y0: Tensor, ts: Tensor, loss: Loss) -> float:
    """Return by how much naive's gradient amplifies a relative change of y0 and the parameters, at least 1."""
    solver, size = make_solver("rk4", num_steps=16), 1e-6
    base = gradient(Naive(), net, solver, y0, ts, loss)
    worst = 1.0
    for seed in range(4):
        generator, field = torch.Generator().manual_seed(seed), copy.deepcopy(net)

        def shaken(x: Tensor, generator: torch.Generator = generator) -> Tensor:
            return x * (1 + size * torch.randn(x.shape, generator=generator, dtype=x.dtype))

        for p in field.parameters():
            p.data = shaken(p.data)
        moved = gradient(Naive(), field, solver, shaken(y0), ts, loss)
        worst = max(worst, relative(moved, base) / size)
    return worst


LIMIT_CHECKS = (reverse_accuracy, logarithmic_norm_law, single_precision)
"""Every check of this page; each takes a method and an adaptive solver."""
