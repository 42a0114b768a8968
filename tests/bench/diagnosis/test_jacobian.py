"""Jacobians sample by sample against closed forms, finite differences and each other; nothing is disturbed."""

import logging
import math

import pytest
import torch
from torch import nn

from odegrad.checks.problems import SmoothNet
from odegrad.datasets.nets.flow import FlowField
from odegrad.datasets.nets.layers import ConcatSquashNet
from odegrad.diagnosis.jacobian import JacobianRows, dense_jacobian, jacobian_products

T = torch.tensor(0.3, dtype=torch.float64)


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _seeded(make, *arguments, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(*arguments, **options).double()


class _Quadratic(nn.Module):
    """``f = A y + (b . y) y`` in three ways: its Jacobian is ``A + (b . y) I + y b^T``."""

    def __init__(self, way="plain"):
        super().__init__()
        self.way = way
        self.a, self.b = nn.Parameter(_randn(4, 4)), nn.Parameter(_randn(4, seed=1))

    def forward(self, t, y):
        linear = y @ self.a.T
        if self.way == "in place":
            out = linear.clone()
            out += (y @ self.b)[:, None] * y
            out[:, 0].mul_(1.0)
            return out
        if self.way == "control flow":
            return linear + (y @ self.b)[:, None] * y if y.sum().item() < 1e6 else torch.zeros_like(y)
        if self.way == "autograd inside":
            with torch.enable_grad():
                z = y if y.requires_grad else y.detach().requires_grad_()
                energy = 0.5 * ((z @ self.b)[:, None] * z**2).sum()  # its gradient holds (b . y) y and |y|^2 b / 2
                (grad,) = torch.autograd.grad(energy, z, create_graph=torch.is_grad_enabled())
            return linear + grad - 0.5 * (z**2).sum(1, keepdim=True) * self.b
        if self.way == "custom function":
            return linear + _Product.apply((y @ self.b)[:, None], y)
        return linear + (y @ self.b)[:, None] * y

    def jacobian(self, y):
        return self.a + (y @ self.b)[:, None, None] * torch.eye(4, dtype=y.dtype) + y[:, :, None] * self.b


class _Product(torch.autograd.Function):
    """A custom function that torch.func cannot take: its context is set in forward."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        return (g * b).sum(1, keepdim=True), g * a


WAYS = ["plain", "in place", "control flow", "autograd inside", "custom function"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch", [1, 5])
def test_closed_form_whatever_the_field_does_inside(way, batch):
    """Dense Jacobians and products equal A + (b . y) I + y b^T."""
    field, y, v = _Quadratic(way), _randn(batch, 4, seed=2), _randn(batch, 4, seed=3)
    exact = field.jacobian(y).detach()
    assert torch.allclose(dense_jacobian(field, T, y).values, exact, atol=1e-13)
    with jacobian_products(field, T, y) as products:
        assert torch.allclose(products.push(v), (exact @ v[..., None])[..., 0], atol=1e-13)
        assert torch.allclose(products.pull(v), (exact.mT @ v[..., None])[..., 0], atol=1e-13)


@pytest.mark.parametrize("way", ["custom function", "hidden"])
def test_fallback_says_so_once(way, caplog):
    """What torch.func cannot transform, or gets wrong, goes to autograd with one warning that tells why."""
    field = _Quadratic("custom function") if way == "custom function" else _Detaching()
    rows = JacobianRows(field)
    with caplog.at_level(logging.WARNING, logger="odegrad"):
        found = [rows(T, _randn(3, 4, seed=s)) for s in (2, 3)]
    assert [f.by for f in found] == ["autograd"] * 2
    assert len(caplog.records) == 1
    assert "by autograd, row by row" in caplog.text


class _Detaching(nn.Module):
    """Detaches its input inside of a transform, so that torch.func sees no dependence, without an error."""

    def forward(self, t, y):
        inside = torch._C._functorch.maybe_current_level() is not None
        return (y.detach() if inside else y) ** 2 + y


def test_plain_fields_are_transformed(caplog):
    """A net of tensor operations is formed by torch.func, without a warning."""
    with caplog.at_level(logging.WARNING, logger="odegrad"):
        assert dense_jacobian(SmoothNet(d=3, hidden=5), T, _randn(2, 3)).by == "torch.func"
    assert not caplog.records


@pytest.mark.parametrize("probe", [False, True])
def test_flow_with_a_frozen_probe(probe):
    """A flow's Jacobian, log-density row included, equals central differences; each sample has a probe of its own."""
    field = FlowField(_seeded(ConcatSquashNet, 2, (8, 8)), _randn(3, 2, seed=5) if probe else None)
    z, logp = _randn(3, 2, seed=4), torch.zeros(3, dtype=torch.float64)
    found = dense_jacobian(field, T, (z, logp)).values
    h, columns = 1e-6, []
    for i in range(2):
        step = torch.zeros_like(z)
        step[:, i] = h
        up, down = field(T, (z + step, logp)), field(T, (z - step, logp))
        columns.append(torch.cat([up[0] - down[0], (up[1] - down[1])[:, None]], dim=1) / (2 * h))
    columns.append(torch.zeros(3, 3, dtype=torch.float64))
    assert torch.allclose(found, torch.stack(columns, dim=2).detach(), atol=1e-8)


class _Conv(nn.Module):
    """A field with running statistics and dropout; ``plain`` keeps torch.func from transforming it otherwise."""

    def __init__(self, *, plain=True):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, padding=1)
        self.dropout, self.plain = nn.Dropout(0.5), plain

    def forward(self, t, y):
        x = torch.tanh(self.conv(self.dropout(self.norm(y))))
        return x if self.plain else _Product.apply(torch.ones_like(x[:, :1]), x)


