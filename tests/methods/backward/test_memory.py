"""Fields that write to themselves: what depends on the calls before is refused wherever a pull-back calls again."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from odegrad.errors import UsageError
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient


class _Counts(nn.Module):
    """Grows with a number of its own."""

    name = "calls"

    def __init__(self, net, share=0.05):
        super().__init__()
        self.net, self.share, self.calls = net, share, 0

    def forward(self, t, y):
        self.calls += 1
        return self.net(t, y) * (1 + self.share * self.calls)


class _WarmsUp(_Counts):
    """Is another function from its fourth call on."""

    def forward(self, t, y):
        self.calls += 1
        return self.net(t, y) * (1.0 if self.calls < 4 else 1.1)


class _CountsInABuffer(nn.Module):
    name = "calls"

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, t, y):
        self.calls += 1
        return self.net(t, y) * (1 + 0.05 * self.calls)


class _Remembers(nn.Module):
    """Looks at the state of the call before."""

    name = "states[0]"

    def __init__(self, net):
        super().__init__()
        self.net, self.states = net, [None]

    def forward(self, t, y):
        before = y if self.states[0] is None else self.states[0]
        self.states[0] = y.detach()
        return self.net(t, y + 0.3 * before)


class _PowerIteration(nn.Module):
    """A spectral norm in training, which takes one step of its power iteration per call."""

    name = "last.parametrizations.weight.0._u"

    def __init__(self, net):
        super().__init__()
        self.first, self.last = net.first, parametrizations.spectral_norm(net.last)

    def forward(self, t, y):
        return self.last(torch.tanh(self.first(y)))


REMEMBERING = (_Counts, _WarmsUp, _CountsInABuffer, _Remembers, _PowerIteration)


@pytest.mark.parametrize("kind", REMEMBERING)
def test_a_field_that_remembers_is_refused_where_it_is_called_again(solving, kind, net, start):
    """By the name of what it writes to; the gradient of whoever calls it once is naive's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        field = kind(net())
    if solving.calls_again:
        with pytest.raises(UsageError, match="no function of t and y alone") as found:
            solving(field, start())
        assert repr(kind.name) in str(found.value)
        return
    assert torch.isfinite(torch.autograd.grad(solving(field, start()).pow(2).sum(), field.parameters())[0]).all()


def test_naive_is_refused_on_implicit_steps(net, start):
    """Their pull-back calls the field at the stages that Newton's iteration has found."""
    field = _Counts(net(), 1e-8)
    with pytest.raises(UsageError, match="no function of t and y alone"):
        Naive()(field, make_solver("kencarp4", rtol=1e-4, atol=1e-4), start(), torch.tensor([0.0, 1.0]).double())


def test_what_a_refused_field_has_written_stays(solving, net, start):
    """The calls that ask it leave no trace: a counter tells of the solve's own."""
    seen = []

    class Counts(_Counts):
        def forward(self, t, y):
            seen.append(float(t.detach()))
            return super().forward(t, y)

    field = Counts(net())
    if not solving.calls_again:
        return
    with pytest.raises(UsageError, match="no function"):
        solving(field, start())
    assert field.calls == len(seen) - 3


class _OfNoEffect(nn.Module):
    """Counts, keeps its last state and a matrix that it makes once, and depends on none of it."""

    def __init__(self, net):
        super().__init__()
        self.net, self.calls, self.states, self.made = net, 0, [], None
        self.register_buffer("times", torch.zeros((), dtype=torch.float64))

    def forward(self, t, y):
        self.calls += 1
        self.states.append(y.detach())
        self.times.add_(t.detach())
        if self.made is None:
            self.made = torch.eye(3, dtype=y.dtype)
        return self.net(t, y) @ self.made


def test_what_has_no_effect_is_let_pass(solving, net, start, apart):
    """Gradients are those without it, and every call of the solve is in the counter."""
    field, plain = _OfNoEffect(net()), net()
    for _ in range(2):
        field.calls, field.states = 0, []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loss = solving(field, start()).pow(2).sum()
        assert field.calls == len(field.states)
        found = torch.autograd.grad(loss, field.parameters())
        true = torch.autograd.grad(solving(plain, start()).pow(2).sum(), plain.parameters())
        assert apart(found, true) < 1e-12


def test_a_spectral_norm_at_rest_is_let_pass(solving, net, start, apart):
    """In evaluation mode it is a function of the weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        field = _PowerIteration(net()).eval()

    def gradients(way):
        return torch.autograd.grad(way(field, start()).pow(2).sum(), field.parameters())

    assert apart(gradients(solving), gradients(solving.naive())) < solving.near


@pytest.mark.parametrize("name", ["aca", "anode"])
@pytest.mark.parametrize("solver", ["rk4", "alf", "kencarp4"])
def test_what_remembers_outside_of_the_field_is_seen_where_a_block_is_redone(name, solver, net, start):
    """The state at the end of a redone block is another one."""
    seen = []

    class Outside(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, t, y):
            seen.append(0.0)
            return self.net(t, y) * (1.0 if len(seen) < 4 else 1.1)

    options = {"rtol": 1e-4, "atol": 1e-4} if solver == "kencarp4" else {"num_steps": 4}
    ys = build_gradient(name)(Outside(), make_solver(solver, **options), start(), torch.linspace(0.0, 1.0, 4).double())
    with pytest.raises(UsageError, match="no function of t and y alone: it depends on something outside"):
        ys.sum().backward()
