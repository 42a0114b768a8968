"""Samples with steps of their own on the card: the CPU's gradient, and one wait a round."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, gradients
from tests.card.device import Card

SOLVER = make_solver("dopri5", rtol=1e-3, atol=1e-3, batch="per_sample")
NAMES = [
    name
    for name in gradients.names()
    if build_gradient(name).traits.shared_loop and build_gradient(name).refuses(SOLVER) is None
]


class _Field(nn.Module):
    """``y' = tanh(y W) + sin t``, a time for each row."""

    sample_time = True

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(2.0 * torch.randn(2, 2, generator=generator, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.weight) + torch.sin(t)


class _Rounds:
    """Hears of rounds."""

    def __init__(self) -> None:
        self.solves: list[Any] = []

    def accepted(self, t: float, h: float) -> None:
        """Need nothing."""

    def rejected(self, t: float, h: float) -> None:
        """Need nothing."""

    def solved_in_rounds(self, counts: Any) -> None:
        """Keep them."""
        self.solves.append(counts)


def _solved(name: str, y0: Tensor, field: nn.Module, ts: Tensor, observer: _Rounds) -> Tensor:
    ys: Tensor = build_gradient(name)(field, SOLVER.observed_by(observer), y0, ts)
    return ys[1:].square().mean()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("own_times", [False, True])
def test_one_wait_a_round(name: str, own_times: bool, card: Card) -> None:
    ts = torch.tensor([0.0, 0.6, 2.0], dtype=torch.float64)
    if own_times:
        ts = torch.stack([ts, 0.5 * ts, torch.tensor([0.0, 0.3, 0.3], dtype=torch.float64)])
    y0 = torch.tensor([[0.5, -0.2], [3.0, 2.0], [-1.0, 0.1]], dtype=torch.float64)
    there = y0.cuda()
    on_cpu, field, rounds = _Field(), _Field().cuda(), _Rounds()
    _solved(name, y0, on_cpu, ts, _Rounds()).backward()  # type: ignore[no-untyped-call]
    _solved(name, there, field, ts, _Rounds())  # whether samples are apart is looked at once
    card.forget()
    loss = _solved(name, there, field, ts, rounds)
    (forward,) = rounds.solves
    assert card.waits.total() == forward.rounds + 2
    card.forget()
    loss.backward()  # type: ignore[no-untyped-call]
    again = rounds.solves[1:]
    told = int(build_gradient(name).traits.state_from in ("solve", "interpolant") and name != "interpolation_dense")
    assert card.waits.total() <= sum(each.rounds + 2 for each in again) + told
    assert isinstance(field.weight.grad, Tensor)
    assert isinstance(on_cpu.weight.grad, Tensor)
    torch.testing.assert_close(field.weight.grad.cpu(), on_cpu.weight.grad, rtol=1e-9, atol=1e-12)
