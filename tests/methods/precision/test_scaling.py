"""Cotangents of a float16 field: scaled by powers of two, whatever the loss, and again after an overflow."""

import math

import pytest
import torch
from torch import nn

from odegrad.errors import NonFiniteError
from odegrad.methods.fields.precision import Scale
from odegrad.methods.solvers.solver import make_solver

TAPPING = ["naive", "anode", "aca", "symplectic_adjoint", "adjoint"]
"""Of these adjoint solves back, and finds that what it solves for is not finite."""


class Heard:
    """A solver's observer that keeps what it is told of scales."""

    def __init__(self):
        self.scales = []

    def accepted(self, t, h): ...

    def rejected(self, t, h): ...

    def scaled(self, log2, retries):
        self.scales.append((log2, retries))


@pytest.mark.parametrize("factor", [1e-3, 1e-6, 1e-8, 1e6])
def test_the_unit_of_the_loss_is_no_matter(factor, float16, tools):
    """P5: where cotangents would underflow, every method keeps its gradient."""
    low = float16
    _, true = tools.pulled(low)
    _, found = tools.pulled(low, factor=factor)
    assert tools.off(found, true) <= 5e-4


@pytest.mark.parametrize("name", ["naive", "anode", "aca", "symplectic_adjoint"])
def test_a_power_of_two_changes_no_bit(name, tools):
    """The scale of every call follows the cotangent, so that what the field sees is the same."""
    low = tools.Low(name, "float16")
    assert torch.equal(tools.pulled(low)[1], tools.pulled(low, factor=2.0**-30)[1])


def test_the_scale_is_a_power_of_two_around_the_target():
    """``S max|a|`` lies within a factor of two of ``1 / (u_L sqrt(n))``; zeros and infinities are left alone."""
    generator = torch.Generator().manual_seed(0)
    for exponent in (-30, -3, 0, 5, 40):
        a = torch.randn(50, generator=generator) * 2.0**exponent
        scale = float(Scale().of([a[:20], a[20:]]))
        assert math.log2(scale) == round(math.log2(scale))
        assert 0.5 <= scale * float(a.abs().max()) * 2.0**-11 * math.sqrt(50) <= 2.0
    assert float(Scale().of([torch.zeros(3)])) == 1.0
    assert float(Scale().of([torch.tensor([1.0, math.inf])])) == 1.0


class Steep(nn.Module):
    """A net whose pull-back magnifies: ``gain`` between two layers, undone behind them."""

    def __init__(self, gain):
        super().__init__()
        self.weight, self.gain = nn.Parameter(torch.full((4,), 0.5)), gain

    def forward(self, t, y):
        return torch.tanh(self.weight * y) / self.gain * self.gain


def _pulled(name, gain, precision, tools):
    heard, low = Heard(), tools.Low(name, precision)
    solver = low.solver.observed_by(heard)
    found = tools.pulled(lambda field, y0, ts: low.method(field, solver, y0, ts), field=Steep(gain))
    return found[1], heard.scales


def test_an_overflow_is_gone_back_over_with_a_smaller_scale(low, tools):
    """Twice the largest number on the way: the same gradient as without, by one more pass; bfloat16 has the range."""
    true, scales = _pulled(low.name, 1.0, low.precision, tools)
    found, again = _pulled(low.name, 512.0, low.precision, tools)
    assert tools.off(found, true) <= 2e-3 if low.precision == "float16" else 2e-2
    if low.precision == "bfloat16":
        assert (scales, again) == ([], [])
        return
    assert [retries for _, retries in scales] == [0]
    assert [retries for _, retries in again] == [1]


@pytest.mark.parametrize("name", ["naive", "aca"])
def test_what_overflows_at_any_scale_is_no_gradient(name, tools):
    """An error that says so, never a NaN."""

    class Lost(Steep):
        def forward(self, t, y):
            return _Infinite.apply(self.weight * y)

    low = tools.Low(name, "float16")
    with pytest.raises(NonFiniteError, match=r"overflows in float16.*whatever its scale.*bfloat16"):
        tools.pulled(low, field=Lost(1.0))


class _Infinite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * math.inf


def test_a_loss_that_is_not_finite_is_not_gone_over_again(tools):
    """There is nothing to repair: its gradient is what PyTorch says."""
    low, field, y0 = tools.Low("aca", "float16"), tools.Net(), tools.start()
    ys = low(field, y0, torch.tensor([0.0, 1.0]))
    (grad,) = torch.autograd.grad((ys[-1] * math.inf).sum(), y0)
    assert not torch.isfinite(grad).any()


@pytest.mark.parametrize("name", TAPPING)
def test_a_tap_sees_no_pass_twice(name, tools):
    """What has been shown cannot be taken back: an overflow is refused there."""

    class Tap:
        def __init__(self):
            self.seen = []

        def sample_times(self, t0, t1):
            return [t0, t1]

        def observe(self, field, t, y, a, weight):
            self.seen.append((t, y.dtype, a.dtype))

    tap = Tap()
    method = tools.Low(name, "float16").method.with_tap(tap)
    solver = make_solver("rk4", num_steps=4, precision="float16")
    tools.pulled(lambda field, y0, ts: method(field, solver, y0, ts))
    assert {kind for _, *kinds in tap.seen for kind in kinds} == {torch.float32}
    with pytest.raises(NonFiniteError, match=r"cannot see it twice|not finite"):
        tools.pulled(lambda field, y0, ts: method(field, solver, y0, ts), field=Steep(512.0))
