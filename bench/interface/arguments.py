"""torchdiffeq's arguments, told to this package: functions become fields, options become a solver's."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from odegrad.contracts import State, StateT, VectorField, pass_on
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.fields.passing import PassesCalls
from odegrad.methods.solvers.one_step.options import PerPart
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.tableau import Tableau
from odegrad.registry import odeint_solver
from odegrad.states import parts

RENAMED = {"ifactor": "max_factor", "dfactor": "min_factor", "max_num_steps": "max_steps"}
"""torchdiffeq's names of solver options -> ours; the others are called the same."""

MIN_ATOL = 1e-38
"""What stands for ``atol = 0``, so that a number that stays zero has an error of zero: no state is as small."""

ALIASES = {"heun2": "heun"}
"""torchdiffeq's names of solvers -> ours; the others are called the same."""

NOT_OPTIONS = {
    "jump_t": "it is an option of odeint and odeint_adjoint only",
    "grid_points": "give an observer to the solver, solver.observed_by(...), or callbacks to func",
    "eps": "it belongs to torchdiffeq's grid_points, which there is not here",
    "implicit": "it belongs to torchdiffeq's own Adams methods",
    "max_iters": "it belongs to torchdiffeq's own Adams methods",
    "max_order": "it belongs to torchdiffeq's own Adams methods",
    "solver": "it belongs to method scipy_solver",
}
"""Options of torchdiffeq that this solver does not have, and why."""

INTERPOLATIONS = frozenset({"linear", "cubic"})
"""How torchdiffeq's fixed steps meet outputs inside of them; here there are none."""

NOT_PLAIN = ("step_t", "grid_constructor", "norm", "dtype", "interp", "perturb")
"""Options of torchdiffeq that are no plain numbers, or that need none here."""

Func = Callable[[Tensor, StateT], StateT]
"""Dynamics ``dy/dt = func(t, y)`` on states of one kind: a tensor, or a tuple of tensors."""


def field_of(func: Func[StateT]) -> VectorField:
    """Return ``func`` as a field: a method of a module is one with that module's parameters."""
    if isinstance(func, MethodType) and isinstance(func.__self__, nn.Module):
        return _OfModule(func)
    # What is no module has no parameters to name; who needs them, refuses it.
    return cast("VectorField", func)


class _OfModule(nn.Module):
    """A method of a module, as a field with that module's parameters."""

    def __init__(self, method: MethodType) -> None:
        super().__init__()
        self.module: nn.Module = method.__self__  # type: ignore[assignment]
        self.method = method
        pass_on(self.module, self)

    def forward(self, t: Tensor, y: StateT) -> StateT:
        dy: StateT = self.method(t, y)
        return dy


