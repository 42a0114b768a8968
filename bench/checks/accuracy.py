"""Checks of the gradient's value: closed forms (G1), finite differences (G2), naive's (G3), convergence (G4)."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from odegrad.checks.choice import LOW_ORDER, at_tolerance, fixed_solver, naive_gradient, within_reach
from odegrad.checks.problems import (
    CLOSED_FORMS,
    SmoothNet,
    SolvedEquation,
    gradient,
    relative,
    smooth_net_for,
    smooth_net_start,
)
from odegrad.checks.result import CheckResult, at_least, at_most, log_slope
from odegrad.contracts import GradientMethod
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import OneStepSolver, make_solver

CLOSED_FORM_TOLERANCE = 1e-8
"""Tolerance of the adaptive closed-form checks; the gradient may be off by 100 of it."""


def weighted_end(ys: Tensor) -> Tensor:
    """Return a loss that weighs every entry of the last state differently."""
    end = ys[-1]
    weights = torch.arange(1, end.numel() + 1, dtype=end.dtype, device=end.device).view_as(end)
    return (weights * end).sum() / end.numel() + 0.5 * (end**2).sum()


def closed_form_gradient(problem: SolvedEquation, field: torch.nn.Module, ts: Tensor) -> Tensor:
    """Return the true gradient of ``weighted_end`` with respect to (y0, theta, ts)."""
    y0 = problem.start().requires_grad_()
    theta = next(field.parameters())
    times = ts.clone().requires_grad_()
    end = problem.solution(theta, y0, times[0], times[-1])
    grads = torch.autograd.grad(weighted_end(end[None]), (y0, theta, times))
    return torch.cat([g.reshape(-1) for g in grads])


def closed_forms(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G1: dL/dy0, dL/dtheta, dL/dT and dL/dt0 against closed forms, in both directions of time."""
    tolerance = within_reach(solver, CLOSED_FORM_TOLERANCE)
    tight = at_tolerance(solver, CLOSED_FORM_TOLERANCE)
    for problem in CLOSED_FORMS:
        worst = 0.0
        for interval in ((0.3, 1.5), (1.5, 0.3)):
            field, ts = problem.field(), torch.tensor(interval, dtype=torch.float64)
            found = gradient(method, field, tight, problem.start(), ts, weighted_end, of_times=True)
            worst = max(worst, relative(found, closed_form_gradient(problem, field, ts)))
        yield at_most("G1 closed form", worst, 100 * tolerance, f"{problem.name}, {solver.name} at {tolerance:g}")


