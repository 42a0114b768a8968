"""Short memory is told from what torch cannot do: both come as a ``RuntimeError``."""

import pytest
import torch

from odegrad.checks.problems import SmoothNet, gradient
from odegrad.errors import is_out_of_memory
from odegrad.methods.backward import products
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient


def test_what_is_out_of_memory():
    """A GPU's error, Python's, and what the host's allocator really raises; another error is none."""
    with pytest.raises(RuntimeError) as of_host:
        torch.empty(2**50)
    assert is_out_of_memory(of_host.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("Batching rule not implemented for aten::foo"))


@pytest.mark.parametrize(("raised", "goes_on"), [(torch.OutOfMemoryError, False), (RuntimeError, True)])
def test_sensitivities_column_by_column_only_where_batches_are_not_known(monkeypatch, raised, goes_on):
    """Where memory is short, a solve in a hundredth of the speed is not what was asked for."""
    one = products._derivative

    def refusing(outputs, u, vectors, *, batched):
        if batched:
            raise raised("no")
        return one(outputs, u, vectors, batched=False)

    field, y0 = SmoothNet(d=1, hidden=2), torch.ones(1, 1, dtype=torch.float64)
    call = (field, make_solver("euler", num_steps=1), y0, torch.tensor([0.0, 1.0]).double(), torch.sum)
    expected = gradient(build_gradient("naive"), *call)
    monkeypatch.setattr(products, "_derivative", refusing)
    method = build_gradient("forward_sensitivity")
    if goes_on:
        assert torch.allclose(gradient(method, *call), expected, rtol=1e-12)
    else:
        with pytest.raises(torch.OutOfMemoryError):
            gradient(method, *call)
