"""Solves over known times at which the state is reset or the field jumps: one solve from each to the next.

At a reset ``y+ = r(tau, y-)`` the costate is ``a- = r_y^T a+``, and ``dL/dtau = (r_y f- + r_t - f+) . a+``; where only
the field jumps r is the identity. Nothing of it is here: the reset is plain autograd, and the rest are the gradients by
start and end time that every solve has.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from odegrad.contracts import State, VectorField, told
from odegrad.errors import NonFiniteError, UnsupportedError, UsageError
from odegrad.methods.fields.interval import refuse_outside
from odegrad.methods.fields.surroundings import outside_of_their_transforms, outside_transforms
from odegrad.methods.solvers.control import StepSize
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.times import checked_times
from odegrad.states import mapped, parts

Reset = Callable[[Tensor, Any], Any]
"""``y+ = r(t, y-)``."""

OneSolve = Callable[[Any, Any, Any, Tensor], Any]
"""A solve without a jump inside: field, solver, ``y0``, times -> the solution, as a gradient method has them."""


@dataclass(frozen=True)
class Jump:
    """A time at which the field may jump, and the state too where there is a ``reset``."""

    tensor: Tensor
    """0-d; may require a gradient."""
    at: float
    reset: Reset | None = None


def field_jumps(times: object) -> list[Jump]:
    """Return the jumps of ``options={"jump_t": times}``: a tensor ``[m]``, or numbers.

    Raises
    ------
    UsageError
        If they are no finite times.
    """
    listed = times.reshape(-1) if isinstance(times, Tensor) else times
    if not isinstance(listed, Iterable) or isinstance(listed, (str, bytes)):
        raise UsageError(f"jump_t: expected times, a tensor or a sequence, got {type(times).__name__}")
    return [_jump("jump_t", time, None) for time in listed]


def resets(jumps: object) -> list[Jump]:
    """Return the jumps of ``jumps=[(tau, reset), ...]``.

    Raises
    ------
    UsageError
        If they are no pairs of a finite time and a function.
    """
    out = []
    for pair in jumps if isinstance(jumps, Iterable) else [jumps]:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not callable(pair[1]):
            raise UsageError(f"jumps: expected pairs (time, reset) with y = reset(t, y), got {pair!r:.80}")
        out.append(_jump("jumps", *pair))
    return out


def _jump(name: str, time: object, reset: Reset | None) -> Jump:
    one = isinstance(time, Tensor) and time.numel() == 1 and time.is_floating_point()
    if not one and not (isinstance(time, (int, float)) and not isinstance(time, bool)):
        raise UsageError(f"{name}: expected finite times, numbers or floating-point tensors of one, got {time!r:.80}")
    if isinstance(time, Tensor):
        tensor, at = time.reshape(()), float(time.detach())
    else:
        at = float(time)  # type: ignore[arg-type]
        with outside_transforms():
            tensor = torch.tensor(at, dtype=torch.float64)
    if not math.isfinite(at):
        raise UsageError(f"{name}: expected finite times, got {at!r}")
    return Jump(tensor, at, reset)


def solve_over_jumps(
    one: OneSolve, field: VectorField, solver: OneStepSolver, y0: State, ts: Tensor, jumps: Sequence[Jump]
) -> State:
    """Return the solution at ``ts``, ``[K, *state]``; an output at the time of a jump is the state before it.

    ``one`` does the solve from each jump to the next.

    Raises
    ------
    UsageError
        If a reset lies outside of the interval, two jumps cannot be told apart, or a reset returns something else.
    UnsupportedError
        If the solver compiles its steps, or gives samples steps of their own.
    """
    refuse_unseen_jumps(solver)
    refuse_outside(field, ts)
    times = checked_times(ts)
    by_their_times = partial(outside_of_their_transforms, [ts, *(jump.tensor for jump in jumps)])
    with by_their_times():
        jumps, start = on_times_of(ts, jumps), ts[:1]
    solver = dataclasses.replace(solver, carried=StepSize())
    y, rows, k = y0, [mapped(y0, lambda part: part[None])], 1
    since = None
    last = [jump.at for jump in jumps if jump.at == times[-1]]
    for jump in (*_inside(jumps, times), None):
        at = times[-1] if jump is None else jump.at
        if at != times[0]:
            stop = k + sum((t - at) * (times[1] - times[0]) <= 0 for t in times[k:])
            sides = (*([] if since is None else [since.at]), *(last if jump is None else [at]))
            with by_their_times():
                segment = torch.cat([start, ts[k:stop], *_end(jump, ts, times[stop - 1])])
            ys = one(field, dataclasses.replace(solver, one_sided=sides), y, segment)
            rows.append(_rows(ys, 1, 1 + stop - k))
            y, k = mapped(ys, lambda part: part[-1]), stop
        if jump is not None:
            y, since = after_jump(jump, y), jump
            with by_their_times():
                start = jump.tensor.reshape(1)
    joined = [torch.cat(column) for column in zip(*map(parts, rows), strict=True)]
    return joined[0] if isinstance(y0, Tensor) else tuple(joined)


def refuse_unseen_jumps(solver: OneStepSolver) -> None:
    """Raise where the steps of ``solver`` do not see the limits of a field.

    Raises
    ------
    UnsupportedError
        If they are compiled, or each sample's own.
    """
    if solver.per_sample:
        raise UnsupportedError(
            "jump_t, jumps: samples with steps of their own do not end one where the field or the state jumps; use "
            "batch = 'joint'"
        )
    if solver.compile:
        raise UnsupportedError(
            "jump_t, jumps: compiled steps do not see the limits of the field there; leave out compile"
        )


def _inside(jumps: Sequence[Jump], times: Sequence[float]) -> list[Jump]:
    """Return the jumps from the first time up to before the last one, in the order that a solve meets them."""
    ahead = math.copysign(1.0, times[-1] - times[0])
    within = [0 <= (jump.at - times[0]) * ahead < abs(times[-1] - times[0]) for jump in jumps]
    outside = [jump.at for jump, lies in zip(jumps, within, strict=True) if jump.reset is not None and not lies]
    if outside:
        raise UsageError(
            f"jumps: expected times from t[0] = {times[0]:g} up to before t[-1] = {times[-1]:g}, got {outside[0]:g}; "
            "leave it out, or solve further"
        )
    return in_order([jump for jump, lies in zip(jumps, within, strict=True) if lies], ahead)


def on_times_of(ts: Tensor, jumps: Sequence[Jump]) -> list[Jump]:
    """Return ``jumps`` with times of the type of ``ts``, as which a solve knows them."""
    return [_jump("jumps", jump.tensor.to(ts), jump.reset) for jump in jumps]


def in_order(jumps: Sequence[Jump], ahead: float) -> list[Jump]:
    """Return ``jumps`` as a solve meets them whose time runs by the sign of ``ahead``; those at one time are one.

    Raises
    ------
    UsageError
        If two are at one time, and gradients move them apart.
    """
    found: list[Jump] = []
    for jump in sorted(jumps, key=lambda each: each.at * ahead):
        if found and found[-1].at == jump.at:
            found[-1] = _joined(found[-1], jump)
        else:
            found.append(jump)
    return found


def _joined(one: Jump, other: Jump) -> Jump:
    """Return two jumps at the same time as one."""
    if one.tensor.requires_grad and other.tensor.requires_grad:
        raise UsageError(
            f"jumps: two of them are at t = {one.at:g}, and a gradient by both times is wanted; make one of them, or "
            "detach one time"
        )
    tensor = one.tensor if one.tensor.requires_grad else other.tensor
    if one.reset is None or other.reset is None:
        return Jump(tensor, one.at, one.reset or other.reset)
    if tensor.requires_grad:
        raise UsageError(
            f"jumps: two of them are at t = {one.at:g}, and a gradient by the time of one is wanted, which moves them "
            "apart; make one reset of both, or detach the time"
        )
    first, second = one.reset, other.reset
    return Jump(tensor, one.at, lambda t, y: second(t, first(t, y)))


def _end(jump: Jump | None, ts: Tensor, last_output: float) -> list[Tensor]:
    """Return the time that ends a segment, beside its outputs: that of the jump, if it is none of them."""
    if jump is None:
        return []
    if jump.at != last_output:
        return [jump.tensor.reshape(1)]
    if jump.tensor.requires_grad or ts.requires_grad:
        raise UsageError(
            f"jumps: t = {jump.at:g} is an output too, and a gradient by one of both times is wanted, which moves them "
            "apart; leave out the output, or detach both times"
        )
    return []


def _rows(ys: State, first: int, stop: int) -> State:
    return mapped(ys, lambda part: part[first:stop])


def after_jump(jump: Jump, y: State) -> State:
    """Return the state behind ``jump``.

    Raises
    ------
    UsageError
        If the reset does not return a state of the same structure, shapes and type, or takes other arguments.
    NonFiniteError
        If it returns numbers that are not finite.
    """
    if jump.reset is None:
        return y
    # A copy, for a reset may write into it: the state before the jump may be an output.
    after = told("jumps", "reset(t, y)", jump.reset, jump.tensor.to(parts(y)[0]), mapped(y, Tensor.clone))
    same = isinstance(after, Tensor) == isinstance(y, Tensor) and isinstance(after, (Tensor, tuple, list))
    if not same or [getattr(p, "shape", None) for p in parts(after)] != [p.shape for p in parts(y)]:
        raise UsageError(
            f"jumps: the reset at t = {jump.at:g} is expected to return a state of shape "
            f"{[tuple(p.shape) for p in parts(y)]}, got {type(after).__name__}"
            f"{[tuple(p.shape) for p in parts(after) if isinstance(p, Tensor)] if same else ''}; let it return all of y"
        )
    kinds = [part.dtype for part in parts(after)]
    if kinds != [part.dtype for part in parts(y)]:
        raise UsageError(
            f"jumps: the reset at t = {jump.at:g} is expected to return {parts(y)[0].dtype} as it is given, got "
            f"{kinds[0] if len(kinds) == 1 else kinds}; leave out what changes the type"
        )
    # On a GPU this would be a wait; there the next solve finds it out.
    if not all(bool(torch.isfinite(part.detach()).all()) for part in parts(after) if part.device.type == "cpu"):
        raise NonFiniteError(
            f"jumps: the reset at t = {jump.at:g} is expected to return finite numbers, got NaN or infinity; check "
            "what it computes of the state there"
        )
    return after if isinstance(after, Tensor) else tuple(after)
