"""Paths through series, and fields that they drive: what they pass through, and solutions in closed form."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odegrad
from odegrad.binding import solve_with
from odegrad.checks.conformance import shared_loop_methods
from odegrad.contracts import event_solve
from odegrad.datasets.nets.neural_cde import NeuralCDE, held
from odegrad.datasets.nets.paths import Controlled, HermitePath, LinearPath, Path, rectilinear_path, with_time
from odegrad.datasets.sources.seeding import generator
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

DTYPE = torch.float64
TIMES = torch.tensor([0.0, 0.4, 0.5, 1.3, 2.0], dtype=DTYPE)
VALUES = torch.randn(3, 5, 2, dtype=DTYPE, generator=generator(4))
METHODS = sorted(set(shared_loop_methods()) - {"mali"})


class Constant(nn.Module):
    """``F(z) = F``, ``[2, channels]``."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, channels, dtype=DTYPE, generator=generator(5)))

    def forward(self, z: Tensor) -> Tensor:
        return self.weight.expand(len(z), -1, -1)


class Linear(nn.Module):
    """``F(z)_hc = sum_k A_hck z_k``."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.randn(2, channels, 2, dtype=DTYPE, generator=generator(6)))

    def forward(self, z: Tensor) -> Tensor:
        return torch.einsum("hck,bk->bhc", self.weight, z)


def at(path: Path, times: Tensor) -> Tensor:
    """Return the path at ``times``, ``[batch, length, channels]``."""
    return torch.stack([path(t) for t in times], dim=1)


@pytest.mark.parametrize("kind", [HermitePath, LinearPath])
def test_a_path_passes_through_its_values(kind: Any) -> None:
    """And its derivative is that of autograd, between knots and behind both ends."""
    path = kind(TIMES, VALUES)
    torch.testing.assert_close(at(path, TIMES), VALUES, rtol=1e-13, atol=1e-13)
    for time in (0.1, 0.45, 0.9, 1.999):
        t = torch.tensor(time, dtype=DTYPE)
        true: Any = torch.autograd.functional.jacobian(path, t)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(path.derivative(t), true, rtol=1e-12, atol=1e-12)


def test_hermite_derivatives_are_backward_differences() -> None:
    """At each knot that of the interval before it, at the first that of the first; from either side the same."""
    path, slopes = HermitePath(TIMES, VALUES), VALUES.diff(dim=1) / TIMES.diff()[:, None]
    for k, t in enumerate(TIMES):
        expected = slopes[:, max(k - 1, 0)]
        torch.testing.assert_close(path.derivative(t), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(path.derivative(t - 1e-12), expected, rtol=1e-9, atol=1e-9)


def test_linear_derivatives_jump_at_the_knots() -> None:
    """At the knot it is that of the piece behind, and one number before it that of the piece before."""
    path, slopes = LinearPath(TIMES, VALUES), VALUES.diff(dim=1) / TIMES.diff()[:, None]
    for k in (1, 2, 3):
        torch.testing.assert_close(path.derivative(TIMES[k]), slopes[:, k])
        before = torch.nextafter(TIMES[k], TIMES[0])
        torch.testing.assert_close(path.derivative(before), slopes[:, k - 1])


def test_a_rectilinear_path_moves_time_and_values_in_turn() -> None:
    """Observation k stands at 2 k; before, time has come to it and the value has not."""
    path, stamped = rectilinear_path(TIMES, VALUES), with_time(TIMES, VALUES)
    corners = at(path, torch.arange(9, dtype=DTYPE))
    torch.testing.assert_close(corners[:, ::2], stamped)
    torch.testing.assert_close(corners[:, 1::2, 0], stamped[:, 1:, 0])
    torch.testing.assert_close(corners[:, 1::2, 1:], stamped[:, :-1, 1:])
    for piece in range(8):
        moving = path.derivative(torch.tensor(piece + 0.5, dtype=DTYPE)) != 0
        assert moving.tolist() == [[piece % 2 == 0, piece % 2 == 1, piece % 2 == 1]] * 3


@pytest.mark.filterwarnings("ignore::odegrad.errors.InaccurateGradientWarning")
@pytest.mark.parametrize("name", [*METHODS, "mali"])
def test_constant_fields_give_the_increment(name: str) -> None:
    """z(t) - z0 = F (X(t) - X(0)), at knots and between them, and its gradient by F, with every method."""
    path, matrix = HermitePath(TIMES, VALUES), Constant()
    z0 = torch.zeros(3, 2, dtype=DTYPE)
    solver = make_solver("alf" if name == "mali" else "dopri5", rtol=1e-6, atol=1e-6)
    ts = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=DTYPE)
    zs = event_solve(solve_with(build_gradient(name), solver)).across(Controlled(matrix, path), z0, ts, path.knots)
    increments = at(path, ts) - VALUES[:, :1]
    limit = 1e-3 if name == "mali" else 1e-10
    torch.testing.assert_close(zs, torch.einsum("hc,btc->tbh", matrix.weight, increments), rtol=limit, atol=limit)
    (found,) = torch.autograd.grad(zs[-1].sum(), matrix.weight)
    true = increments[:, -1].sum(0).expand(2, -1)
    limit = 1e-2 if name == "mali" else 1e-6
    torch.testing.assert_close(found, true, rtol=limit, atol=0.1 * limit)


def exponentials(matrix: Linear, path: LinearPath, z0: Tensor) -> Tensor:
    """Return z at the last knot: a product of matrix exponentials."""
    z = z0
    for increment in at(path, path.times).diff(dim=1).unbind(1):
        step = torch.einsum("hck,bc->bhk", matrix.weight, increment)
        z = torch.einsum("bhk,bk->bh", torch.linalg.matrix_exp(step), z)
    return z


@pytest.mark.parametrize("name", METHODS)
def test_linear_fields_on_linear_paths_are_matrix_exponentials(name: str) -> None:
    """With their gradients, on a rectilinear path that jumps from channel to channel."""
    path, matrix = rectilinear_path(TIMES, VALUES), Linear(3)
    z0 = torch.ones(3, 2, dtype=DTYPE)
    nodes: Any = {"gradient_options": {"num_nodes": 24}} if hasattr(build_gradient(name), "num_nodes") else {}
    zs: Any = odegrad.odeint(
        Controlled(matrix, path), z0, path.times[[0, -1]], rtol=1e-9, atol=1e-11, gradient=name,
        options={"jump_t": path.knots}, **nodes,
    )  # fmt: skip
    true = exponentials(matrix, path, z0)
    torch.testing.assert_close(zs[-1], true, rtol=1e-7, atol=1e-8)
    (found,), (known,) = (torch.autograd.grad(z.square().sum(), matrix.weight) for z in (zs[-1], true))
    torch.testing.assert_close(found, known, rtol=1e-6, atol=1e-7)


def test_landing_with_limits_is_exact_and_cheap() -> None:
    """Twenty knots: a solve unaware of them rejects step after step, and is less exact."""
    times = torch.rand(20, dtype=DTYPE, generator=generator(7)).cumsum(0)
    path, matrix = LinearPath(times, torch.randn(3, 20, 2, dtype=DTYPE, generator=generator(8))), Linear()
    z0, field, calls, errors = torch.ones(3, 2, dtype=DTYPE), Controlled(matrix, path), [], []
    true = exponentials(matrix, path, z0).detach()
    called: list[Tensor] = []
    field.register_forward_pre_hook(lambda _, inputs: called.append(inputs[0]))
    for options in ({"jump_t": path.knots}, None):
        called.clear()
        with torch.no_grad():
            zs: Any = odegrad.odeint(field, z0, times[[0, -1]], rtol=1e-6, atol=1e-8, options=options)
        calls.append(len(called))
        errors.append(float((zs[-1] - true).norm() / true.norm()))
    assert calls[0] < calls[1] / 3
    assert errors[0] < 2e-5
    assert errors[0] < errors[1] / 3


@pytest.mark.parametrize("kind", [HermitePath, LinearPath])
def test_the_speed_along_a_path_changes_nothing(kind: Any) -> None:
    """At 2.5 times the speed the state at the end is the same; on straight pieces at any speed of each."""
    matrix, z0 = Linear(), torch.ones(3, 2, dtype=DTYPE)
    clocks = [TIMES, TIMES / 2.5] + ([TIMES**2 + TIMES] if kind is LinearPath else [])
    ends = []
    for times in clocks:
        path = kind(times, VALUES)
        options = {"jump_t": path.knots}
        by: Any = {"rtol": 1e-9, "atol": 1e-11, "options": options}
        zs: Any = odegrad.odeint(Controlled(matrix, path), z0, times[[0, -1]], **by)
        ends.append(zs[-1])
    for other in ends[1:]:
        torch.testing.assert_close(other, ends[0], rtol=1e-7, atol=1e-8)


def test_scores_do_not_see_the_padding() -> None:
    """A series in a padded batch gets the scores that it gets alone, though the path goes on; gaps hold a value."""
    lengths = torch.tensor([5, 2, 4])
    seen = torch.arange(5)[None, :] < lengths[:, None]
    torch.manual_seed(0)
    net = NeuralCDE(2, 4, 3).double()
    solve = solve_with(build_gradient("naive"), make_solver("rk4", num_steps=2))
    batch = net(solve, VALUES, seen, TIMES)
    for i, n in enumerate(lengths.tolist()):
        alone = net(solve, VALUES[i : i + 1, :n], seen[i : i + 1, :n], TIMES[:n])
        torch.testing.assert_close(batch[i], alone[0], rtol=1e-12, atol=1e-13)
    gap = torch.tensor([[True, False, False, True, False]])
    assert held(VALUES[:1], gap)[0, :, 0].tolist() == VALUES[0, [0, 0, 0, 3, 3], 0].tolist()


@pytest.mark.parametrize(
    ("times", "values", "message"),
    [
        (TIMES[:1], VALUES[:, :1], "times: expected at least two strictly increasing times"),
        (TIMES.flip(0), VALUES, "times: expected at least two strictly increasing times"),
        (TIMES, VALUES[:, :4], r"values: expected floating-point numbers \[batch, 5, channels\], got \(3, 4, 2\)"),
        (TIMES, VALUES.long(), "of torch.int64; pad shorter series"),
        (TIMES, VALUES.log(), "values: expected finite numbers"),
        (TIMES, VALUES.clone().requires_grad_(), "expected data, got tensors that require a gradient"),
    ],
)
@pytest.mark.parametrize("make", [HermitePath, LinearPath, rectilinear_path])
def test_what_is_no_path_is_refused(make: Any, times: Tensor, values: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(times, values)


@pytest.mark.parametrize(
    ("gradient", "options", "message"),
    [
        ("torchdiffeq_naive", {}, "jump_t, jumps: gradient method torchdiffeq_naive solves by another library"),
        ("aca", {"compile": True}, "compiled steps do not see the limits"),
        ("aca", {"batch": "per_sample"}, "samples with steps of their own do not end one where the field or"),
    ],
)
def test_what_does_not_see_the_limits_says_so(gradient: str, options: Any, message: str) -> None:
    path = HermitePath(TIMES, VALUES)
    solve = event_solve(solve_with(build_gradient(gradient), make_solver("dopri5", **options)))
    with pytest.raises(UnsupportedError, match=message):
        solve.across(Controlled(Constant(), path), torch.zeros(3, 2, dtype=DTYPE), TIMES[[0, -1]], path.knots)
