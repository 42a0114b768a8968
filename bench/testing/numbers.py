"""The numbers of one gradient that repeat exactly: what a test asserts on."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from odegrad.contracts import GradientMethod, Task
from odegrad.errors import UnknownNameError
from odegrad.measuring.building import build
from odegrad.measuring.passes import count_built, measure_memory
from odegrad.records.columns import COLUMNS
from odegrad.records.record import Run

COUNTED_COLUMNS = tuple(column for column in COLUMNS if column.measured_by in {"count", "memory"})
"""What is counted of a gradient: the columns of the count and of the memory pass."""


@dataclass(frozen=True)
class GradientNumbers:
    """One forward and one backward pass on the first batch at the initial parameters, by the columns of a record.

    Each column is an attribute: ``numbers.nfe_forward``, ``numbers.peak_bytes``; ``docs/columns.md`` says how each is
    measured. None is what cannot be told of this method or device.
    """

    backward_phase: str
    """What an f call of the backward pass is for: ``recompute`` or ``adjoint``."""
    measured: Mapping[str, Any]
    """Every column of ``COUNTED_COLUMNS``, by its name."""

    def __getattr__(self, name: str) -> Any:
        """Return a column.

        Raises
        ------
        AttributeError
            If no column is called so.
        """
        measured = self.__dict__.get("measured", {})  # empty while a copy is being made
        if name not in measured:
            raise AttributeError(str(UnknownNameError("number of a gradient", name, measured)))
        return measured[name]

    @property
    def nfe_recompute(self) -> int:
        """Return the f calls of the backward pass that repeat a part of the forward pass."""
        return self._backward("recompute")

    @property
    def nfe_adjoint(self) -> int:
        """Return the f calls of the backward pass that solve backwards."""
        return self._backward("adjoint")

    @property
    def nfe(self) -> int:
        """Return the f calls of both passes."""
        return int(self.nfe_forward + self.nfe_backward)

    @property
    def flops(self) -> int:
        """Return the floating-point operations of matrix products and convolutions in both passes."""
        return int(self.flops_forward + self.flops_backward)

    def _backward(self, phase: str) -> int:
        return int(self.nfe_backward) if self.backward_phase == phase else 0

    def to_dict(self) -> dict[str, object]:
        """Return plain data for JSON, ``nfe_recompute``, ``nfe_adjoint``, ``nfe`` and ``flops`` among it, no lists."""
        summed = {name: getattr(self, name) for name in ("nfe_recompute", "nfe_adjoint", "nfe", "flops")}
        single = {column.name: self.measured[column.name] for column in COUNTED_COLUMNS if column.dtype != "object"}
        every = {"backward_phase": self.backward_phase} | single | summed
        return {name: value for name, value in every.items() if value is not None}


def measure_numbers(
    run: Run, gradient: str | Callable[..., GradientMethod], task: str | Callable[..., Task], threads: int
) -> GradientNumbers:
    """Return the numbers of ``run``, by the count pass and then the memory pass, each on what is built afresh.

    Both in this process: they read no clock and no allocator of the system, so that nothing before or beside them moves
    a number. Threads, and the generators of random numbers, are put back at the end.

    Parameters
    ----------
    run
        Names and numbers.
    gradient, task
        What the run names: a name, or a class.
    threads
        Threads of one tensor operation, which the gradient's last bits depend on.

    Raises
    ------
    OdegradError
        What the method, the solver or the task raise; other errors pass through as they are.
    """
    with apart(run, threads):
        built = build(run, gradient, task)
        phase = built.method.traits.backward_phase
        with tempfile.TemporaryDirectory() as references:  # of this call alone: classes of one name may differ
            columns = count_built(built, Path(references), lambda _message: None)
    with apart(run, threads):
        columns |= measure_memory(build(run, gradient, task))
    return GradientNumbers(phase, {column.name: columns.get(column.name) for column in COUNTED_COLUMNS})


@contextmanager
def apart(run: Run, threads: int) -> Iterator[None]:
    """Seed torch as a pass of ``run`` does, with gradients on and so many threads; put all back at the end."""
    before = torch.get_num_threads()
    devices = [torch.device(run.device)] if run.device == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.set_num_threads(threads)
        torch.manual_seed(run.seed)
        try:
            yield
        finally:
            torch.set_num_threads(before)
