"""``odeint`` and ``odeint_adjoint`` with torchdiffeq's arguments, on odegrad's solvers and gradient methods."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from odegrad.binding import tapped
from odegrad.contracts import GradientMethod, Scalar, State, Tap
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.regularisers.regularised import RegularisedSolve, Regularisers
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.registry import build_gradient, build_solver
from odegrad.states import mapped

SOLVERS_RENAMED = {"heun2": "heun"}
"""torchdiffeq's names of solvers -> ours, where they are called otherwise."""

RENAMED = {"ifactor": "max_factor", "dfactor": "min_factor", "max_num_steps": "max_steps"}
"""torchdiffeq's names of solver options -> ours; the others are called the same."""

ELSEWHERE = {
    "norm": "the error norm is the largest root mean square over the parts of the state; use torchdiffeq for another",
    "step_t": "every output time ends a step already; add output times to land on more",
    "jump_t": "solve from jump to jump, one odeint call for each interval",
    "dtype": "times and step sizes are float64 on the host whatever the state is; leave it out",
    "grid_constructor": "give step_size, or num_steps for each output interval",
    "interp": "give outputs='dense' to read outputs from the dense output of the solver",
    "perturb": "f is never called outside the interval, so there is nothing to perturb; leave it out",
}
"""Options of torchdiffeq that there is no need for here, and what to do instead."""

LANDED_OUTPUTS = 200
"""Up to so many output times end a step each; more are read from the dense output, unless it is told otherwise."""

MIN_ATOL = 1e-38
"""What stands for ``atol = 0``, so that a number that stays zero has an error of zero: no state is as small."""

NOTHING_TO_DO: Mapping[str, Sequence[object]] = {
    "dtype": (torch.float64,),
    "interp": ("linear", "cubic"),
    "perturb": (False,),
}
"""Options of torchdiffeq whose values ask for what is so anyway: times are float64, outputs are ends of fixed steps."""

Func = Callable[[Tensor, Any], Any]


def odeint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: object = None,
    gradient: str = "naive",
    gradient_options: Mapping[str, Scalar] | None = None,
    tap: Tap | None = None,
) -> State:
    """Solve ``dy/dt = func(t, y)``, ``y(t[0]) = y0``; drop-in for ``torchdiffeq.odeint`` with a choice of gradient.

    Parameters
    ----------
    func
        The dynamics; an ``nn.Module``, or a method of one, for every gradient method but ``naive``, so that its
        parameters are known.
    y0
        Initial state: a tensor of any shape, or a tuple of tensors.
    t
        Output times ``[K]``, strictly monotone; may require a gradient. At one time alone the solution is ``y0``. Each
        is the end of a step, up to 200 of them; more are read from the solver's dense output, as torchdiffeq does, so
        that they cost no steps. The option ``outputs`` says which: ``step_ends`` or ``dense``.
    rtol, atol
        Tolerances of the adaptive solvers; ``atol`` may be 0.
    method
        The solver, as there: ``dopri5`` (default), ``tsit5``, ``dopri8``, ``bosh3``, ``rk4`` (Kutta's, not the 3/8
        rule), ``midpoint``, ``heun``, ``euler``, ``alf``. A method of fixed steps takes one step for each interval of
        ``t`` unless ``step_size`` or ``num_steps`` says otherwise.
    options
        The solver's: ``first_step``, ``max_step``, ``min_step``, ``step_size``, ``safety``, ``ifactor``, ``dfactor``,
        ``max_num_steps`` as there; ``num_steps``, ``outputs``, ``control``, ``sees``, ``tangent_seed``, ``compile``,
        ``coupling`` and ``eta`` of our own (see ``make_solver``).
    event_fn
        Not supported.
    gradient
        The gradient method, one of ``odegrad list methods``.
    gradient_options
        Its options, for example ``{"num_nodes": 16}`` for ``interpolation``.
    tap
        Watches states and costates of the backward pass: what ``SNOpt.next_tap()`` returns.

    Returns
    -------
    State
        The solution at ``t``, ``[K, *state]`` or a tuple of such; the first row is ``y0``.

    Raises
    ------
    UsageError
        If an argument is not what is said here, or two of them do not go together.
    SolverError
        If the solve cannot go on.
    """
    if event_fn is not None:
        raise UnsupportedError("event_fn: expected None, events are not supported; use torchdiffeq.odeint_event")
    found = tapped(build_gradient(gradient, gradient_options), tap)
    if isinstance(func, MethodType) and isinstance(func.__self__, nn.Module):
        func = _OfModule(func)
    if isinstance(t, Tensor) and t.shape == (1,) and isinstance(y0, (Tensor, tuple)):
        return mapped(y0, lambda part: part[None])
    solver = _solver(method, rtol, atol, options)
    if "outputs" not in (options or {}) and isinstance(t, Tensor) and t.numel() > LANDED_OUTPUTS:
        solver = _with_many_outputs(solver, found)
    return found(func, solver, y0, t)  # type: ignore[arg-type]


