"""One test for each known fault of published codes (D1 ... D13): ours does not have it."""

import gc

import pytest
import torch
import torchdiffeq
from torch import nn

from odegrad.binding import tapped
from odegrad.checks.problems import Recorded, SmoothNet, StepLog, gradient, relative
from odegrad.contracts import Tap
from odegrad.errors import UnsupportedError, UsageError
from odegrad.measuring.counting import CountedField, Counts
from odegrad.measuring.meters import memory_meter
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.optimizers.snopt.optimizer import SNOpt
from odegrad.methods.solvers.chebyshev import ChebyshevNodes
from odegrad.methods.solvers.solver import make_solver, solver_names
from odegrad.registry import build_gradient

UNIT = torch.tensor([0.0, 1.0], dtype=torch.float64)


def _start(batch=5, d=3):
    return torch.randn(batch, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _square(ys):
    return (ys[-1] ** 2).sum()


@pytest.mark.parametrize("kind", ["first", "second"])
def test_d1_nodes_and_weights_are_a_pair(kind):
    """IRDM's code pairs extrema with the roots' weights: exp with 16 nodes is off by 1.7e-5; a pair gives rounding."""
    nodes = ChebyshevNodes(0.0, 1.0, 16, kind)
    times = torch.linspace(0.0, 1.0, 50, dtype=torch.float64)
    values = torch.from_numpy(nodes.times).exp()[:, None]
    assert float((nodes.evaluate(values, times.tolist())[:, 0] - times.exp()).abs().max()) < 1e-14
    mixed = ChebyshevNodes(0.0, 1.0, 16, "first" if kind == "second" else "second").weights
    terms = torch.from_numpy(mixed) / (times[1:-1, None] - torch.from_numpy(nodes.times))
    wrong = (terms @ values)[:, 0] / terms.sum(1)
    assert float((wrong - times[1:-1].exp()).abs().max()) > 1e-6


@pytest.mark.parametrize("ends", [(0.0, 2.0), (2.0, 0.0)])
def test_d2_interpolants_are_not_mirrored(ends):
    """At node i the interpolant is value i, for times in either direction."""
    for kind in ("first", "second"):
        nodes = ChebyshevNodes(*ends, 5, kind)
        values = torch.arange(5.0, dtype=torch.float64)[:, None]
        assert torch.equal(nodes.evaluate(values, nodes.times.tolist())[:, 0], values[:, 0])
        assert (nodes.times[-1] - nodes.times[0]) * (ends[1] - ends[0]) > 0


class _Autonomous(nn.Module):
    """Ignores the time, keeps batch statistics, and refuses input that is not finite."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(3).double(), nn.Linear(3, 3).double()

    def forward(self, t, y):
        assert bool(torch.isfinite(y).all())
        return torch.tanh(self.linear(self.norm(y)))


@pytest.mark.parametrize("name", ["interpolation", "interpolation_dense", "gauss_adjoint", "adjoint"])
def test_d3_interpolation_takes_float64_many_outputs_and_finite_states(name):
    field = _Autonomous()
    ts = torch.tensor([0.0, 0.3, 0.6, 1.0], dtype=torch.float64)
    y0 = _start().requires_grad_()
    ys = build_gradient(name)(field, make_solver("dopri5", rtol=1e-6, atol=1e-6), y0, ts)
    (ys**2).sum().backward()
    assert ys.dtype == torch.float64
    assert all(
        bool(torch.isfinite(x).all()) for x in (y0.grad, *field.buffers(), *(p.grad for p in field.parameters()))
    )


def _snopt(field):
    return SNOpt(field, [field], lambda groups: torch.optim.SGD(groups, lr=0.1), update_freq=1)


@pytest.mark.parametrize("name", ["adjoint", "interpolation", "gauss_adjoint"])
def test_d4_refresh_gradient_is_the_whole_one(name):
    """SNOpt's code cuts the gradient of a refresh to its first sample interval (norm ratio 0.0101)."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3).double()

        def forward(self, t, y):
            return torch.tanh(self.linear(y))

    field = Net()
    tap: Tap | None = _snopt(field).next_tap()
    assert tap is not None
    method, solver = build_gradient(name), make_solver("dopri5", rtol=1e-6, atol=1e-6)
    plain = gradient(method, field, solver, _start(), UNIT, _square)
    refresh = gradient(tapped(method, tap), field, solver, _start(), UNIT, _square)
    assert relative(refresh, plain) <= 1e-10


def test_d5_first_step_is_not_differentiated():
    """The gradient with the first step chosen is the one with the same first step given, to rounding."""
    field, log = SmoothNet(d=3, hidden=8), StepLog()
    solver = make_solver("dopri5", rtol=1e-3, atol=1e-3)
    Naive()(field, solver.observed_by(log), _start(), UNIT)
    given = make_solver("dopri5", rtol=1e-3, atol=1e-3, first_step=log.ends[0])
    chosen = gradient(Naive(), field, solver, _start(), UNIT, _square)
    assert relative(chosen, gradient(Naive(), field, given, _start(), UNIT, _square)) <= 1e-15


def test_d6_the_end_is_a_step_not_an_interpolation():
    """Landing on T is more accurate than torchdiffeq's dense output beyond it, in no more calls."""

    class Growth(nn.Module):
        def forward(self, t, y):
            return y

    ours, theirs, one = Recorded(Growth()), Recorded(Growth()), torch.ones(1, dtype=torch.float64)
    mine = Naive()(ours, make_solver("dopri5", rtol=1e-6, atol=1e-6), one, UNIT)[-1]
    other = torchdiffeq.odeint(theirs, one, UNIT, rtol=1e-6, atol=1e-6)[-1]
    assert abs(float(mine) - torch.e) < abs(float(other) - torch.e)
    assert len(ours.times) <= len(theirs.times)


@pytest.mark.parametrize("name", ["naive", "adjoint", "interpolation", "mali", "reversible_rk"])
def test_d7_no_call_outside_the_interval(name):
    recorded = Recorded(SmoothNet(d=3, hidden=8))
    solver = make_solver("alf" if name == "mali" else "dopri5", rtol=1e-3, atol=1e-3)
    (build_gradient(name)(recorded, solver, _start(), UNIT) ** 2).sum().backward()
    assert 0.0 <= min(recorded.times) <= max(recorded.times) <= 1.0


@pytest.mark.parametrize("name", [n for n in solver_names() if n != "alf" and not make_solver(n).implicit])
def test_d8_a_step_is_a_map_on_the_state(name):
    """Two steps in one solve are two solves of one step, bit for bit: nothing is carried over that is not f(t, y)."""
    field, solver = SmoothNet(d=3, hidden=8), make_solver(name, num_steps=1)
    half, one = torch.tensor([0.0, 0.5], dtype=torch.float64), torch.tensor([0.5, 1.0], dtype=torch.float64)
    both = Naive()(field, make_solver(name, num_steps=2), _start(), UNIT)[-1]
    middle = Naive()(field, solver, _start(), half)[-1]
    assert torch.equal(both, Naive()(field, solver, middle, one)[-1])


def test_d9_state_is_reset_between_outputs_and_unused_parameters_get_zeros():
    """On contracting dynamics many outputs keep the adjoint accurate: each interval starts at the stored y."""

    class Contracting(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor([1.0, 22.0], dtype=torch.float64))
            self.unused = nn.Parameter(torch.ones(2, 5, dtype=torch.float64))

        def forward(self, t, y):
            return -self.rate * y

    solver, method = make_solver("dopri5", rtol=1e-8, atol=1e-14), build_gradient("adjoint")
    y0 = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    errors = {}
    for outputs in (2, 21):
        field, ts = Contracting(), torch.linspace(0.0, 1.0, outputs, dtype=torch.float64)
        method(field, solver, y0, ts)[-1].sum().backward()
        true = -(y0[0] * torch.exp(-field.rate.detach()))
        errors[outputs] = abs(float(field.rate.grad[1] / true[1]) - 1.0)
        assert torch.equal(field.unused.grad, torch.zeros(2, 5, dtype=torch.float64))
    assert errors[21] < 1e-5
    assert errors[2] > 5 * errors[21]


def test_d10_adjoint_memory_does_not_grow_with_batch_times_parameters():
    """Four times the batch adds states and one call's graph, far from a copy of the parameters for each sample."""
    peaks = {}
    for batch in (8, 32):
        field, y0 = SmoothNet(d=3, hidden=64), _start(batch)
        gc.collect()
        with memory_meter(torch.device("cpu")) as meter:
            _square(build_gradient("adjoint")(field, make_solver("rk4", num_steps=4), y0, UNIT)).backward()
            peaks[batch] = meter.peak_bytes()
    parameters = sum(p.numel() * 8 for p in field.parameters())
    assert peaks[32] - peaks[8] < 0.2 * (32 - 8) * parameters


def test_d11_function_calls_are_counted_not_steps():
    recorded, counts = Recorded(SmoothNet(d=3, hidden=8)), Counts()
    solver = make_solver("dopri5", rtol=1e-6, atol=1e-6, first_step=0.9).observed_by(counts)
    Naive()(CountedField(recorded, counts), solver, _start(), UNIT)
    assert counts.rejected_steps["forward"] > 0
    assert counts.calls["forward"] == len(recorded.times)
    assert counts.calls["forward"] == 1 + 6 * (counts.accepted_steps["forward"] + counts.rejected_steps["forward"])


@pytest.mark.parametrize("name", ["adjoint", "aca", "interpolation", "mali", "forward_sensitivity"])
def test_d12_hidden_parameters_and_second_derivatives_raise(name):
    hidden = torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True)

    class Closure(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = SmoothNet(d=3, hidden=8)

        def forward(self, t, y):
            return self.inner(t, y) + hidden

    method = build_gradient(name)
    solver = make_solver("alf" if name == "mali" else "dopri5", rtol=1e-3, atol=1e-3)
    with pytest.raises(UsageError, match="reached through a closure"):
        method(Closure(), solver, _start(), UNIT)
    field, y0 = SmoothNet(d=3, hidden=8), _start().requires_grad_()
    (g,) = torch.autograd.grad(_square(method(field, solver, y0, UNIT)), y0, create_graph=True)
    with pytest.raises(UnsupportedError, match="no second derivative"):
        g.sum().backward()


@pytest.mark.parametrize("name", ["anode", "aca", "revolve", "symplectic_adjoint"])
def test_d13_one_vector_jacobian_product_for_each_call(name):
    """ANODE's code calls autograd twice a block; here s N calls are pulled back once each."""
    counts = Counts()
    method, solver = build_gradient(name), make_solver("rk4", num_steps=6).observed_by(counts)
    loss = _square(method(CountedField(SmoothNet(d=3, hidden=8), counts), solver, _start(), UNIT))
    with counts.during("recompute"):
        loss.backward()
    assert counts.vjps["recompute"] == 4 * 6
