"""Where each gradient method takes curvature samples: they change nothing, and converge to one integral."""

import os
import shutil

import pytest
import torch
from torch import nn

from odegrad.checks.conformance import shared_loop_methods, suitable_solver
from odegrad.contracts import Tappable
from odegrad.measuring.meters import memory_meter
from odegrad.methods.optimizers.snopt.optimizer import SNOpt
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

F64 = torch.float64
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None and shutil.which("g++") is None, reason="needs a C++ compiler"
)
STEP_ENDS = ["naive", "anode", "aca", "revolve", "symplectic_adjoint", "mali", "reversible_rk"]
ANY_TIME = ["adjoint", "adjoint_seminorm", "interpolation", "interpolation_dense", "gauss_adjoint"]
TS = torch.tensor([0.0, 0.4, 1.0], dtype=F64)


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class _Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, width)).double()
        for i, p in enumerate(self.net.parameters()):
            p.data = 0.5 * _randn(*p.shape, seed=i)

    def forward(self, t, y):
        return self.net(y)


class _Log:
    """Notes its samples."""

    def __init__(self, spacing=0.1):
        self.samples = []
        self.spacing = spacing

    def sample_times(self, t0, t1):
        n = round((t1 - t0) / self.spacing)
        return [t0 + i * (t1 - t0) / n for i in range(n)] + [t1]

    def observe(self, field, t, y, a, weight):
        self.samples.append((t, y, a, weight))


def _gradient(method, field, solver, y0, ts=TS, tap=None):
    field.zero_grad()
    method = method if tap is None else method.with_tap(tap)
    ys = method(field, solver, y0, ts)
    (ys[1:] - 0.3).square().sum().backward()
    return torch.cat([p.grad.reshape(-1) for p in field.parameters()])


@pytest.mark.parametrize("name", [*STEP_ENDS, *ANY_TIME])
@pytest.mark.parametrize("of_start", [True, False], ids=["start trained", "start fixed"])
def test_refresh_changes_no_gradient(name, of_start):
    """S1: with SNOpt's tap watching, the gradient is the plain one, bit for bit, for every method with taps."""
    field, y0 = _Net(), _randn(5, 4).requires_grad_(of_start)
    method = build_gradient(name)
    solver = suitable_solver(method).with_tolerances(1e-5, 1e-5)
    plain = [_gradient(method, field, solver, y0), None if y0.grad is None else y0.grad.clone()]
    y0.grad = None
    tap = SNOpt(field, [field], lambda p: torch.optim.SGD(p, lr=0.1)).next_tap()
    assert torch.equal(_gradient(method, field, solver, y0, tap=tap), plain[0])
    assert y0.grad is None if plain[1] is None else torch.equal(y0.grad, plain[1])
    assert all(total.input_factor is not None for total in tap.sums.values())


def test_every_method_with_taps_is_in_the_lists_above():
    """What the traits say is where the samples are taken."""
    methods = {name: build_gradient(name) for name in shared_loop_methods()}
    offered = {where: [n for n, m in methods.items() if m.traits.taps == where] for where in ("step ends", "any time")}
    assert sorted(offered["step ends"]) == sorted(STEP_ENDS)
    assert sorted(offered["any time"]) == sorted(ANY_TIME)
    assert {n for n, m in methods.items() if isinstance(m, Tappable)} == {*STEP_ENDS, *ANY_TIME}


@pytest.mark.parametrize(
    ("name", "options", "solver"),
    [
        ("anode", {"steps_per_block": 2}, make_solver("dopri5", rtol=1e-6, atol=1e-6)),
        ("revolve", {"checkpoints": 1}, make_solver("dopri5", rtol=1e-6, atol=1e-6)),
        ("symplectic_adjoint", {}, make_solver("dopri5", rtol=1e-6, atol=1e-6, outputs="dense")),
        ("naive", {}, make_solver("dopri5", rtol=1e-6, atol=1e-6, outputs="dense")),
        ("naive", {}, make_solver("bosh3", rtol=1e-6, atol=1e-6, coupling=0.9)),
        ("anode", {}, make_solver("alf", rtol=1e-3, atol=1e-3)),
        ("aca", {}, make_solver("alf", rtol=1e-3, atol=1e-3)),
    ],
    ids=lambda v: v if isinstance(v, str) else getattr(v, "name", ""),
)
def test_samples_of_variants(name, options, solver):
    """Blocks, dense outputs, carried partners: the gradient as it was; weights sum to the interval; samples go back."""
    method, field, y0, log = build_gradient(name, options), _Net(), _randn(5, 4), _Log()
    plain = _gradient(method, field, solver, y0)
    assert torch.equal(_gradient(method, field, solver, y0, tap=log), plain)
    times = [t for t, *_ in log.samples]
    assert times == sorted(times, reverse=True)
    assert (times[0], times[-1]) == (1.0, 0.0)
    assert sum(w for *_, w in log.samples) == pytest.approx(1.0, abs=1e-12)