class WithParameters(PassesCalls):
    """A function with the tensors that it depends on; a module's parameters that are not among them get no gradient.

    Raises
    ------
    UsageError
        If these are no tensors.
    """

    def __init__(self, func: Callable[[Tensor, Any], Any], tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.inner = func
        if isinstance(tensors, Tensor) or not isinstance(tensors, Iterable):
            raise UsageError(
                f"adjoint_params: expected a sequence of tensors, got {type(tensors).__name__}; put it into a tuple"
            )
        self.tensors = tuple(tensors)
        pass_on(func, self)
        if not all(isinstance(x, Tensor) for x in self.tensors):
            raise UsageError(
                f"adjoint_params: expected tensors, got {[type(x).__name__ for x in self.tensors]}; give those that "
                "func depends on, such as tuple(func.parameters())"
            )
        wanted = {id(x) for x in self.tensors}
        named = func.named_parameters() if isinstance(func, nn.Module) else ()
        others = {name: p for name, p in named if p.requires_grad and id(p) not in wanted}
        self.unwanted = tuple(others)
        self.left_out = tuple(others.values())
        """What no gradient is taken by; see ``SolveNode``."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:  # noqa: ARG002
        """Yield the tensors."""
        yield from self.tensors  # type: ignore[misc]

    def called(self, function: Func[Any], t: Tensor, y: Any) -> Any:
        """Return ``function(t, y)``, which knows unwanted parameters as numbers."""
        if not self.unwanted or not isinstance(self.inner, nn.Module):
            return function(t, y)
        known = dict(self.inner.named_parameters())
        return torch.func.functional_call(self.inner, {name: known[name].detach() for name in self.unwanted}, (t, y))


def solver_of(
    method: str | None,
    rtol: PerPart,
    atol: PerPart,
    options: Mapping[str, Any] | None,
    solved: tuple[object, State, Tensor] | None = None,
) -> OneStepSolver:
    """Return the solver that torchdiffeq's arguments name.

    Parameters
    ----------
    method, rtol, atol, options
        As there.
    solved
        What is solved, ``(func, y0, t)``, where options may depend on it.

    Raises
    ------
    UsageError
        If an argument is out of range, or not known.
    UnsupportedError
        If it is an option of torchdiffeq's that there is not here.
    """
    given = dict(options or {})
    others = {key: given.pop(key) for key in NOT_PLAIN if key in given}
    renamed = {}
    for key, value in given.items():
        if key in NOT_OPTIONS:
            raise UnsupportedError(f"options: {key!r} of torchdiffeq is not an option here: {NOT_OPTIONS[key]}")
        plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        renamed[RENAMED.get(key, key)] = plain
    if isinstance(renamed.get("max_steps"), float):
        renamed["max_steps"] = int(renamed["max_steps"])
    if not renamed.get("min_step"):
        renamed.pop("min_step", None)
    name = ALIASES.get(method or "dopri5", method or "dopri5")
    (large_rtol, by_part_r), (large_atol, by_part_a) = _tolerance("rtol", rtol), _tolerance("atol", atol)
    solver = odeint_solver(name, large_rtol, large_atol or MIN_ATOL, renamed)
    if by_part_r or by_part_a:
        solver = replace(solver, tolerances=(rtol, atol))
    return _with_options(solver, others, solved)


def _tolerance(name: str, value: object) -> tuple[float, bool]:
    """Return the largest of the tolerances ``value``, and whether there are several."""
    given = value if isinstance(value, (tuple, list)) else [value]
    parts = [p for p in given if isinstance(p, (int, float, Tensor)) and not isinstance(p, bool)]
    if not parts or len(parts) < len(given):
        raise UsageError(
            f"{name}: expected a number, a tensor that broadcasts to the state, or as many of either as the state has "
            f"parts, got {type(value).__name__}"
        )
    several = isinstance(value, (tuple, list)) or (isinstance(value, Tensor) and value.numel() != 1)
    return max(float(p.max() if isinstance(p, Tensor) else p) for p in parts), several


def _with_options(
    solver: OneStepSolver, options: Mapping[str, object], solved: tuple[object, State, Tensor] | None
) -> OneStepSolver:
    """Return ``solver`` with the options of torchdiffeq that are no plain numbers."""
    if options and solved is None:
        raise UnsupportedError(f"options: {next(iter(options))!r} is an option of odeint and odeint_adjoint only")
    if options.get("norm") is not None:
        if not callable(options["norm"]):
            raise UsageError(f"norm: expected a function of a state, got {type(options['norm']).__name__}")
        solver = replace(solver, norm=options["norm"])
    if options.get("step_t") is not None:
        if not solver.adaptive:
            raise UsageError("step_t: it is for adaptive steps; give grid_constructor, or more output times")
        solver = replace(solver, step_t=_times("step_t", options["step_t"]))
    if options.get("dtype") not in (None, torch.float64):
        raise UnsupportedError(
            f"dtype: times and step sizes are float64 here whatever the state is, got {options['dtype']}; leave it out"
        )
    if options.get("interp") is not None and options["interp"] not in INTERPOLATIONS:
        raise UsageError(f"interp: expected 'linear' or 'cubic', got {options['interp']!r}")
    if options.get("grid_constructor") is not None and solved is not None:
        solver = replace(solver, grid=_grid(solver, options["grid_constructor"], *solved))
    if options.get("perturb", False):
        solver = _perturbed(solver, solved)
    return solver


def _grid(solver: OneStepSolver, constructor: Any, func: object, y0: State, t: Tensor) -> tuple[float, ...]:
    """Return the grid that a function of ``(func, y0, t)`` constructs."""
    if solver.num_steps is not None or solver.step_size is not None:
        raise UsageError("grid_constructor: it excludes step_size and num_steps; leave them out")
    with torch.no_grad():
        grid = _times("grid_constructor", constructor(func, y0, t))
    ends = (float(t[0]), float(t[-1]))
    if len(grid) < 2 or (grid[0], grid[-1]) != ends or list(grid) != sorted(set(grid), reverse=ends[1] < ends[0]):
        raise UsageError(
            f"grid_constructor: expected strictly monotone times from t[0] = {ends[0]:g} to t[-1] = {ends[1]:g}, got "
            f"{len(grid)} from {grid[0] if grid else '-'} to {grid[-1] if grid else '-'}"
        )
    return grid


def _perturbed(solver: OneStepSolver, solved: tuple[object, State, Tensor] | None) -> OneStepSolver:
    """Return ``solver`` with stages that see the field inside of the step at its ends."""
    scheme = solver.scheme
    if solver.adaptive or not isinstance(scheme, Tableau) or scheme.fsal or solver.compile:
        raise UnsupportedError(
            "perturb: it is for fixed steps of an explicit method without a reused stage, such as rk4, that are not "
            "compiled; give jump_t where the field jumps"
        )
    if solved is not None and parts(solved[1])[0].dtype != torch.float64:
        raise UnsupportedError("perturb: float64 states only, whose neighbouring times the field can tell; give jump_t")
    return replace(solver, scheme=replace(scheme, perturbed=True))


def _times(name: str, times: object) -> tuple[float, ...]:
    """Return ``times`` as floats."""
    try:
        flat = torch.as_tensor(times, dtype=torch.float64).detach().reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name}: expected times, a tensor or a sequence, got {type(times).__name__}") from error
    if not bool(torch.isfinite(flat).all()):
        raise UsageError(f"{name}: expected finite times, got {flat.tolist()}")
    return tuple(flat.tolist())
