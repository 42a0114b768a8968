"""Trained tensors that are no parameters: attributes get their gradients, what lies elsewhere is refused."""

import pytest
import torch
from torch import nn

from odegrad.errors import UnsupportedError, UsageError


def _pulled(solve, build, start):
    (field, trained), y0 = build(), start()
    return torch.autograd.grad(solve(field, y0).pow(2).sum(), [y0, *trained])


def _same_as_naive(solving, build, start, apart, near=None):
    assert apart(_pulled(solving, build, start), _pulled(solving.naive(), build, start)) < (near or solving.near)


class _Shifted(nn.Module):
    """A net plus what ``shift`` returns."""

    def __init__(self, inner, shift):
        super().__init__()
        self.inner, self.shift = inner, shift

    def forward(self, t, y):
        return self.inner(t, y) + self.shift(self, t)


def _leaf():
    return torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)


PLACES = {
    "attribute": (lambda f, u: setattr(f, "u", u), lambda f, t: f.u),
    "list": (lambda f, u: setattr(f, "u", [u]), lambda f, t: f.u[0]),
    "tuple": (lambda f, u: setattr(f, "u", (None, u)), lambda f, t: f.u[1]),
    "dictionary": (lambda f, u: setattr(f, "u", {"a": {"b": u}}), lambda f, t: f.u["a"]["b"]),
    "buffer": (lambda f, u: f.register_buffer("u", u), lambda f, t: f.u),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("computed", [False, True], ids=["leaf", "computed"])
def test_a_trained_attribute_gets_its_gradient(solving, place, computed, net, start, apart):
    """A context of the batch, whether it is a leaf or was computed before the solve."""
    put, get = PLACES[place]

    def build():
        field, u = _Shifted(net(), get), _leaf()
        put(field, torch.tanh(3 * u) if computed else u)
        return field, [u, *field.inner.parameters()]

    _same_as_naive(solving, build, start, apart)


def test_a_layer_in_a_plain_list_gets_its_gradient(solving, net, start, apart):
    """PyTorch does not register it; naive backprop trains it all the same."""

    def build():
        layer = nn.Linear(3, 3).double()
        with torch.no_grad():
            layer.weight.fill_(0.1), layer.bias.fill_(-0.2)
        field = _Shifted(net(), lambda f, t: f.layers[0].bias)
        field.layers = [layer]
        return field, [layer.bias, *field.inner.parameters()]

    _same_as_naive(solving, build, start, apart)


def test_an_attribute_that_enters_late_gets_its_gradient(solving, net, start, apart):
    """A control that acts from t = 0.4 on, the time of an output."""

    def build():
        u = _leaf()
        field = _Shifted(net(), lambda f, t: f.u[0] if float(t) > 0.4 else 0.0)
        field.u = [u]
        return field, [u, *field.inner.parameters()]

    # At the jump itself the interpolant and the backward solve see the one side or the other.
    _same_as_naive(solving, build, start, apart, near=solving.near if solving.method.traits.exact else 5e-2)


def test_a_context_from_an_encoder_of_the_field(solving, net, start, apart):
    """Its history ends in parameters of the field: pulled back once, with the whole gradient."""

    def build():
        field = _Shifted(net(), lambda f, t: f.context)
        field.encoder = nn.Linear(2, 3).double()
        with torch.no_grad():
            field.encoder.weight.fill_(0.3), field.encoder.bias.fill_(0.1)
        field.context = torch.tanh(field.encoder(torch.ones(4, 2, dtype=torch.float64)))
        return field, [*field.encoder.parameters(), *field.inner.parameters()]

    _same_as_naive(solving, build, start, apart)


def test_a_matrix_made_once_from_a_parameter_of_the_field(solving, start, apart):
    """A rotation from its skew part, computed before the solve."""

    class Rotated(nn.Module):
        def __init__(self):
            super().__init__()
            self.raw = nn.Parameter(torch.arange(9, dtype=torch.float64).reshape(3, 3) / 10)
            self.w = torch.linalg.matrix_exp(self.raw - self.raw.T)

        def forward(self, t, y):
            return torch.tanh(y @ self.w)

    def build():
        field = Rotated()
        return field, [field.raw]

    _same_as_naive(solving, build, start, apart)


def test_parametrizations_under_their_cache(solving, start, apart):
    """Inside of ``parametrize.cached()`` a weight would be computed once, without a graph."""

    def build():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layer = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3).double().eval()).eval()
        field = _Shifted(lambda t, y: torch.tanh(layer(y)), lambda f, t: 0.0)
        field.layer = layer
        return field, list(layer.parameters())

    def pulled(solve):
        field, trained = build()
        y0 = start()
        with torch.nn.utils.parametrize.cached():
            loss = solve(field, y0).pow(2).sum()
        return torch.autograd.grad(loss, [y0, *trained])

    assert apart(pulled(solving), pulled(solving.naive())) < solving.near


