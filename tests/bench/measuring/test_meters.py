"""Memory against bytes counted by hand, the clock against a known sleep."""

import time
import warnings

import pytest
import torch

from odegrad.checks.problems import SmoothNet
from odegrad.measuring.meters import Clock, HostWaits, StorageMemory, memory_meter
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

CPU = torch.device("cpu")
KILO = 4000
"""Bytes of a float32 tensor of 1,000 numbers."""


def test_storages_are_counted_once_and_until_they_are_freed():
    """New storages count, views and in-place operations do not, and freeing gives back."""
    with StorageMemory() as meter:
        a = torch.zeros(1000)
        view = a.view(10, 100)
        a.add_(1)
        assert meter.current_bytes() == KILO
        more = [a + i for i in range(3)]
        assert meter.current_bytes() == 4 * KILO
        del more
        assert (meter.current_bytes(), meter.peak_bytes()) == (KILO, 4 * KILO)
        del a
        assert meter.current_bytes() == KILO
        del view
        assert meter.current_bytes() == 0


def test_storages_that_no_operator_returns_or_that_grow_count_at_their_size():
    """``torch.tensor`` makes its storage unseen, ``out=`` and ``resize_`` change one: 1,000, then 1,000, then 3,000."""
    with StorageMemory() as meter:
        made = torch.tensor([1.0] * 1000)
        assert meter.current_bytes() == KILO
        grown = torch.empty(0)
        torch.add(made, 1, out=grown)
        assert meter.current_bytes() == 2 * KILO
        grown.resize_(3000)
        assert meter.current_bytes() == 4 * KILO
        del grown
        assert (meter.current_bytes(), meter.peak_bytes()) == (KILO, 4 * KILO)


def test_what_stood_before_does_not_count():
    """The baseline is zero: freeing an older tensor does not go below it."""
    old = torch.ones(1000)
    with memory_meter(CPU) as meter:
        new = old * 2
        del old
        assert meter.current_bytes() == KILO
        assert new.numel() == 1000


def test_what_autograd_saves_counts():
    """A chain of five tanh keeps its five outputs; backward leaves one gradient."""
    x = torch.randn(1000, requires_grad=True)
    with StorageMemory() as meter:
        y = x
        for _ in range(5):
            y = torch.tanh(y)
        assert meter.current_bytes() == 5 * KILO
        y.sum().backward()
        del y
        assert meter.current_bytes() == KILO


def test_what_a_custom_function_stashes_counts():
    """Tensors on ctx live between forward and backward, and are seen."""

    class Stash(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.kept = [x + 1, x + 2]
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = torch.randn(1000, requires_grad=True)
    with StorageMemory() as meter:
        y = Stash.apply(x)
        assert meter.current_bytes() == 3 * KILO
        assert y.requires_grad


def _saved(name, steps, options=None):
    field, y0 = SmoothNet(d=8, hidden=16).float(), torch.randn(32, 8)
    ts = torch.tensor([0.0, 1.0])
    with StorageMemory() as meter:
        ys = build_gradient(name, options)(field, make_solver("rk4", num_steps=steps), y0, ts)
        return meter.current_bytes() + 0 * ys.numel()


def test_memory_slopes_are_those_of_the_methods():
    """Between forward and backward: naive grows linearly with the steps, aca by a state per step, the others not."""
    d = 32 * 8 * 4
    _saved("naive", 1)  # a tableau's tensors are made once in a process and stay
    naive = [_saved("naive", n) for n in (4, 8, 16)]
    assert naive[2] - naive[1] == 2 * (naive[1] - naive[0]) > 0
    assert _saved("aca", 16) - _saved("aca", 8) == 8 * d
    for name in ("anode", "adjoint", "interpolation"):
        assert _saved(name, 4) == _saved(name, 64)
    assert _saved("interpolation", 8, {"num_nodes": 16}) - _saved("interpolation", 8, {"num_nodes": 8}) == 8 * d


def test_measuring_twice_gives_the_same_bytes():
    """The figures repeat to the byte."""
    assert len({_saved("naive", 8) for _ in range(3)}) == 1


def test_clock_adds_up_blocks():
    """Two sleeps of a known time are at least their sum."""
    clock = Clock(CPU)
    for _ in range(2):
        with clock:
            time.sleep(0.02)
    assert clock.seconds >= 0.04


def test_waits_are_the_warnings_of_torch_and_the_others_pass(monkeypatch):
    """Of three warnings two are waits; the third is heard outside; torch's debug mode is put back after an error."""
    modes = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    waits = HostWaits(torch.device("cuda"))

    def block():
        with waits:
            for text in ("called a synchronizing CUDA operation", "another", "called a synchronizing CUDA operation"):
                warnings.warn(text, stacklevel=1)
            raise KeyError("mine")

    with pytest.warns(UserWarning, match="another") as heard, pytest.raises(KeyError, match="mine"):
        block()
    assert waits.count == 2
    assert len(heard) == 1
    assert modes == ["warn", "default"]


def test_a_cpu_has_no_waits():
    """None, not zero; and warnings go their way."""
    with HostWaits(CPU) as waits, pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)
    assert waits.count is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_each_read_of_the_device_is_a_wait():
    """Three numbers are read, a product is not."""
    x = torch.ones(3, device="cuda")
    with HostWaits(x.device) as waits:
        y = x * 2
        total = sum(float(v) for v in y)
    assert (waits.count, total) == (3, 6.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_allocator():
    """The allocator's peak is above the baseline by the tensors made, rounded to its 512-byte blocks."""
    device = torch.device("cuda")
    with memory_meter(device) as meter:
        a = torch.zeros(1 << 20, device=device)
        b = a + 1
        assert meter.current_bytes() == 2 * 4 * (1 << 20)
        del b
        assert meter.peak_bytes() == 2 * 4 * (1 << 20)
        assert meter.current_bytes() == 4 * (1 << 20)