def odeint_adjoint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: object = None,
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Sequence[Tensor] | None = None,
) -> State:
    """Solve as ``odeint`` does, with the adjoint method; drop-in for ``torchdiffeq.odeint_adjoint``.

    Parameters
    ----------
    func, y0, t, rtol, atol, method, options, event_fn
        See ``odeint``.
    adjoint_rtol, adjoint_atol
        Tolerances of the backward solve; those of the forward one if None.
    adjoint_method
        Solver of the backward solve; the forward one if None.
    adjoint_options
        ``{"norm": "seminorm"}`` leaves the parameter gradient out of the error norm (Kidger et al. 2021); it is out of
        the solved state anyway unless this is given.
    adjoint_params
        What ``func`` depends on, where it is no ``nn.Module``, or where only some of its parameters are wanted.

    Returns
    -------
    State
        As ``odeint``.

    Raises
    ------
    UsageError
        If an argument is not what is said here.
    SolverError
        If a solve cannot go on.
    """
    extra = dict(adjoint_options or {})
    seminorm = extra.pop("norm", None)
    if extra or seminorm not in (None, "seminorm"):
        raise UsageError(
            f"adjoint_options: expected {{'norm': 'seminorm'}} or nothing, got {dict(adjoint_options or {})}"
        )
    backward = {"rtol": adjoint_rtol, "atol": adjoint_atol, "solver": adjoint_method}
    return odeint(
        func if adjoint_params is None else _WithParameters(func, adjoint_params),
        y0,
        t,
        rtol=rtol,
        atol=atol,
        method=method,
        options=options,
        event_fn=event_fn,
        gradient="adjoint" if seminorm is None else "adjoint_seminorm",
        gradient_options={k: v for k, v in backward.items() if v is not None},
    )


class _OfModule(nn.Module):
    """A method of a module, as a field with that module's parameters."""

    def __init__(self, method: MethodType) -> None:
        super().__init__()
        self.module: nn.Module = method.__self__  # type: ignore[assignment]
        self.method = method

    def forward(self, t: Tensor, y: Any) -> Any:
        return self.method(t, y)


class _WithParameters(nn.Module):
    """A function with the tensors that it depends on."""

    def __init__(self, func: Func, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.func = func
        self.tensors = tuple(tensors)
        if not all(isinstance(x, Tensor) for x in self.tensors):
            raise UsageError(f"adjoint_params: expected tensors, got {[type(x).__name__ for x in self.tensors]}")

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:  # noqa: ARG002
        yield from self.tensors  # type: ignore[misc]

    def forward(self, t: Tensor, y: Any) -> Any:
        return self.func(t, y)


def regularised(
    regularisers: Mapping[str, Scalar],
    *,
    gradient: str = "naive",
    gradient_options: Mapping[str, Scalar] | None = None,
    method: str = "dopri5",
    rtol: float = 1e-7,
    atol: float = 1e-9,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> RegularisedSolve:
    """Return a solve that gathers penalties on the dynamics, for a training loop of one's own.

    ``ys = solve(func, y0, t)`` solves as ``odeint`` does; ``(loss + solve.penalty()).backward()`` pulls both back, and
    the next iteration begins. For evaluations take ``odeint``.

    Parameters
    ----------
    regularisers
        Name -> weight, of ``odegrad list regularisers``, and options behind a dot:
        ``{"kinetic": 0.01, "taylor": 0.01, "taylor.order": 3}``.
    gradient, gradient_options, method, rtol, atol, options
        As ``odeint``.
    seed
        Of the random numbers; they depend on it and on the iteration alone.

    Raises
    ------
    UsageError
        If an argument is not what is said here.
    UnsupportedError
        If a penalty cannot go with the gradient method or the solver.
    """
    built = build_gradient(gradient, gradient_options)
    return RegularisedSolve(built, _solver(method, rtol, atol, options), Regularisers.of(regularisers), seed)


def _with_many_outputs(solver: OneStepSolver, method: GradientMethod) -> OneStepSolver:
    """Return the solver that reads outputs between its steps, where it and the gradient method can."""
    if not (solver.adaptive and solver.has_dense_output):
        return solver
    dense = dataclasses.replace(solver, outputs="dense")
    return solver if method.refuses(dense) is not None else dense


def _solver(method: str | None, rtol: Any, atol: Any, options: Mapping[str, Any] | None) -> OneStepSolver:
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not (isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)):
            raise UsageError(f"{name}: expected one number, got {type(value).__name__}; scale the state's parts")
    renamed = {}
    for key, value in (options or {}).items():
        if key in NOTHING_TO_DO and value in NOTHING_TO_DO[key]:
            continue
        if key in ELSEWHERE:
            raise UnsupportedError(f"options: {key!r} of torchdiffeq is not an option here: {ELSEWHERE[key]}")
        plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        renamed[RENAMED.get(key, key)] = plain
    if isinstance(renamed.get("max_steps"), float):
        renamed["max_steps"] = int(renamed["max_steps"])
    return build_solver(
        SOLVERS_RENAMED.get(method or "", method) or "dopri5", float(rtol), float(atol) or MIN_ATOL, renamed
    )
