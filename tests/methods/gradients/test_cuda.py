"""On a CUDA device every method gives the CPU's gradient and rarely waits for the device."""

import pytest
import torch

from odegrad.checks.problems import SmoothNet, StepLog, gradient, relative, smooth_net_start
from odegrad.measuring.meters import HostWaits
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


def _waits(name, solver):
    """Return the host's waits for the device in one forward and one backward pass, and the attempted steps."""
    (y0, target), ts = smooth_net_start(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    field, y0, aim, log = SmoothNet().cuda(), y0.cuda(), target.cuda(), StepLog()
    method = build_gradient(name)
    method(field, solver, y0, ts)[-1].sum().backward()
    with HostWaits(torch.device("cuda")) as waits:
        ((method(field, solver.observed_by(log), y0, ts)[1:] - aim) ** 2).mean().backward()
    return waits.count, len(log.ends) + log.rejections


@pytest.mark.parametrize("name", [n for n in gradients.names() if n not in ("mali", "forward_sensitivity")])
def test_fixed_steps_never_wait_for_the_device(name):
    """The host runs ahead: no read inside of a solve on a fixed grid, forward or backward."""
    if name.startswith("torchdiffeq"):
        pytest.skip("torchdiffeq's own")
    assert _waits(name, make_solver("rk4", num_steps=20))[0] == 0


@pytest.mark.parametrize("name", ["naive", "aca", "anode", "adjoint", "interpolation", "symplectic_adjoint"])
def test_adaptive_steps_wait_once_an_attempt(name):
    """One read per attempted step, and the few that choose the first one, each way."""
    waits, attempts = _waits(name, make_solver("dopri5", rtol=1e-6, atol=1e-6))
    assert waits <= attempts + 10
