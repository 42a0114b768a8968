"""A property of every batch: what a sample is told depends on nobody beside it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from odegrad.checks.conformance import shared_loop_methods
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

TOLERANCE = 1e-12


class Net(nn.Module):
    """``y' = W2 tanh(W1 [t, y])`` with weights from a seed."""

    sample_time = True

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w1 = nn.Parameter(torch.randn(3, 5, generator=generator, dtype=torch.float64))
        self.w2 = nn.Parameter(torch.randn(5, 2, generator=generator, dtype=torch.float64))

    def forward(self, t, y):
        return torch.tanh(torch.cat([t.expand(*y.shape[:-1], 1), y], -1) @ self.w1) @ self.w2


def own_steps(name, **options):
    """Return a solver that gives samples steps of their own."""
    return make_solver(name, rtol=1e-4, atol=1e-6, batch="per_sample", **options)


SOLVERS: tuple[tuple[str, dict[str, object]], ...] = (
    ("dopri5", {}),
    ("bosh3", {"outputs": "dense"}),
    ("kencarp4", {}),
    ("tr_bdf2", {"compaction": "none"}),
)
CASES = [
    pytest.param(method, own_steps(name, **options), id=f"{method} {name} {options or ''}")
    for method in shared_loop_methods()
    for name, options in SOLVERS
    if build_gradient(method).refuses(own_steps(name, **options)) is None
]
"""Every method with every kind of solver that it takes."""


def test_no_method_is_left_out():
    """Ten have own explicit steps, five of them implicit ones too."""
    assert len(CASES) == 2 * 10 + 2 * 5


def told(method, solver, field, y0, ts, of_first):
    """Return the first sample's states, and the gradients of a weighted sum of them by its start and the parameters."""
    start = y0.clone().requires_grad_()
    ys = build_gradient(method)(field, solver, start, ts)[:, 0]
    of_start, *of_parameters = torch.autograd.grad((ys * of_first).sum(), (start, *field.parameters()))
    assert not bool(of_start[1:].any())
    return [ys.detach(), of_start[0], *of_parameters]


@pytest.mark.parametrize(("method", "solver"), CASES)
@given(
    seed=st.integers(0, 10_000),
    mates=st.integers(1, 6),
    size=st.floats(0.01, 20.0),
    ends=st.lists(st.floats(0.05, 1.5), min_size=7, max_size=7),
)
@settings(max_examples=3, deadline=None, derandomize=True, database=None)
def test_states_and_gradients_of_a_sample_do_not_depend_on_its_mates(method, solver, seed, mates, size, ends):
    """To 1e-12: alone, and beside any number of mates of any size with times of their own."""
    generator = torch.Generator().manual_seed(seed)
    field = Net(seed)
    y0 = torch.randn(1 + mates, 2, generator=generator, dtype=torch.float64)
    y0[1:] *= size
    last = torch.tensor(ends[: 1 + mates], dtype=torch.float64)[:, None]
    ts = torch.cat([torch.zeros_like(last), 0.3 * last, last], dim=1)
    of_first = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    alone = told(method, solver, field, y0[:1], ts[:1], of_first)
    among = told(method, solver, field, y0, ts, of_first)
    for a, b in zip(among, alone, strict=True):
        assert float((a - b).norm()) <= TOLERANCE * float(b.norm())
