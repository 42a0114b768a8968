"""What all methods share at their edges: parameters, closures, unused and frozen ones, peers, options."""

import pytest
import torch
from torch import nn

from odegrad.checks.problems import SmoothNet, gradient, relative
from odegrad.errors import UnknownNameError, UnsupportedError, UsageError
from odegrad.methods.gradients.adjoint import Adjoint
from odegrad.methods.gradients.anode import Anode
from odegrad.methods.gradients.interpolation import Interpolation
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, build_solver, check_supported, gradients, resolve_method

ROUTED = [Adjoint(), Anode(), Interpolation()]
TS = torch.tensor([0.0, 1.0], dtype=torch.float64)
SOLVER = make_solver("dopri5", rtol=1e-9, atol=1e-9)


def _y0(batch=3, d=4):
    return torch.randn(batch, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("method", ROUTED, ids=lambda m: m.traits.name)
def test_parameter_reached_through_a_closure_is_refused(method):
    """A tensor that f uses but does not own would silently get no gradient; naive gives it one."""
    hidden = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    class Closure(nn.Module):
        def forward(self, t, y):
            return hidden * y

    with pytest.raises(UsageError, match="reached through a closure"):
        method(Closure(), SOLVER, _y0(), TS)
    (g,) = torch.autograd.grad(Naive()(Closure(), SOLVER, _y0(), TS)[-1].sum(), hidden)
    assert g.item() == pytest.approx(torch.exp(hidden).item() * _y0().sum().item(), rel=1e-7)


@pytest.mark.parametrize("method", ROUTED, ids=lambda m: m.traits.name)
def test_field_that_differentiates_its_own_input_is_no_closure(method):
    """A flow's field makes its input a leaf to take a divergence: no closure, and the gradient is naive's."""

    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = SmoothNet(d=4, hidden=8, scale=1.0)

        def forward(self, t, state):
            z, _ = state
            with torch.enable_grad():
                z = z if z.requires_grad else z.detach().requires_grad_()
                dz = self.net(t, z)
                grads = (torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(4))
                trace = torch.stack(list(grads)).sum(0)
            return (dz, -trace) if torch.is_grad_enabled() else (dz.detach(), -trace.detach())

    state = (_y0(), torch.zeros(3, dtype=torch.float64))
    loss = lambda ys: (ys[0][-1] ** 2).sum() + ys[1][-1].sum()  # noqa: E731
    field = Flow()
    assert (
        relative(gradient(method, field, SOLVER, state, TS, loss), gradient(Naive(), field, SOLVER, state, TS, loss))
        < 1e-6
    )


@pytest.mark.parametrize("method", ROUTED, ids=lambda m: m.traits.name)
def test_function_without_parameters_of_its_own_is_refused(method):
    """A bare function cannot say which parameters it has."""
    with pytest.raises(UsageError, match=r"expected an nn.Module whose parameters\(\)"):
        method(lambda t, y: -y, SOLVER, _y0(), TS)


@pytest.mark.parametrize("method", [Naive(), *ROUTED], ids=lambda m: m.traits.name)
def test_frozen_and_unused_parameters(method):
    """A frozen parameter gets no gradient; an unused one gets none or zeros of its own shape; the rest is naive's."""

    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Parameter(torch.tensor([0.3, -0.2, 0.1, 0.4], dtype=torch.float64))
            self.frozen = nn.Parameter(torch.ones(4, dtype=torch.float64), requires_grad=False)
            self.unused = nn.Parameter(torch.ones(5, 2, dtype=torch.float64))

        def forward(self, t, y):
            return torch.tanh(self.used * y) * self.frozen

    field = Partly()
    method(field, SOLVER, _y0(), TS)[-1].sum().backward()
    assert field.frozen.grad is None
    assert field.unused.grad is None or torch.equal(field.unused.grad, torch.zeros(5, 2, dtype=torch.float64))
    truth = Partly()
    Naive()(truth, SOLVER, _y0(), TS)[-1].sum().backward()
    assert relative(field.used.grad, truth.used.grad) < 1e-7


@pytest.mark.parametrize("method", [Naive(), *ROUTED], ids=lambda m: m.traits.name)
def test_without_gradients_the_solution_is_the_same_and_has_no_graph(method):
    """Under no_grad every method returns naive's values and keeps nothing."""
    with torch.no_grad():
        ys = method(SmoothNet(d=4), SOLVER, _y0(), TS)
    assert not ys.requires_grad
    assert torch.equal(ys, Naive()(SmoothNet(d=4), SOLVER, _y0(), TS))


@pytest.mark.parametrize("method", ROUTED, ids=lambda m: m.traits.name)
def test_backward_twice_through_a_kept_graph_gives_the_same(method):
    """retain_graph keeps what the pull-back needs; a second pull-back gives the same bits."""
    field, y0 = SmoothNet(d=4), _y0().requires_grad_()
    loss = (method(field, SOLVER, y0, TS)[-1] ** 2).sum()
    first = torch.autograd.grad(loss, y0, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, y0)[0])


