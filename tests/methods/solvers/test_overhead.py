"""What the engine costs beside f: tensor operations and reads of the device for each step, counted, not timed."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from odegrad.checks.choice import at_tolerance
from odegrad.checks.conformance import shared_loop_methods, suitable_solver
from odegrad.registry import build_gradient

READS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal"}
"""Operators that wait for the device and read a number."""

VIEWS = {"aten::view", "aten::t", "aten::slice", "aten::select", "aten::detach", "aten::unbind", "aten::expand"}
"""Operators that compute nothing."""


class Counter(TorchDispatchMode):
    """Counts operators outside f and its vector-Jacobian products, and reads of the device."""

    def __init__(self):
        super().__init__()
        self.in_field = 0
        self.operators = 0
        self.reads = 0
        self.steps = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if not self.in_field and name not in VIEWS:
            self.operators += 1
            self.reads += name in READS
        return func(*args, **(kwargs or {}))

    def accepted(self, t, h):
        self.steps += 1

    def rejected(self, t, h):
        self.steps += 1


class _Product(torch.autograd.Function):
    """``rate * y`` whose forward and backward operators count as f's own."""

    @staticmethod
    def forward(ctx, y, rate, counter):
        ctx.counter = counter
        ctx.save_for_backward(y, rate)
        counter.in_field += 1
        out = rate * y
        counter.in_field -= 1
        return out

    @staticmethod
    def backward(ctx, grad):
        y, rate = ctx.saved_tensors
        ctx.counter.in_field += 1
        pulled = rate * grad, (y * grad).sum(0), None
        ctx.counter.in_field -= 1
        return pulled


class Field(nn.Module):
    def __init__(self, counter):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([-1.0, -0.5, 0.3], dtype=torch.float64))
        self.counter = counter

    def forward(self, t, y):
        return _Product.apply(y, self.rate, self.counter)


def counted(name, tolerance):
    """Return (operators, reads, attempted steps) of the forward and of the backward pass."""
    method, counter = build_gradient(name), Counter()
    solver = at_tolerance(suitable_solver(method), tolerance).observed_by(counter)
    y0 = torch.ones(4, 3, dtype=torch.float64)
    field, ts = Field(counter), torch.tensor([0.0, 2.0], dtype=torch.float64)
    with counter:
        ys = method(field, solver, y0, ts)
        forward = counter.operators, counter.reads, counter.steps
        torch.autograd.grad(ys[-1].sum(), list(field.parameters()))
    total = counter.operators, counter.reads, counter.steps
    return forward, tuple(b - a for a, b in zip(forward, total, strict=True))


STEPS_IN_A_STEP = {"reversible_rk": 2, "revolve": 2}
"""What one accepted step is made of: two of the base method; and, with few checkpoints, repeated ones."""


@pytest.mark.parametrize("name", [n for n in shared_loop_methods() if n != "forward_sensitivity"])
def test_a_step_costs_few_operators_and_one_read(name):
    """The slope over the number of attempted steps, what a longer solve adds; and at most five reads a solve beside."""
    few, many = counted(name, 1e-5), counted(name, 1e-9 if name != "mali" else 1e-7)
    forward_steps = many[0][2] - few[0][2]
    for a, b in zip(few, many, strict=True):
        operators, reads, steps = (y - x for x, y in zip(a, b, strict=True))
        assert operators <= 60 * STEPS_IN_A_STEP.get(name, 1) * (steps or forward_steps)  # a replay is not heard of
        assert reads <= steps
        assert b[1] <= b[2] + 5