def test_a_leaf_that_f_makes_is_no_closure(solving, net, start, apart):
    """FFJORD's constant parts of the state: their derivative is ``zeros_like(s).requires_grad_()``."""

    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, t, state):
            y, _ = state
            return self.inner(t, y), torch.zeros(4, 1, dtype=torch.float64).requires_grad_()

    def pulled(solve):
        field, y0 = Flow(), start()
        ys, _ = solve(field, (y0, torch.zeros(4, 1, dtype=torch.float64)))
        return torch.autograd.grad(ys.pow(2).sum(), [y0, *field.parameters()])

    assert apart(pulled(solving), pulled(solving.naive())) < solving.near


@pytest.mark.parametrize("since", [-1.0, 0.5], ids=["from the first call", "late"])
def test_a_closure_is_refused_whenever_it_enters(solving, since, net, start):
    """A tensor of the surrounding function is seen in the graph of the forward or the backward pass."""
    hidden = _leaf()
    field, y0 = _Shifted(net(), lambda _f, t: hidden if float(t) > since else 0.0), start()
    if solving.method.traits.state_from == "graph":
        assert torch.autograd.grad(solving(field, y0).sum(), hidden)[0].abs().sum() > 0
        return
    with pytest.raises(UsageError, match=r"of shape \(3,\) .*reached through a closure.*self\.name = tensor"):
        torch.autograd.grad(solving(field, y0).pow(2).sum(), y0)


def test_a_history_that_f_does_not_read_is_not_the_solutions(solving, net, start):
    """The solution of the batch before, kept for a log: its graph has been pulled back and is gone."""
    field = _Shifted(net(), lambda f, t: 0.0)
    for _ in range(3):
        y0 = start()
        field.logged = solving(field, y0)
        field.logged.pow(2).sum().backward()
        assert y0.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_reentrant_checkpoint_inside_of_f_is_answered(solving, net, start, apart):
    """``use_reentrant=True`` cannot be pulled back to chosen tensors; False is right, as is one around the solve."""
    checkpoint = torch.utils.checkpoint.checkpoint

    def pulled(solve, reentrant):
        field, y0 = _Shifted(net(), lambda f, t: 0.0), start()
        inner = field.inner
        field.forward = lambda t, y: checkpoint(inner, t, y, use_reentrant=reentrant)
        return torch.autograd.grad(solve(field, y0).pow(2).sum(), [y0, *inner.parameters()])

    assert apart(pulled(solving, False), pulled(solving.naive(), False)) < solving.near
    if solving.calls_again:
        with pytest.raises(UnsupportedError, match="use_reentrant=False"):
            pulled(solving, True)

    def around(solve):
        field, y0 = net(), start()
        checkpoint(lambda y: solve(field, y), y0, use_reentrant=True).pow(2).sum().backward()
        return [y0.grad, *(p.grad for p in field.parameters())]

    assert apart(around(solving), around(solving.naive())) < solving.near