def order_on_fixed_grids(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G1: on fixed grids the gradient's error falls with the solver's order."""
    fixed = fixed_solver(method, solver, 1)
    if method.refuses(fixed) is not None:
        return
    steps = [16, 32, 64]
    for problem in (CLOSED_FORMS[1], CLOSED_FORMS[2], CLOSED_FORMS[4]):
        field, ts = problem.field(), torch.tensor((0.0, 1.5), dtype=torch.float64)
        true = closed_form_gradient(problem, field, ts)[:-2]
        errors = [
            relative(gradient(method, field, replace(fixed, num_steps=n), problem.start(), ts, weighted_end), true)
            for n in steps
        ]
        slope = -log_slope([float(n) for n in steps], errors)
        yield at_most(
            "G1 order",
            abs(slope - fixed.order),
            0.15,
            f"{problem.name}, {fixed.name} with {steps} steps: order {slope:.3f}",
        )


def finite_differences(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G2: ``torch.autograd.gradcheck`` for y0, every parameter and ts, on a tanh net of two hidden layers."""
    fixed = fixed_solver(method, solver, 16 if solver.order > LOW_ORDER else 100)
    if method.refuses(fixed) is not None:
        return
    field = SmoothNet(d=2, hidden=3, seed=2, scale=1.0)
    generator = torch.Generator().manual_seed(3)
    y0 = torch.randn(2, 2, generator=generator, dtype=torch.float64).requires_grad_()
    ts = torch.tensor([0.2, 0.7, 1.1], dtype=torch.float64, requires_grad=True)

    inputs = (y0, ts, *field.parameters())
    point = [x.detach().clone() for x in inputs]

    def solve(*at: Tensor) -> Tensor:
        pulled_back = all(torch.equal(x, base) for x, base in zip(at, point, strict=True))
        with torch.set_grad_enabled(pulled_back):  # gradcheck pulls back at the point itself, not at those beside it
            out: Tensor = method(field, fixed, at[0], at[1])[1:]
        return out

    try:
        passed = torch.autograd.gradcheck(solve, inputs, eps=1e-6, atol=2e-6, rtol=1e-4, check_batched_grad=False)
        detail = f"{fixed.name} with {fixed.num_steps} steps"
    except GradcheckError as error:
        passed, detail = False, str(error).strip().splitlines()[0]
    yield CheckResult(
        "G2 gradcheck", passed, None, None, f"y0, {len(list(field.parameters()))} parameters, ts; {detail}"
    )


def taylor_remainder(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G2: ``L(theta + eps v) - L(theta) - eps g . v`` falls as eps squared (solves at 1e-10)."""
    tight = at_tolerance(solver, 1e-10) if solver.order > LOW_ORDER else replace(solver, num_steps=64)
    field = SmoothNet(d=3, hidden=16, seed=4, scale=1.0)
    generator = torch.Generator().manual_seed(5)
    y0 = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    g = gradient(method, field, tight, y0, ts, weighted_end)[y0.numel() :]
    v = torch.randn(g.shape, generator=generator, dtype=torch.float64)
    theta = torch.nn.utils.parameters_to_vector(field.parameters()).detach().clone()

    def loss_at(point: Tensor) -> float:
        torch.nn.utils.vector_to_parameters(point, field.parameters())
        with torch.no_grad():
            return weighted_end(method(field, tight, y0, ts)).item()

    base, sizes = loss_at(theta), [1e-2, 3e-3, 1e-3]
    remainders = [abs(loss_at(theta + eps * v) - base - eps * float(g @ v)) for eps in sizes]
    torch.nn.utils.vector_to_parameters(theta, field.parameters())
    slope = log_slope(sizes, remainders)
    yield at_most("G2 Taylor", abs(slope - 2), 0.1, f"remainder over eps = {sizes}: slope {slope:.3f}")


def equals_naive(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G3: a method that is exact gives naive's gradient on the same grid."""
    if not (method.traits.exact and method.traits.shared_loop) or method.traits.state_from == "inverse":
        return
    ts = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    for dtype, threshold, tolerance in ((torch.float64, 1e-13, 1e-6), (torch.float32, 1e-5, 1e-4)):
        field = smooth_net_for(method).to(dtype)
        y0, target = (x.to(dtype) for x in smooth_net_start())

        def loss(ys: Tensor, target: Tensor = target) -> Tensor:
            return 0.5 * ((ys[1:] - target) ** 2).sum(-1).mean()

        for each in (solver.with_tolerances(tolerance, tolerance), make_solver("rk4", num_steps=12)):
            if method.refuses(each) is None:
                found = gradient(method, field, each, y0, ts.to(dtype), loss)
                error = relative(found, naive_gradient(method, field, each, y0, ts.to(dtype), loss))
                yield at_most("G3 equals naive", error, threshold, f"smooth net, {each.name}, {dtype}")


def converges(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G4: the gradient converges to the float64 reference as the tolerance falls."""
    if not solver.adaptive:
        return
    field, (y0, target) = smooth_net_for(method, scale=1.0), smooth_net_start()
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def loss(ys: Tensor) -> Tensor:
        return 0.5 * ((ys[-1] - target) ** 2).sum(-1).mean()

    reference = gradient(Naive(), field, make_solver("dopri8", rtol=1e-13, atol=1e-13), y0, ts, loss)
    tolerances = [t for t in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9) if t == within_reach(solver, t)]
    errors = [
        relative(gradient(method, field, solver.with_tolerances(tol, tol), y0, ts, loss), reference)
        for tol in tolerances
    ]
    slope = log_slope(tolerances, errors)
    detail = f"errors {errors[0]:.1e} at 1e-3 to {errors[-1]:.1e} at {tolerances[-1]:g}, {solver.name}"
    yield at_least("G4 convergence", slope, 0.8, detail)


ACCURACY_CHECKS = (closed_forms, order_on_fixed_grids, finite_differences, taylor_remainder, equals_naive, converges)
"""Every check of this page; each takes a method and an adaptive solver."""
