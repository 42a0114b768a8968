"""Continuous normalizing flows against dense Jacobians and quadrature."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.func import jacrev, vmap
from torchdiffeq import odeint

from odegrad.datasets.nets.flow import (
    FlowField,
    draw_points,
    draw_probe,
    initial_state,
    log_density,
    standard_normal_log_density,
)
from odegrad.datasets.nets.layers import ConcatSquashNet
from odegrad.datasets.sources.seeding import generator, seeded_module
from odegrad.errors import UsageError

DIM, BATCH = 3, 6
T = torch.tensor(0.3, dtype=torch.float64)
TS = torch.tensor([0.0, 0.5], dtype=torch.float64)
solve = partial(odeint, rtol=1e-11, atol=1e-11, method="dopri5")


def flow(dim: int = DIM, seed: int = 0) -> FlowField:
    device = torch.device("cpu")
    return FlowField(seeded_module(lambda: ConcatSquashNet(dim, (8, 8)), generator(seed), device, torch.float64))


def points(count: int = BATCH, dim: int = DIM) -> Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=generator(1))


def dense_jacobian(field: FlowField, z: Tensor) -> Tensor:
    """Return ``dv/dz [batch, dim, dim]`` by torch.func, one sample at a time."""
    jacobian: Tensor = vmap(jacrev(lambda row: field.velocity(T, row[None])[0]))(z)
    return jacobian


def test_exact_trace_is_the_dense_trace() -> None:
    field, z = flow(), points()
    dz, dlogp = field(T, initial_state(z))
    torch.testing.assert_close(dz, field.velocity(T, z), rtol=0, atol=0)
    expected = -dense_jacobian(field, z).diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(dlogp, expected, rtol=0, atol=1e-14)


def test_trace_is_the_same_with_and_without_a_graph() -> None:
    field, z = flow(), points()
    with torch.no_grad():
        bare = field(T, initial_state(z))
        bare_leaf = field(T, initial_state(z.clone().requires_grad_()))
    graph = field(T, initial_state(z.clone().requires_grad_()))
    assert not any(part.requires_grad for part in (*bare, *bare_leaf))
    assert all(part.requires_grad for part in graph)
    for part, leaf, expected in zip(bare, bare_leaf, graph, strict=True):
        assert torch.equal(part, expected)
        assert torch.equal(leaf, expected)


def test_trace_can_be_differentiated_again() -> None:
    field = flow()
    z = points(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: field(T, (x, x.new_zeros(2)))[1], (z,))
    weight = next(field.parameters())

    def trace_of(values: Tensor) -> Tensor:
        name = next(name for name, _ in field.named_parameters())
        out: Tensor = torch.func.functional_call(field, {name: values}, (T, initial_state(z.detach())))[1]
        return out

    assert torch.autograd.gradcheck(trace_of, (weight,))


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_hutchinson_is_unbiased_within_four_standard_errors(kind: Any) -> None:
    count = 20_000
    z = points(1).expand(count, DIM).contiguous()
    field = flow()
    exact = field(T, initial_state(z[:1]))[1]
    with torch.no_grad():
        estimates = field.with_probe(draw_probe(z, kind, generator(2)))(T, initial_state(z))[1]
    standard_error = estimates.std() / math.sqrt(count)
    assert estimates.std() > 0
    assert abs(estimates.mean() - exact[0]) < 4 * standard_error


def test_hutchinson_over_an_orthogonal_basis_is_exact() -> None:
    z, field = points(), flow()
    basis, _ = torch.linalg.qr(torch.randn(DIM, DIM, dtype=torch.float64, generator=generator(3)))
    parts = [field.with_probe(e.expand(BATCH, DIM))(T, initial_state(z))[1] for e in basis]
    torch.testing.assert_close(torch.stack(parts).sum(0), field(T, initial_state(z))[1], rtol=0, atol=1e-14)


def test_hutchinson_field_is_a_function_of_its_probe_alone() -> None:
    z = points()
    field = flow().with_probe(draw_probe(z, "rademacher", generator(4)))
    assert torch.equal(field(T, initial_state(z))[1], field(T, initial_state(z))[1])
    assert set(draw_probe(z, "rademacher", generator(4)).flatten().tolist()) == {-1.0, 1.0}


def test_unknown_probe_is_refused() -> None:
    with pytest.raises(UsageError, match="kind: expected 'gaussian' or 'rademacher', got 'uniform'"):
        draw_probe(points(), "uniform", generator(0))  # type: ignore[arg-type]


def test_density_change_is_minus_the_log_determinant_of_the_map() -> None:
    field, x = flow(), points()
    _, change = solve(field, initial_state(x), TS)

    def carried(row: Tensor) -> Tensor:
        end: Tensor = odeint(field.velocity, row[None], TS, rtol=1e-11, atol=1e-11)[-1, 0]
        return end

    for row, expected in zip(x, change[-1].detach(), strict=True):
        jacobian = torch.autograd.functional.jacobian(carried, row)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(-torch.linalg.slogdet(jacobian).logabsdet, expected, rtol=0, atol=1e-9)


def test_standard_normal_log_density_is_scipys() -> None:
    z = points()
    expected = stats.multivariate_normal(torch.zeros(DIM).numpy()).logpdf(z.numpy())
    torch.testing.assert_close(standard_normal_log_density(z), torch.from_numpy(expected), rtol=0, atol=1e-13)


def test_density_integrates_to_one() -> None:
    side = torch.linspace(-7.0, 7.0, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        field, loose = flow(dim=2), partial(odeint, rtol=1e-6, atol=1e-6)
        total = log_density(loose, field, grid, TS).exp().sum() * (side[1] - side[0]) ** 2
    assert abs(total - 1.0) < 1e-2


def test_drawing_inverts_the_flow() -> None:
    """There and back, to 1e-4, on a flow that moves its points."""
    field, z = flow(2), points(64, 2)
    x = draw_points(solve, field, z, TS)
    assert float((x - z).detach().abs().max()) > 1e-2
    back = solve(field, initial_state(x), TS)[0][-1]
    torch.testing.assert_close(back, z, rtol=0, atol=1e-4)


def test_velocity_that_ignores_its_position_has_no_divergence() -> None:
    class Wind(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.speed = torch.nn.Parameter(torch.ones(DIM, dtype=torch.float64))

        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            return (self.speed * t).expand_as(z)

    for field in (FlowField(Wind()), FlowField(Wind(), torch.ones(BATCH, DIM, dtype=torch.float64))):
        assert torch.equal(field(T, initial_state(points()))[1], torch.zeros(BATCH, dtype=torch.float64))
