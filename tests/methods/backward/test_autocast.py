"""Mixed precision: the field runs under the autocast of the forward pass, the solver's own arithmetic under none."""

import pytest
import torch
from torch import nn

from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.gradients.anode import Anode
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver

TIMES = torch.tensor([0.0, 0.4, 1.0])


class _Watched(nn.Module):
    """A float32 net that notes the type in which its layers compute."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.types = inner.float(), set()

    def forward(self, t, y):
        dy = self.inner(t, y)
        self.types.add(dy.dtype)
        return dy


def _pulled(solve, net, start, inside):
    field, y0 = _Watched(net()), start().detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ys = solve(field, y0, TIMES)
        if inside:
            ys.float().pow(2).sum().backward()
    if not inside:
        ys.pow(2).sum().backward()
    assert ys.dtype == torch.float32
    assert field.types == {torch.bfloat16}
    return [y0.grad, *(p.grad for p in field.parameters())]


@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
def test_the_backward_pass_computes_as_the_forward_pass_did(solving, inside, net, start, apart):
    """As PyTorch recommends, backward() stands outside of autocast; either way every call is in bfloat16."""
    found, true = _pulled(solving, net, start, inside), _pulled(solving.naive(), net, start, False)
    exact = solving.method.traits.exact and solving.method.traits.state_from != "inverse"
    assert apart(found, true) < (2e-3 if exact else 3e-2)


def test_each_is_as_far_from_the_truth_as_naive_is(solving, net, start, apart):
    """What solves back or reads an interpolant calls f elsewhere, which rounds otherwise there: no worse, not equal."""

    def exact():
        field, y0 = net(), start()
        ys = Naive()(field, make_solver("rk4", num_steps=50), y0, TIMES.double())
        return torch.autograd.grad(ys.pow(2).sum(), [y0, *field.parameters()])

    true = exact()
    found, naive = (
        apart([g.double() for g in _pulled(solve, net, start, False)], true) for solve in (solving, solving.naive())
    )
    rounding = 2.0**-8
    assert found < 1.5 * naive + rounding


def test_autocast_of_the_backward_pass_alone_changes_nothing(solving, net, start, apart):
    """A float32 solve whose backward() happens to stand under autocast."""

    def pulled(inside):
        field, y0 = net().float(), start().detach().float().requires_grad_()
        loss = solving(field, y0, TIMES).pow(2).sum()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            return torch.autograd.grad(loss, [y0, *field.parameters()])

    # What autograd itself computes of a kept graph is PyTorch's to decide.
    if solving.method.traits.state_from != "graph":
        assert apart(pulled(True), pulled(False)) == 0.0


def test_compiled_steps_under_autocast_are_refused(net, start):
    """They are traced without it."""
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(UnsupportedError, match="autocast"):
        Anode()(net().float(), make_solver("dopri5", rtol=1e-4, atol=1e-4, compile=True), start().float(), TIMES)


def test_a_field_in_a_finer_type_is_rounded_and_in_a_coarser_one_refused(solving, net, start, apart):
    """float64 arithmetic for a float32 state is the field's choice; float32 for float64 loses digits in silence."""

    class Finer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, t, y):
            return self.inner(t, y.double())

    def pulled(solve):
        field, y0 = Finer(), start().detach().float().requires_grad_()
        return torch.autograd.grad(solve(field, y0, TIMES).pow(2).sum(), [y0, *field.parameters()])

    assert apart([g.float() for g in pulled(solving)], [g.float() for g in pulled(solving.naive())]) < 1e-3

    class Coarser(Finer):
        def forward(self, t, y):
            return self.inner(t, y).float()

    with pytest.raises(UsageError, match=r"expected dy/dt of shape and dtype .*float64"):
        solving(Coarser(), start())
