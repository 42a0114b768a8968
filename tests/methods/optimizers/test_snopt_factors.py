"""SNOpt's factors and update against dense matrices."""

import pytest
import torch
from torch import nn

from odegrad.methods.optimizers.snopt.factors import Eigenbasis, FactorSum, eigenbasis
from odegrad.methods.optimizers.snopt.layers import (
    cotangent_rows,
    gradient_matrix,
    input_rows,
    matrix_shape,
    split_matrix,
)
from odegrad.methods.optimizers.snopt.preconditioner import precondition
from odegrad.methods.optimizers.snopt.tap import CurvatureTap

F64 = torch.float64


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_one_sample_gives_the_exact_fisher_block():
    """S4: for one layer, one time and one sample, A (x) B is the outer product of the gradient with itself."""
    layer, x, phi = nn.Linear(3, 2).double(), _randn(1, 3), _randn(1, 2, seed=1)
    (phi * layer(x)).sum().backward()
    gradient = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1)
    total = FactorSum()
    total.add(input_rows(layer, x), cotangent_rows(layer, phi), 1.0)
    fisher = torch.outer(gradient.T.reshape(-1), gradient.T.reshape(-1))
    assert torch.allclose(torch.kron(total.input_factor, total.output_factor), fisher, atol=1e-12)


def _basis(n_in=4, n_out=3, rows=7):
    total = FactorSum()
    total.add(_randn(rows, 1, n_in), _randn(rows, 1, n_out, seed=1) / rows, 1.0)
    return total, eigenbasis("layer", total)


@pytest.mark.parametrize("eps", [1e-3, 0.1, 10.0])
def test_update_equals_the_dense_solve(eps):
    """S5: with S = S_B S_A^T the update is (A (x) B + eps I)^-1 vec(G)."""
    total, basis = _basis()
    gradient = _randn(3, 4, seed=2)
    dense = torch.kron(total.input_factor, total.output_factor) + eps * torch.eye(12, dtype=F64)
    solved = torch.linalg.solve(dense, gradient.T.reshape(-1)).reshape(4, 3).T
    assert torch.allclose(precondition(basis, gradient, eps), solved, rtol=1e-10, atol=1e-12)


def test_limits_of_the_update():
    """S5: S = 1 and eps = 0 give the gradient itself, a large eps gives g / eps."""
    _, basis = _basis()
    gradient = _randn(3, 4, seed=2)
    assert torch.allclose(precondition(basis, gradient, 1e9), gradient / 1e9, rtol=1e-6)
    basis.curvature = torch.ones_like(basis.curvature)
    assert torch.allclose(precondition(basis, gradient, 0.0), gradient, atol=1e-12)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(2, 3, 3, stride=2, bias=False),
        nn.Conv2d(2, 3, (3, 2), padding="same", dilation=2),
        nn.Conv2d(2, 3, (2, 3), stride=(1, 2), padding=(1, 0), dilation=(2, 1)),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect", bias=False),
    ],
    ids=["padded", "strided", "same", "uneven", "circular", "reflected"],
)
def test_convolution_factors_are_those_of_the_unfolded_linear_layer(conv):
    """S6: rows times the weight matrix give the convolution's output, and a bias is an appended 1."""
    conv = conv.double()
    x = _randn(4, 2, 6, 6)
    rows, out = input_rows(conv, x), cotangent_rows(conv, conv(x))
    matrix = conv.weight.movedim(1, -1).reshape(3, -1)
    matrix = matrix if conv.bias is None else torch.cat([matrix, conv.bias[:, None]], 1)
    assert torch.allclose(rows @ matrix.T, out, atol=1e-12)
    linear = nn.Linear(rows.shape[-1], 3, bias=False).double()
    ours, theirs, g = FactorSum(), FactorSum(), _randn(*out.shape, seed=1)
    ours.add(rows, g, 0.5)
    theirs.add(input_rows(linear, rows), cotangent_rows(linear, g), 0.5)
    assert torch.equal(ours.input_factor, theirs.input_factor)
    assert torch.equal(ours.output_factor, theirs.output_factor)


