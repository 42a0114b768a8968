"""On a CUDA device every method gives the CPU's gradient."""

import pytest
import torch

from odegrad.checks.problems import SmoothNet, gradient, relative, smooth_net_start
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", gradients.names())
@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_gradient_equals_the_cpus(name, solver):
    """Float64, two outputs: the same to rounding (the step choice may differ in its last bits)."""
    (y0, target), ts = smooth_net_start(), torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    built = make_solver(solver, num_steps=10) if solver == "rk4" else make_solver(solver, rtol=1e-8, atol=1e-8)
    found = {}
    for device in ("cpu", "cuda"):
        aim = target.to(device)
        loss = lambda ys, aim=aim: ((ys[1:] - aim) ** 2).mean()  # noqa: E731
        field = SmoothNet().to(device)
        found[device] = gradient(build_gradient(name), field, built, y0.to(device), ts.to(device), loss).cpu()
    assert relative(found["cuda"], found["cpu"]) <= 1e-9
