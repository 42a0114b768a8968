"""Operators and floating-point operations against those counted by hand."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from odegrad.measuring.operators import OperatorCount
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

BATCH, D = 5, 3
PRODUCT = 2 * BATCH * D * D
"""FLOPs of one product ``[batch, d] @ [d, d]``: a multiplication and an addition each."""
STAGES = {"euler": 1, "rk4": 4}


class Linear(nn.Module):
    """``y' = y W``: one matrix product a call, and two to pull it back."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64))

    def forward(self, t, y):
        return y @ self.w


class LinearTwiceNegated(Linear):
    """The same with two operators more."""

    def forward(self, t, y):
        return super().forward(t, y).neg().neg()


def counted(name, field, solver, steps):
    """Return the counts of a forward and a backward pass; tensors that a process makes once are made before."""
    method, built = build_gradient(name), make_solver(solver, num_steps=steps)
    y0 = torch.ones(BATCH, D, dtype=torch.float64, requires_grad=True)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    method(field, built, y0, ts)[-1].sum().backward()
    with OperatorCount() as forward:
        loss = method(field, built, y0, ts)[-1].sum()
    with OperatorCount() as backward:
        loss.backward()
    return forward, backward


@pytest.mark.parametrize("solver", STAGES)
@pytest.mark.parametrize("steps", [1, 6])
def test_flops_of_a_linear_field(solver, steps):
    """Forward one product a stage and step; naive pulls back with two; anode computes each a second time before."""
    products = STAGES[solver] * steps
    forward, backward = counted("naive", Linear(), solver, steps)
    assert forward.flops == products * PRODUCT
    assert backward.flops == 2 * products * PRODUCT
    forward, backward = counted("anode", Linear(), solver, steps)
    assert forward.flops == products * PRODUCT
    assert backward.flops == 3 * products * PRODUCT


def test_flops_of_a_convolution():
    """2 x batch x out channels x in channels x 9 weights x 4 x 4 places, and twice that to pull back."""
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    layer = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    with OperatorCount() as forward:
        y = layer(x)
    with OperatorCount() as backward:
        y.sum().backward()
    assert forward.flops == 2 * 2 * 5 * 3 * 9 * 16
    assert backward.flops == 2 * forward.flops


def test_operators_of_a_block():
    """A product and a sum; back a one, its expansion, and the product's two partial derivatives, handed over."""
    a, b = (torch.ones(3, requires_grad=True) for _ in range(2))
    with OperatorCount() as forward:
        loss = (a * b).sum()
    with OperatorCount() as backward:
        loss.backward()
    assert forward.operators == 2
    assert backward.operators == 4 + 2  # each leaf takes a detached alias of its gradient
    assert forward.flops == backward.flops == 0


@pytest.mark.parametrize(("name", "calls", "pulls"), [("naive", 0, 12), ("anode", 12, 12), ("adjoint", 12, 12)])
def test_an_operator_more_in_the_field_counts_once_a_call(name, calls, pulls):
    """rk4 with 3 steps: 12 calls forward; on the way back ``calls`` recompute and ``pulls`` pull back, each by one."""
    plain, more = counted(name, Linear(), "rk4", 3), counted(name, LinearTwiceNegated(), "rk4", 3)
    assert more[0].operators - plain[0].operators == 2 * 12
    assert more[1].operators - plain[1].operators == 2 * (calls + pulls)


def test_counting_changes_no_bit():
    """The gradient is the same with and without."""
    found = []
    for counting in (nullcontext(), OperatorCount()):
        field, y0 = Linear(), torch.ones(BATCH, D, dtype=torch.float64)
        with counting:
            ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
            ys = build_gradient("adjoint")(field, make_solver("rk4", num_steps=4), y0, ts)
            (ys[-1] ** 2).sum().backward()
        found.append(field.w.grad)
    assert torch.equal(*found)