def test_grouped_convolution_is_a_layer_for_each_group():
    """Factors and update are those of two convolutions, each on its half of the channels; gradients fit the weight."""
    conv = nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2).double()
    halves = [nn.Conv2d(2, 3, 3, padding=1, stride=2).double() for _ in range(2)]
    x, phi = _randn(5, 4, 6, 6), _randn(5, 6, 3, 3, seed=1)
    (conv(x) * phi).sum().backward()
    total = FactorSum()
    total.add(input_rows(conv, x), cotangent_rows(conv, phi), 0.5)
    basis = eigenbasis("conv", total)
    weight, bias = split_matrix(conv, precondition(basis, gradient_matrix(conv), 0.1))
    assert basis.curvature.shape == matrix_shape(conv) == (2, 3, 19)
    for i, half in enumerate(halves):
        part = FactorSum()
        part.add(input_rows(half, x[:, 2 * i : 2 * i + 2]), cotangent_rows(half, phi[:, 3 * i : 3 * i + 3]), 0.5)
        assert torch.allclose(total.input_factor[i], part.input_factor, rtol=1e-12)
        assert torch.allclose(total.output_factor[i], part.output_factor, rtol=1e-12)
        own = slice(3 * i, 3 * i + 3)
        half.weight.grad, half.bias.grad = conv.weight.grad[own].clone(), conv.bias.grad[own].clone()
        parts = split_matrix(half, precondition(eigenbasis("half", part), gradient_matrix(half), 0.1))
        assert torch.allclose(weight[own], parts[0], rtol=1e-9, atol=1e-12)
        assert torch.allclose(bias[own], parts[1], rtol=1e-9, atol=1e-12)


def test_bytes_of_the_factors():
    """S9: per layer (n_in + 1)^2 + n_out^2 for the bases and n_out (n_in + 1) for the curvature."""
    _, basis = _basis(n_in=6, n_out=2)
    held = basis.input_basis.numel() + basis.output_basis.numel() + basis.curvature.numel()
    assert held == 6**2 + 2**2 + 6 * 2


def test_ill_conditioned_quadratic_needs_few_iterations():
    """S11: condition 1e4; the preconditioned step is at least 20 times faster than SGD at its best constant rate."""
    scales = torch.logspace(0, -2, 6, dtype=F64)
    x = _randn(64, 6) * scales
    x = x / (x.T @ x / 64).diagonal().max().sqrt()
    target = _randn(2, 6, seed=1)

    def iterations(step, limit):
        weight = torch.zeros(2, 6, dtype=F64)
        for i in range(limit):
            error = (weight - target) @ x.T
            if error.square().mean() <= 1e-8 * (target @ x.T).square().mean():
                return i
            weight = weight - step(error @ x / 64)
        return limit

    values, vectors = torch.linalg.eigh(x.T @ x / 64)
    assert values[-1] / values[0] > 3e3
    basis = Eigenbasis(vectors, torch.eye(2, dtype=F64), values.expand(2, 6).clone(), 64)
    ours = iterations(lambda g: precondition(basis, g, 1e-6), 1000)
    rate = 2 / (values[0] + values[-1])
    assert iterations(lambda g: rate * g, 20 * ours + 1) > 20 * ours


def test_half_precision_factors_are_kept_in_float32():
    """The sums of bfloat16 rows are float32."""
    total = FactorSum()
    total.add(torch.ones(2, 1, 3, dtype=torch.bfloat16), torch.ones(2, 1, 2, dtype=torch.bfloat16), 1.0)
    assert total.input_factor.dtype == total.output_factor.dtype == torch.float32


def test_sample_times_hold_both_ends():
    """An even grid, at most the spacing apart."""
    times = CurvatureTap({}, {}, 0.3).sample_times(0.0, 1.0)
    assert times == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    assert list(CurvatureTap({}, {}, 5.0).sample_times(0.0, 1.0)) == [0.0, 1.0]