def test_adjoint_tolerance_follows_the_scale_of_the_loss_only_as_published():
    """With the costate normalised, scaling the loss scales the gradient exactly; as published, atol swallows it."""
    field, y0 = SmoothNet(), torch.randn(4, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    solver = make_solver("dopri5", rtol=1e-4, atol=1e-4)
    end = lambda scale: lambda ys: scale * (ys[-1] ** 2).sum()  # noqa: E731
    drift = {}
    for normalize in (True, False):
        method = Adjoint(normalize_costate=normalize)
        small = gradient(method, field, solver, y0, TS, end(2.0**-20)) * 2.0**20
        drift[normalize] = relative(small, gradient(method, field, solver, y0, TS, end(1.0)))
    assert drift[True] == 0.0
    assert drift[False] > 1e-4


def test_names_resolve():
    """Registered names, pairs, and the nearest name for a slip."""
    assert resolve_method("snopt") == ("adjoint", "snopt")
    assert resolve_method("naive") == ("naive", None)
    assert {"naive", "adjoint", "anode", "interpolation"} <= set(gradients.names())
    with pytest.raises(UnknownNameError, match="did you mean 'adjoint'"):
        resolve_method("ajoint")
    with pytest.raises(UnsupportedError, match="torchdiffeq has no such method"):
        check_supported(build_gradient("torchdiffeq_naive"), build_solver("heun", 1e-3, 1e-3))


def test_unknown_options_are_answered_with_the_known_ones():
    """A misspelt option, an option of another method, a pair in place of a method."""
    with pytest.raises(
        UnknownNameError, match="unknown option 'nodes' of gradient method 'interpolation': did you mean"
    ):
        build_gradient("interpolation", {"nodes": 8})
    with pytest.raises(UnknownNameError, match="unknown option 'num_nodes' of gradient method 'naive': there are none"):
        build_gradient("naive", {"num_nodes": 8})
    with pytest.raises(UsageError, match="got a pair of one and an optimizer; take gradient method 'adjoint'"):
        build_gradient("snopt")


def test_a_field_that_returns_nothing_is_answered():
    """The message says what shape was expected."""

    class Nothing(nn.Module):
        def forward(self, t, y):
            return None

    with pytest.raises(UsageError, match=r"expected dy/dt of shape .* got \['NoneType'\]"):
        Naive()(Nothing(), SOLVER, _y0(), TS)


def test_scalar_states_keep_their_shape():
    """A 0-d state, alone and in a tuple, against exp(-t)."""
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    one = torch.tensor(1.0, dtype=torch.float64)
    ys = Naive()(lambda _t, y: -y, build_solver("dopri5", 1e-10, 1e-10), one, ts)
    torch.testing.assert_close(ys, torch.exp(-ts), rtol=1e-8, atol=1e-8)
    (ys,) = Naive()(lambda _t, y: (-y[0],), build_solver("dopri5", 1e-10, 1e-10), (one,), ts)
    torch.testing.assert_close(ys, torch.exp(-ts), rtol=1e-8, atol=1e-8)


def test_method_from_a_file(tmp_path):
    """A class in a file outside the package is found by path; a wrong class or path is answered."""
    path = tmp_path / "mine.py"
    path.write_text("from odegrad.methods.gradients.naive import Naive\nclass Mine(Naive):\n    pass\n")
    method = build_gradient(f"{path}:Mine")
    assert torch.equal(method(SmoothNet(d=4), SOLVER, _y0(), TS), Naive()(SmoothNet(d=4), SOLVER, _y0(), TS))
    with pytest.raises(UnknownNameError, match="did you mean 'Mine'"):
        build_gradient(f"{path}:Main")
    with pytest.raises(UsageError, match="there is no file"):
        build_gradient(f"{tmp_path}/other.py:Mine")


@pytest.mark.parametrize("name", ["torchdiffeq_naive", "torchdiffeq_adjoint"])
@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_peers_solve_to_the_same_solution(name, solver):
    """torchdiffeq, through our contract, agrees with our loop to the tolerance, and tells an observer its steps."""

    class Log:
        steps = 0

        def accepted(self, t, h):
            self.steps += 1

        def rejected(self, t, h):
            pass

    log = Log()
    built = build_solver(solver, 1e-8, 1e-8, {"num_steps": 40} if solver == "rk4" else {})
    ys = build_gradient(name)(SmoothNet(d=4), built.observed_by(log), _y0(), TS)
    assert torch.allclose(ys, Naive()(SmoothNet(d=4), built, _y0(), TS), rtol=1e-5, atol=1e-5)
    assert log.steps == 40 if solver == "rk4" else log.steps > 0