@needs_compiler
@pytest.mark.parametrize("name", ["aca", "anode"])
def test_samples_of_compiled_steps(name):
    """With compiled steps the samples are the eager ones, to rounding."""
    field, y0, seen = _Net(), _randn(5, 4), []
    for compiled in (False, True):
        log = _Log()
        solver = make_solver("rk4", num_steps=3, compile=compiled)
        seen.append((_gradient(build_gradient(name), field, solver, y0, tap=log), log.samples))
    (eager, samples), (compiled, others) = seen
    assert torch.allclose(compiled, eager, rtol=1e-10, atol=1e-12)
    for (t, y, a, weight), (s, z, b, other) in zip(samples, others, strict=True):
        assert (s, other) == pytest.approx((t, weight))
        assert torch.allclose(y, z, rtol=1e-10, atol=1e-12)
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


class _Linear(nn.Module):
    """F = W z."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False).double()
        self.layer.weight.data = 0.25 * _randn(3, 3, seed=2)

    def forward(self, t, y):
        return self.layer(y)


@pytest.mark.parametrize("name", STEP_ENDS)
def test_states_and_costates_are_those_of_the_closed_form(name):
    """Of F = W z: y = exp(W t) z0, a = exp(W^T (T - t)) phi and a jump at an output between; on both sides of it."""
    field, z0, phi = _Linear(), _randn(3, seed=3), _randn(2, 3, seed=4)
    method, w, log = build_gradient(name), field.layer.weight.detach(), _Log()
    steps = 400 if name == "mali" else 25
    solver = make_solver("alf" if name == "mali" else "rk4", num_steps=steps)
    ys = method.with_tap(log)(field, solver, z0[None], TS)
    (ys[1:, 0] * phi).sum().backward()
    assert len(log.samples) == 2 * steps + 2
    for i, (t, y, a, _) in enumerate(log.samples):
        of_first = torch.linalg.matrix_exp(w.T * (0.4 - t)) @ phi[0] if i > steps else torch.zeros(3, dtype=F64)
        of_last = torch.linalg.matrix_exp(w.T * (1.0 - t)) @ phi[1]
        assert torch.allclose(y[0], torch.linalg.matrix_exp(w * t) @ z0, rtol=1e-5, atol=1e-6)
        assert torch.allclose(a[0], of_first + of_last, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", STEP_ENDS)
def test_factors_converge_to_the_adjoints_at_second_order(name):
    """S3, S7: A and B approach the fine adjoint's as the square of the step; symmetric, positive semi-definite."""
    field, y0, ts = _Net(), _randn(5, 4), torch.tensor([0.0, 1.0], dtype=F64)

    def factors(method, solver, spacing=1.0):
        tap = SNOpt(field, [field], lambda p: torch.optim.SGD(p, lr=0.1), step_size=spacing).next_tap()
        _gradient(build_gradient(method), field, solver, y0, ts, tap)
        for total in tap.sums.values():
            for f in (total.input_factor, total.output_factor):
                assert torch.allclose(f, f.T, rtol=0, atol=1e-13 * float(f.norm()))
                assert torch.linalg.eigvalsh(f)[0] >= -1e-12 * f.norm()
        return torch.cat([f.reshape(-1) for s in tap.sums.values() for f in (s.input_factor, s.output_factor)])

    true = factors("adjoint", make_solver("dopri5", rtol=1e-10, atol=1e-10), 1 / 800)
    scheme = "alf" if name == "mali" else "rk4"
    errors = [(factors(name, make_solver(scheme, num_steps=n)) - true).norm() / true.norm() for n in (20, 40)]
    assert errors[1] <= 2e-3
    assert errors[0] / errors[1] == pytest.approx(4.0, abs=0.4)


@pytest.mark.parametrize("name", ["adjoint", "interpolation"])
def test_memory_of_a_refresh_is_flat_in_the_steps(name):
    """S9: four times the steps move the peak of a sampled backward pass by no state's size."""
    field, y0, ts, peaks = _Net(), _randn(64, 4), torch.tensor([0.0, 1.0], dtype=F64), []
    for steps in (25, 100):
        optimizer = SNOpt(field, [field], lambda p: torch.optim.SGD(p, lr=0.1))
        _gradient(build_gradient(name), field, make_solver("rk4", num_steps=2), y0, ts, optimizer.next_tap())
        tap = optimizer.next_tap()
        with memory_meter(torch.device("cpu")) as meter:
            _gradient(build_gradient(name), field, make_solver("rk4", num_steps=steps), y0, ts, tap)
            peaks.append(meter.peak_bytes())
    assert abs(peaks[1] - peaks[0]) < y0.numel() * y0.element_size()


def test_bytes_that_a_refresh_adds():
    """S9: while samples are taken, (n_in + 1)^2 + n_out^2 numbers a layer stay; the rest of a sample is let go."""
    field, y0, ts = _Net(), _randn(64, 4), torch.tensor([0.0, 1.0], dtype=F64)
    optimizer = SNOpt(field, [field], lambda p: torch.optim.SGD(p, lr=0.1))
    solver, kept = make_solver("rk4", num_steps=4), []
    _gradient(build_gradient("adjoint"), field, solver, y0, ts)
    for tap in (None, optimizer.next_tap()):
        with memory_meter(torch.device("cpu")) as meter:
            _gradient(build_gradient("adjoint"), field, solver, y0, ts, tap)
            kept.append(meter.current_bytes())
    assert kept[1] - kept[0] == 8 * ((5**2 + 8**2) + (9**2 + 4**2))
