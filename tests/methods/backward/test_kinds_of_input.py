"""States of several types, kept dimensions and attention: what torchdiffeq takes is right under every method."""

import pytest
import torch
import torchdiffeq
from torch import nn

from odegrad.errors import UsageError
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

TIMES = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)


def _torchdiffeq(field, y0, ts):
    """Its own gradient at tolerances that leave the method's steps as the only error."""
    return torchdiffeq.odeint(field, y0, ts, rtol=1e-10, atol=1e-12)


def _near(solving):
    """Four fixed steps of order 4, of order 2 with the leapfrog."""
    return 3e-2 if solving.solver.name == "alf" else 2e-3


def test_parts_of_several_types_are_promoted(solving, net, start, apart):
    """As there: the field sees, and the solution is in, the finest of them; gradients come back in each one's own."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, t, y):
            return self.inner(t, y[0]) * 0.3, -y[1]

    def pulled(solve):
        y0 = (start(), torch.full((4,), 0.5, requires_grad=True))
        field = Two()
        ys = solve(field, y0, TIMES)
        assert {part.dtype for part in ys} == {torch.float64}
        loss = ys[0][-1].pow(2).sum() + ys[1].sum()
        return torch.autograd.grad(loss, [*y0, *field.parameters()])

    found, true = pulled(solving), pulled(_torchdiffeq)
    assert [g.dtype for g in found] == [g.dtype for g in true]
    assert apart([g.double() for g in found], [g.double() for g in true]) < _near(solving)


def test_a_derivative_with_kept_dimensions_is_the_same_for_all(solving, start, apart):
    """A mean over the batch with ``keepdim``; fewer dimensions are refused, as a batch may have been forgotten."""

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, t, y):
            return -self.rate * y.mean(0, keepdim=True)

    class Expanded(Mean):
        def forward(self, t, y):
            return super().forward(t, y).expand_as(y)

    class Forgotten(Mean):
        def forward(self, t, y):
            return -self.rate * y.mean(0)

    def pulled(field):
        y0 = start()
        return torch.autograd.grad(solving(field, y0).pow(2).sum(), [y0, field.rate])

    assert apart(pulled(Mean()), pulled(Expanded())) < 1e-14
    with pytest.raises(UsageError, match=r"expected dy/dt of shape and dtype .*\(4, 3\)"):
        pulled(Forgotten())


def test_attention(solving, apart):
    """Its fused kernels have no second derivative, which forward_sensitivity takes: it computes without them."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True).double()

        def forward(self, t, y):
            return 0.3 * self.layer(y)

    def pulled(solve):
        field = Block()
        y0 = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(1, 3, 4).sin().requires_grad_()
        return torch.autograd.grad(solve(field, y0, TIMES)[-1].pow(2).sum(), [y0, *field.parameters()])

    assert apart(pulled(solving), pulled(solving.naive())) < (1e-9 if solving.method.traits.exact else 2e-2)


def test_a_late_closure_is_found_by_the_columns_of_implicit_steps(net, start):
    """forward_sensitivity pulls nothing back through an implicit step that would show it."""
    control = torch.full((3,), 0.3, dtype=torch.float64, requires_grad=True)

    class Late(net):
        def forward(self, t, y):
            return super().forward(t, y) + (control if float(t) > 0.5 else 0.0)

    with pytest.raises(UsageError, match="reached through a closure"):
        build_gradient("forward_sensitivity")(Late(), make_solver("kencarp4", num_steps=4), start(), TIMES)
