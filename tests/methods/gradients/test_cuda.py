"""On a CUDA device every method gives the CPU's gradient and rarely waits for the device.

Where there is none, ``tests/card`` runs this file on a simulated one.
"""

import pytest
import torch

from odegrad.checks.problems import SmoothNet, StepLog, gradient, relative
from odegrad.measuring.meters import HostWaits
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, default_gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

FIXED = {"dopri5": {"num_steps": 2}, "rk4": {"num_steps": 2}, "alf": {"num_steps": 2}}
ADAPTIVE = {"dopri5": {"rtol": 1e-3, "atol": 1e-3}, "alf": {"rtol": 1e-2, "atol": 1e-2}}
NAMES = [*default_gradients(), "forward_sensitivity"]
OURS = [name for name in NAMES if build_gradient(name).traits.shared_loop]


def _pairs(names, solvers):
    made = {solver: make_solver(solver, **options) for solver, options in solvers.items()}
    return [(n, s) for n in names for s in solvers if build_gradient(n).refuses(made[s]) is None]


def _field():
    return SmoothNet(d=3, hidden=6, seed=4, scale=0.8)


def _start():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, generator=generator, dtype=torch.float64), torch.tensor([0.0, 0.4, 1.0]).double()


def _gradient_on(device, name, solver):
    y0, ts = _start()
    return gradient(
        build_gradient(name), _field().to(device), solver, y0.to(device), ts.to(device), lambda ys: (ys[1:] ** 2).mean()
    ).cpu()


@pytest.mark.parametrize(("name", "solver"), _pairs(NAMES, {**ADAPTIVE, "rk4": FIXED["rk4"]}))
def test_gradient_equals_the_cpus(name, solver):
    """Float64, three outputs: the same to rounding (the step choice may differ in its last bits)."""
    built = make_solver(solver, **{**ADAPTIVE, "rk4": FIXED["rk4"]}[solver])
    assert relative(_gradient_on("cuda", name, built), _gradient_on("cpu", name, built)) <= 1e-9


def _waits(name, solver):
    """Return the host's waits for the device in one forward and one backward pass, and the attempted steps."""
    (y0, ts), field, log = _start(), _field().cuda(), StepLog()
    y0, method = y0.cuda(), build_gradient(name)
    method(field, solver, y0, ts)[-1].sum().backward()
    with HostWaits(torch.device("cuda")) as waits:
        (method(field, solver.observed_by(log), y0, ts)[1:] ** 2).mean().backward()
    return waits.count, len(log.ends) + log.rejections


def _reads(name):
    """Return the reads of one number that says how far the state of a backward pass was off."""
    return int(build_gradient(name).traits.state_from in ("solve", "inverse", "interpolant"))


@pytest.mark.parametrize(("name", "solver"), _pairs(OURS, FIXED))
def test_fixed_steps_never_wait_for_the_device(name, solver):
    """The host runs ahead: no read inside of a solve on a fixed grid; one per backward pass that tells what it lost."""
    assert _waits(name, make_solver(solver, **FIXED[solver]))[0] <= _reads(name)


@pytest.mark.parametrize(("name", "solver"), _pairs(OURS, ADAPTIVE))
def test_adaptive_steps_wait_once_an_attempt(name, solver):
    """One read an attempted step, and two that choose the first one, each way."""
    waits, attempts = _waits(name, make_solver(solver, **ADAPTIVE[solver]))
    assert waits <= attempts + 4 + _reads(name)
