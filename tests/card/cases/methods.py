"""Every gradient method with every kind of solver, outputs and state: the CPU's gradient to the bit."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from odegrad.checks.problems import gradient
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, default_gradients
from tests.card.device import Card, CardTensor

METHODS = [*default_gradients(), "forward_sensitivity"]
"""Those that need no package beside odegrad's own."""

SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "adaptive": ("dopri5", {"rtol": 1e-2, "atol": 1e-2}),
    "fixed": ("rk4", {"num_steps": 3}),
    "leapfrog": ("alf", {"num_steps": 3}),
    "adaptive leapfrog": ("alf", {"rtol": 1e-2, "atol": 1e-2}),
    "dense outputs": ("dopri5", {"rtol": 1e-2, "atol": 1e-2, "outputs": "dense"}),
    "dense outputs, fixed": ("rk4", {"num_steps": 3, "outputs": "dense"}),
    "reversible": ("dopri5", {"rtol": 1e-2, "atol": 1e-2, "coupling": 0.99}),
    "sees the tangent": ("bosh3", {"rtol": 1e-2, "atol": 1e-2, "sees": "tangent"}),
    "implicit": ("tr_bdf2", {"rtol": 1e-2, "atol": 1e-2}),
    "implicit, fixed": ("implicit_midpoint", {"num_steps": 4}),
    "a low field": ("bosh3", {"rtol": 1e-2, "atol": 1e-2, "precision": "bfloat16"}),
    "a scaled field": ("rk4", {"num_steps": 3, "precision": "float16"}),
    "PI control": ("tsit5", {"rtol": 1e-2, "atol": 1e-2, "control": "pi"}),
}


class Field(nn.Module):
    """Two parts that drive each other, or one; with dropout's random numbers if wanted."""

    def __init__(self, *, parts: int = 1) -> None:
        super().__init__()
        self.parts = parts
        self.inner = nn.Linear(3, 3).double()
        with torch.no_grad():
            for i, p in enumerate(self.inner.parameters()):
                p.copy_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype))

    def forward(self, t: Tensor, y: Any) -> Any:
        if self.parts == 1:
            return torch.tanh(self.inner(y)) * (1 + t)
        z, s = y
        return torch.tanh(self.inner(z)) * torch.cos(s)[:, None], z.square().sum(1) - s


def _start(parts: int) -> Any:
    z = torch.randn(2, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return z if parts == 1 else (z, z[:, 0].clone())


def _loss(ys: Any) -> Tensor:
    every = (ys,) if isinstance(ys, Tensor) else ys
    return torch.stack([(y[1:] ** 2).sum() for y in every]).sum()


def _moved(y: Any, device: str) -> Any:
    return y.to(device) if isinstance(y, Tensor) else tuple(p.to(device) for p in y)


def _cases() -> Iterator[tuple[str, str]]:
    for name in METHODS:
        for kind, (solver, options) in SOLVERS.items():
            method = build_gradient(name)
            # Another library's loop knows nothing of our outputs: it is the same solve again.
            own = method.traits.shared_loop or options.get("outputs") is None
            if own and method.refuses(make_solver(solver, **options)) is None:
                yield name, kind


@pytest.mark.parametrize(("name", "kind"), list(_cases()))
def test_gradient_is_the_cpus(name: str, kind: str, card: Card) -> None:
    """Three outputs, one of them in between; by start, parameters and output times; a state of two parts too."""
    solver, options = SOLVERS[kind]
    chosen, method = make_solver(solver, **options), build_gradient(name)
    ts = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)

    def found(device: str, parts: int) -> Tensor:
        start, field = _moved(_start(parts), device), Field(parts=parts).to(device)
        return gradient(method, field, chosen, start, ts.to(device), _loss, of_times=method.traits.shared_loop)

    for parts in (1, 2) if kind in ("adaptive", "fixed") else (1,):
        with card.away():
            on_cpu = found("cpu", parts)
        assert torch.equal(on_cpu, found("cuda", parts).cpu())


@pytest.mark.parametrize("name", METHODS)
def test_times_on_the_cpu(name: str) -> None:
    """``ts`` may lie on the CPU, and gets its gradient there."""
    method = build_gradient(name)
    if not method.traits.shared_loop:
        pytest.skip("another library's solver, which wants its times beside the state")
    solver = make_solver("alf" if method.refuses(make_solver("rk4", num_steps=3)) else "rk4", num_steps=3)
    grads = []
    for times in ("cpu", "cuda"):
        ts = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64, device=times, requires_grad=True)
        ys = method(Field().cuda(), solver, _start(1).cuda(), ts)
        assert isinstance(ys, CardTensor)
        _loss(ys).backward()  # type: ignore[no-untyped-call]
        assert ts.grad is not None
        assert ts.grad.device.type == times
        grads.append(ts.grad.cpu())
    assert torch.equal(*grads)


@pytest.mark.parametrize("name", ["naive", "aca", "adjoint", "symplectic_adjoint"])
def test_a_field_that_draws_repeats_the_cards_numbers(name: str) -> None:
    """Dropout: the card's generator is put back for every call of a solve, and moves on as by one call."""
    field = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).double().cuda()
    wrapped = _Autonomous(field)
    generators = []
    for _ in range(2):
        torch.manual_seed(3)
        y0 = _start(1).cuda().requires_grad_()
        ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
        build_gradient(name)(wrapped, make_solver("rk4", num_steps=2), y0, ts)[-1].sum().backward()
        generators.append((torch.cuda.get_rng_state(), y0.grad))
    torch.manual_seed(3)
    field(_start(1).cuda())
    assert torch.equal(generators[0][0], torch.cuda.get_rng_state())
    assert torch.equal(generators[0][1], generators[1][1])


class _Autonomous(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.inner(y)
        return out