@pytest.mark.parametrize("plain", [True, False], ids=["torch.func", "fallback"])
@pytest.mark.parametrize("training", [True, False])
def test_one_dropout_mask_for_all_rows_and_routes(plain, training):
    """Rows and products are of the very call that the field would make next: one mask, drawn once."""
    field, y = _seeded(_Conv, plain=plain).train(training), _randn(3, 2, 3, 3)
    torch.manual_seed(7)
    found = dense_jacobian(field, T, y)
    assert found.by == ("torch.func" if plain else "autograd")
    v = _randn(1 if training else 3, 18, seed=1).expand(3, 18)  # batch normalisation couples: one cotangent for all
    with jacobian_products(field, T, y) as products:
        assert torch.allclose(products.pull(v), (found.values.mT @ v[..., None])[..., 0], atol=1e-12)
        if not training:
            assert torch.allclose(products.push(v), (found.values @ v[..., None])[..., 0], atol=1e-12)
    leaf = y.clone().requires_grad_()
    (own,) = torch.autograd.grad(field(T, leaf), leaf, v.view_as(y))
    assert torch.allclose(own.reshape(3, -1), (found.values.mT @ v[..., None])[..., 0], atol=1e-12)


@pytest.mark.parametrize("batch", [1, 4])
def test_parts_of_a_tuple_lie_side_by_side(batch):
    """The oscillator as two parts: [[0, 1], [-4, 0]]."""

    class Oscillator(nn.Module):
        def forward(self, t, state):
            return state[1], -4 * state[0]

    y = (torch.ones(batch, 1).double(), torch.ones(batch, 1).double())
    expected = torch.tensor([[0.0, 1.0], [-4.0, 0.0]]).double().expand(batch, 2, 2)
    assert torch.equal(dense_jacobian(Oscillator(), T, y).values, expected)


def test_norm_of_a_gram_product():
    """J^T J v is the product with the Gram matrix."""
    field, y, v = SmoothNet(d=3, hidden=5), _randn(2, 3), _randn(2, 3, seed=1)
    j = dense_jacobian(field, T, y).values
    with jacobian_products(field, T, y) as products:
        assert torch.allclose(products.gram(v), (j.mT @ j @ v[..., None])[..., 0], atol=1e-13)
    assert math.isfinite(j.sum().item())
