"""What the card is there to find is found: a tensor left on the CPU, a read a step, copies that block."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from odegrad.measuring.meters import HostWaits
from odegrad.methods.solvers import chebyshev
from odegrad.methods.solvers.solver import make_solver
from odegrad.methods.solvers.steppers import RungeKuttaStepper
from odegrad.registry import build_gradient
from odegrad.states import sent_to
from tests.card.device import Card

STEPS = 3


class Linear(nn.Module):
    """A linear field; ``shift`` is a tensor that ``to()`` does not know."""

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.shift = shift

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.layer(y) + self.shift
        return out


def _problem() -> tuple[Linear, Tensor]:
    return Linear(torch.zeros(3, device="cuda")).cuda(), torch.randn(2, 3, device="cuda")


def _solve(method: str, field: nn.Module, y0: Tensor) -> None:
    ts = torch.tensor([0.0, 1.0])
    build_gradient(method)(field, make_solver("rk4", num_steps=STEPS), y0, ts)[-1].sum().backward()


@contextmanager
def _counted(card: Card) -> Iterator[HostWaits]:
    with HostWaits(torch.device("cuda")) as waits:
        card.forget()
        yield waits


def test_a_tensor_on_the_cpu() -> None:
    field, y0 = _problem()
    field.shift = torch.zeros(3)
    with pytest.raises(RuntimeError, match=r"same device.*cuda:0 and cpu"):
        _solve("naive", field, y0)


def test_a_generator_of_the_cpu() -> None:
    with pytest.raises(RuntimeError, match="'cuda' device type for generator"):
        torch.randn(3, device="cuda", generator=torch.Generator())


def test_a_read_at_every_step(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two waits a step, which name what asked: a number read, and a copy of the numbers to the host."""
    accept = RungeKuttaStepper.accept

    def reading(self: RungeKuttaStepper) -> None:
        if self.stages.buffer.k.sum().item() > 1e9 or self.stages.buffer.k.cpu().sum() > 1e9:
            raise AssertionError
        accept(self)

    field, y0 = _problem()
    with _counted(card) as waits:
        _solve("anode", field, y0)
    assert waits.count == 0
    monkeypatch.setattr(RungeKuttaStepper, "accept", reading)
    with _counted(card) as waits:
        _solve("anode", field, y0)
    assert waits.count == 2 * 2 * STEPS  # forward, and in the replay
    assert card.waits == {"_local_scalar_dense.default": 2 * STEPS, "copy to the host": 2 * STEPS}


def test_a_copy_that_blocks(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """From memory that is not pinned: a wait where it blocks, and noted where it asks not to."""
    field, y0 = _problem()
    card.forget()
    _solve("interpolation", field, y0)
    # The one number that says how far the state of the backward pass was off.
    assert card.waits == {"_local_scalar_dense.default": 1}
    assert not card.pageable
    card.forget()
    monkeypatch.setattr(chebyshev, "sent_to", lambda device, x, dtype: x.to(device, dtype))
    _solve("interpolation", field, y0)
    (place,) = (each for each in card.places if each.startswith("copy to the card at "))
    assert "chebyshev.py" in place
    card.forget()
    monkeypatch.setattr(chebyshev, "sent_to", lambda device, x, dtype: x.to(device, dtype, non_blocking=True))
    _solve("interpolation", field, y0)
    assert card.waits == {"_local_scalar_dense.default": 1}
    assert card.pageable
    card.forget()


def test_an_index_on_the_cpu_and_a_mask(card: Card) -> None:
    """A list is sent to the card, a tensor on the CPU too; for the size of a mask's result the host waits."""
    x = torch.ones(4, 2, device="cuda")
    assert x[[0, 2]].shape == x[torch.tensor([0, 2])].shape == (2, 2)
    assert x[x > 0.5].shape == (8,)
    assert x[torch.zeros(2, dtype=torch.long, device="cuda")].shape == x[1:3].shape
    assert card.waits == {"copy to the card": 1, "copy of an index": 1, "mask": 1}


def test_numbers_are_sent_without_a_wait(card: Card) -> None:
    x = torch.arange(3.0)
    sent = sent_to(torch.device("cuda"), x, torch.float64)
    assert not card.waits
    assert sent.dtype == torch.float64
    assert sent.tolist() == [0.0, 1.0, 2.0]


def test_bytes_live_until_they_are_freed(card: Card) -> None:
    before = card.memory.live
    x = torch.zeros(1000, device="cuda")
    assert card.memory.live == before + 4096  # whole blocks of 512 bytes
    view = x[:10]
    del x
    assert card.memory.live == before + 4096
    del view
    assert card.memory.live == before
    assert card.memory.peak >= before + 4096
