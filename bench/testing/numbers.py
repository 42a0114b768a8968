"""The numbers of one gradient that repeat exactly: what a test asserts on."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from odegrad.contracts import GradientMethod, Task
from odegrad.measuring.building import build
from odegrad.measuring.passes import count_built, measure_memory
from odegrad.records.record import Run


@dataclass(frozen=True)
class GradientNumbers:
    """One forward and one backward pass on the first batch at the initial parameters, by the columns of a record.

    None is what cannot be told of this method or device; ``docs/columns.md`` says how each is measured.
    """

    backward_phase: str
    """What an f call of the backward pass is for: ``recompute`` or ``adjoint``."""
    nfe_forward: int
    nfe_backward: int
    nfe_tap: int
    nfe_outside: int
    vjps: int
    accepted_steps: int
    rejected_steps: int
    accepted_steps_backward: int
    rejected_steps_backward: int
    operators_forward: int
    operators_backward: int
    flops_forward: int
    flops_backward: int
    saved_bytes: int
    peak_bytes: int
    gradient_relative_error: float | None
    gradient_cosine: float | None
    gradient_accuracy: str
    reference_error: float | None
    reference_calls: int
    reference_failure: str
    gradient_digest: str
    gradient_norm: float
    gradient_sketch: Sequence[float]
    gradient_method_error: float | None
    host_syncs: int | None
    predicted_nfe_forward: int | None
    predicted_nfe_backward: int | None
    predicted_vjps: int | None
    predicted_saved_bytes: int | None
    predicted_peak_bytes: int | None

    @property
    def nfe_recompute(self) -> int:
        """Return the f calls of the backward pass that repeat a part of the forward pass."""
        return self.nfe_backward if self.backward_phase == "recompute" else 0

    @property
    def nfe_adjoint(self) -> int:
        """Return the f calls of the backward pass that solve backwards."""
        return self.nfe_backward if self.backward_phase == "adjoint" else 0

    @property
    def nfe(self) -> int:
        """Return the f calls of both passes."""
        return self.nfe_forward + self.nfe_backward

    @property
    def flops(self) -> int:
        """Return the floating-point operations of matrix products and convolutions in both passes."""
        return self.flops_forward + self.flops_backward

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, ``nfe_recompute``, ``nfe_adjoint``, ``nfe`` and ``flops`` among it, no sketch."""
        summed = {name: getattr(self, name) for name in ("nfe_recompute", "nfe_adjoint", "nfe", "flops")}
        return {
            name: value
            for name, value in (asdict(self) | summed).items()
            if value is not None and name != "gradient_sketch"
        }


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
    return GradientNumbers(backward_phase=phase, **columns)


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
