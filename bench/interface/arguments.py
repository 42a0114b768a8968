"""torchdiffeq's arguments, told to this package: functions become fields, options become a solver's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any

from torch import Tensor, nn

from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.registry import odeint_solver

RENAMED = {"ifactor": "max_factor", "dfactor": "min_factor", "max_num_steps": "max_steps"}
"""torchdiffeq's names of solver options -> ours; the others are called the same."""

ELSEWHERE = {
    "min_step": "leave it out, and loosen rtol and atol where steps get too small to move the time, which raises",
    "norm": "the error norm is the largest root mean square over the parts of the state; use torchdiffeq for another",
    "step_t": "give outputs='step_ends', and add output times to land on more",
    "jump_t": "it is an option of odeint and odeint_adjoint only",
    "dtype": "times and step sizes are float64 on the host whatever the state is; leave it out",
    "grid_constructor": "give step_size, or num_steps for each output interval",
    "interp": "the solver's own dense output is read; give outputs='step_ends' to end a step at each output",
    "perturb": "f is never called outside the interval, so there is nothing to perturb; leave it out",
}
"""Options of torchdiffeq that there is no need for here, and what to do instead."""

Func = Callable[[Tensor, Any], Any]
"""Dynamics ``dy/dt = func(t, y)``."""


def field_of(func: Func) -> Any:
    """Return ``func`` as a field: a method of a module is one with that module's parameters."""
    if isinstance(func, MethodType) and isinstance(func.__self__, nn.Module):
        return _OfModule(func)
    return func


class _OfModule(nn.Module):
    """A method of a module, as a field with that module's parameters."""

    def __init__(self, method: MethodType) -> None:
        super().__init__()
        self.module: nn.Module = method.__self__  # type: ignore[assignment]
        self.method = method

    def forward(self, t: Tensor, y: Any) -> Any:
        return self.method(t, y)


class WithParameters(nn.Module):
    """A function with the tensors that it depends on.

    Raises
    ------
    UsageError
        If these are no tensors.
    """

    def __init__(self, func: Func, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.func = func
        self.tensors = tuple(tensors)
        if not all(isinstance(x, Tensor) for x in self.tensors):
            raise UsageError(f"adjoint_params: expected tensors, got {[type(x).__name__ for x in self.tensors]}")

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:  # noqa: ARG002
        """Yield the tensors."""
        yield from self.tensors  # type: ignore[misc]

    def forward(self, t: Tensor, y: Any) -> Any:
        """Return ``func(t, y)``."""
        return self.func(t, y)


def solver_of(method: str | None, rtol: Any, atol: Any, options: Mapping[str, Any] | None) -> OneStepSolver:
    """Return the solver that torchdiffeq's arguments name.

    Raises
    ------
    UsageError
        If an argument is out of range, or not known.
    UnsupportedError
        If it is an option of torchdiffeq's that there is not here.
    """
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not (isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)):
            raise UsageError(f"{name}: expected one number, got {type(value).__name__}; scale the state's parts")
    renamed = {}
    for key, value in (options or {}).items():
        if key in ELSEWHERE:
            raise UnsupportedError(f"options: {key!r} of torchdiffeq is not an option here: {ELSEWHERE[key]}")
        plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        renamed[RENAMED.get(key, key)] = plain
    if isinstance(renamed.get("max_steps"), float):
        renamed["max_steps"] = int(renamed["max_steps"])
    return odeint_solver(method or "dopri5", float(rtol), float(atol), renamed)
