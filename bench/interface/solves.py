"""``odeint`` and ``odeint_adjoint`` with torchdiffeq's arguments, on odegrad's solvers and gradient methods."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from torch import Tensor

from odegrad.binding import tapped
from odegrad.contracts import GradientMethod, Scalar, State, StateT, Tap, ending_at_events, taking_jumps
from odegrad.errors import UnsupportedError, UsageError
from odegrad.event import Event, EventFn
from odegrad.interface.arguments import Func, WithParameters, field_of, solver_of
from odegrad.methods.backward.continuous import ContinuousMethod
from odegrad.methods.events.jumps import Jump, Reset, field_jumps, resets, solve_over_jumps
from odegrad.methods.events.until_over_jumps import until_over_jumps
from odegrad.methods.peers.torchdiffeq_solvers import OF_TORCHDIFFEQ, solve_as_torchdiffeq
from odegrad.methods.solvers.one_step.options import PerPart
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.times import checked_times
from odegrad.registry import build_gradient
from odegrad.states import mapped


class _TimeAndSolution(NamedTuple):
    event_t: Tensor
    """Its time, 0-d."""
    solution: State
    """The states ``[2, *state]``, or a tuple of such, at the start and just before the event."""


class EventSolution(_TimeAndSolution):
    """Where a solve has ended at an event: time and solution, as in torchdiffeq."""

    found: bool = True
    """False where there was no event up to ``t_max``, at which the solve has ended then."""


def odeint(
    func: Func[StateT],
    y0: StateT,
    t: Tensor,
    *,
    rtol: PerPart = 1e-7,
    atol: PerPart = 1e-9,
    method: str | None = None,
    options: Mapping[str, object] | None = None,
    event_fn: EventFn | None = None,
    jumps: Iterable[tuple[float | Tensor, Reset]] = (),
    gradient: str = "naive",
    gradient_options: Mapping[str, Scalar] | None = None,
    adjoint_params: Sequence[Tensor] | None = None,
    tap: Tap | None = None,
) -> StateT:
    """Solve ``dy/dt = func(t, y)``, ``y(t[0]) = y0``; drop-in for ``torchdiffeq.odeint`` with a choice of gradient.

    Parameters
    ----------
    func
        The dynamics; an ``nn.Module``, or a method of one, for every gradient method but ``naive``, so that its
        parameters are known, or else ``adjoint_params``.
    y0
        Initial state: a tensor of any shape, or a tuple of tensors.
    t
        Output times ``[K]``, strictly monotone; may require a gradient. At one time alone the solution is ``y0``.
        ``[batch, K]``, a row a sample, with
        ``options={"batch": "per_sample"}``; a row may repeat its last time.
    rtol, atol
        Tolerances of the adaptive solvers: a number, a tensor that broadcasts to ``y0``, or one of either for each part
        of a tuple. One ``atol`` for all may be 0.
    method
        The solver, as there: ``dopri5`` (default), ``tsit5``, ``dopri8``, ``bosh3``, ``fehlberg2``, ``adaptive_heun``,
        ``rk4`` (Kutta's, not the 3/8 rule), ``heun3``, ``midpoint``, ``heun2``, ``euler``, and those of our own. A
        method of fixed steps takes one step for each interval of ``t`` unless an option says otherwise. Adams methods
        and ``scipy_solver`` are torchdiffeq's own, for gradients ``naive`` and ``adjoint``.
    options
        ``jump_t``: times at which ``func`` jumps, the state does not; steps end there, and see the limits of ``func``.
        ``norm``, ``step_t``, ``grid_constructor``, ``min_step``, ``first_step``, ``max_step``, ``step_size``,
        ``safety``, ``ifactor``, ``dfactor``, ``max_num_steps``, ``perturb`` as there; ``outputs`` (``auto``: outputs
        inside the interval are read from the dense output where that is as good as the steps, as ``dopri5``'s is;
        ``step_ends``: each ends a step, which is more exact and costs more; ``dense``), ``num_steps``, ``control``,
        ``sees``, ``tangent_seed``, ``compile``, ``coupling``, ``eta``, ``batch``, ``compaction`` and ``precision`` of
        our own (see ``make_solver``). With ``precision="bfloat16"``, or ``float16``, ``func`` alone computes in it.
        With ``batch="per_sample"`` every sample of ``y0 [batch, ...]`` has its own steps and error.
    event_fn
        Ends the solve where ``event_fn(t, y)``, one number, crosses zero; ``t`` is then start and way, ``[2]``. As in
        torchdiffeq the event's time has no gradient here: see ``odeint_event``.
    jumps
        Pairs of a time, a number or a tensor that may require a gradient, and a function: ``reset(t, y)`` replaces the
        state there. An output at this time is the state before.
    gradient
        The gradient method, one of ``odegrad list methods``.
    gradient_options
        Its options, for example ``{"num_nodes": 16}`` for ``interpolation``.
    adjoint_params
        What ``func`` depends on, where it is a function that another gradient method than ``naive`` is to
        differentiate; or those of a module's parameters that are wanted. ``func`` must
        read these very tensors in the backward pass too.
    tap
        Watches states and costates of the backward pass: what ``SNOpt.next_tap()`` returns.

    Returns
    -------
    State
        The solution at ``t``, ``[K, *state]`` or a tuple of such; the first row is ``y0``. With ``event_fn`` the time
        of the event, 0-d, and the solution there, ``[2, *state]``.

    Raises
    ------
    UsageError
        If an argument is not what is said here, or two of them do not go together.
    SolverError
        If the solve cannot go on.
    """
    found = tapped(build_gradient(gradient, gradient_options), tap)
    field = _with_parameters(func, adjoint_params)
    return _solved(found, field, y0, t, _Told(method, rtol, atol, options), event_fn, jumps)


def _with_parameters(func: Func[StateT], adjoint_params: Iterable[Tensor] | None) -> Func[StateT]:
    """Return ``func``, which knows what it is to be differentiated by."""
    return func if adjoint_params is None else WithParameters(func, adjoint_params)


@dataclass(frozen=True)
class _Told:
    """How to step, in torchdiffeq's arguments."""

    method: str | None
    rtol: PerPart
    atol: PerPart
    options: Mapping[str, Any] | None


def _solved(
    found: GradientMethod,
    func: Func[StateT],
    y0: StateT,
    t: Tensor,
    told: _Told,
    event_fn: EventFn | None,
    jumps: Iterable[tuple[float | Tensor, Reset]],
) -> StateT:
    """Return what ``odeint`` does, by the gradient method ``found``."""
    options = dict(told.options or {})
    if told.method in OF_TORCHDIFFEQ:
        if event_fn is not None or list(jumps):
            raise UnsupportedError(f"event_fn, jumps: not with method {told.method} of torchdiffeq; use dopri5")
        if options.get("precision"):
            raise UnsupportedError(
                f"options: precision is not for method {told.method} of torchdiffeq, whose field computes in the type "
                "of the state; leave it out, or use dopri5"
            )
        field, (rtol, atol) = field_of(func), (told.rtol, told.atol)
        of_other = solve_as_torchdiffeq(
            found, field, y0, t, method=told.method or "", rtol=rtol, atol=atol, options=options
        )
        return cast("StateT", of_other)
    times = [*field_jumps(options.pop("jump_t", ())), *resets(jumps)]
    field, solver = field_of(func), solver_of(told.method, told.rtol, told.atol, options, (func, y0, t))
    if event_fn is not None:
        return cast("StateT", _until(found, field, solver, y0, t, event_fn, times))
    if times:
        taking_jumps(found)
        return cast("StateT", solve_over_jumps(found, field, solver, y0, t, times))
    if isinstance(t, Tensor) and t.shape == (1,) and isinstance(y0, (Tensor, tuple)):
        return mapped(y0, lambda part: part[None])
    return found(field, solver, y0, t)


def _until(
    found: GradientMethod,
    field: Any,
    solver: OneStepSolver,
    y0: State,
    t: Tensor,
    event_fn: EventFn,
    jumps: Sequence[Jump],
) -> EventSolution:
    """Return the time of the event and the states at the start and there, from times ``t [2]`` that tell the way."""
    start, way = checked_times(t)[:2]
    if len(t) != 2:
        raise UsageError(
            f"t: expected two times with event_fn, of which the second tells the way only, got {len(t)}; solve on to "
            "output times behind the event by a second call"
        )
    event = event_fn if isinstance(event_fn, Event) else Event(event_fn, differentiated=False)
    end = until_over_jumps(ending_at_events(found), field, solver, y0, t[0], event, jumps, reverse=way < start)
    solution = EventSolution(end.time, end.states)
    solution.found = end.found
    return solution


def odeint_adjoint(
    func: Func[StateT],
    y0: StateT,
    t: Tensor,
    *,
    rtol: PerPart = 1e-7,
    atol: PerPart = 1e-9,
    method: str | None = None,
    options: Mapping[str, object] | None = None,
    event_fn: EventFn | None = None,
    jumps: Iterable[tuple[float | Tensor, Reset]] = (),
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, object] | None = None,
    adjoint_params: Sequence[Tensor] | None = None,
) -> StateT:
    """Solve as ``odeint`` does, with the adjoint method; drop-in for ``torchdiffeq.odeint_adjoint``.

    Parameters
    ----------
    func, y0, t, rtol, atol, method, options, event_fn, jumps
        See ``odeint``.
    adjoint_rtol, adjoint_atol
        Tolerances of the backward solve; those of the forward one if None.
    adjoint_method
        Solver of the backward solve; the forward one if None.
    adjoint_options
        ``{"norm": "seminorm"}`` leaves the parameter gradient out of the error norm (Kidger et al. 2021); it is out of
        the solved state anyway unless this is given. A function is the norm of the backward state, a tuple
        ``(t, y, adj_y, *adj_params)``, of a tuple of states ``(t, *y, *adj_y, *adj_params)``, as there. Other options
        are those of the backward solver, instead of ``options``.
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
    norm = extra.get("norm")
    if norm is None or norm == "seminorm":
        extra.pop("norm", None)
    elif not callable(norm):
        raise UsageError(
            "adjoint_options: expected norm = 'seminorm', or a function of the backward state (t, y, adj_y, "
            f"*adj_params), got {norm if isinstance(norm, str) else type(norm).__name__}; leave it out for ours"
        )
    adjoint_rtol, adjoint_atol = _number("adjoint_rtol", adjoint_rtol), _number("adjoint_atol", adjoint_atol)
    given: dict[str, Scalar | None] = {"rtol": adjoint_rtol, "atol": adjoint_atol, "solver": adjoint_method}
    if extra:
        given = {}
    if callable(norm):
        # It is to see what it would see there: the parameters' gradients too, and costates in the loss's own units.
        given |= {"parameters": "state", "normalize_costate": False}
    kind = "adjoint_seminorm" if norm == "seminorm" else "adjoint"
    found = build_gradient(kind, {k: v for k, v in given.items() if v is not None})
    field = _with_parameters(func, adjoint_params)
    if extra and isinstance(found, ContinuousMethod):
        found = found.solving_back_with(
            solver_of(
                adjoint_method or method,
                rtol if adjoint_rtol is None else adjoint_rtol,
                atol if adjoint_atol is None else adjoint_atol,
                _backward_options(extra),
                (func, y0, t),
            )
        )
    return _solved(found, field, y0, t, _Told(method, rtol, atol, options), event_fn, jumps)


def _number(name: str, value: object) -> float | None:
    """Return a tolerance of the backward solve, a number or None."""
    plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if plain is not None and (isinstance(plain, bool) or not isinstance(plain, (int, float))):
        got = f"a tensor of shape {tuple(plain.shape)}" if isinstance(plain, Tensor) else type(plain).__name__
        raise UsageError(f"{name}: expected one number or None, got {got}; give the least of them")
    return plain


def _backward_options(options: Mapping[str, object]) -> Mapping[str, object]:
    """Return the options of a backward solve."""
    for name in ("jump_t", "grid_constructor", "precision"):
        if name in options:
            raise UnsupportedError(
                f"adjoint_options: {name!r} is taken from options and holds for both solves; leave it out there"
            )
    return options
