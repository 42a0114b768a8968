"""The user's event function on flat states: its value, its derivatives, and what it must not be."""

import math
from dataclasses import dataclass
from types import MethodType

import torch
from torch import Tensor, nn

from odegrad.contracts import told
from odegrad.errors import NonFiniteError, UsageError
from odegrad.event import Event
from odegrad.methods.fields.closures import leaves
from odegrad.methods.fields.held import Held
from odegrad.methods.solvers.dynamics import FlatField

ROUNDED = 16
"""So many units in the last place of the state are rounding errors."""


@dataclass(frozen=True)
class Linearised:
    """An event function at one time and ``state [d]``: its value, ``g_t``, and ``g_y [d]``."""

    value: float
    by_time: float
    by_state: Tensor
    state: Tensor

    @property
    def rounding(self) -> float:
        """How large g may be by rounding errors of the state alone; a read of the device."""
        eps = float(torch.finfo(self.state.dtype).eps)
        return ROUNDED * eps * float(torch.dot(self.by_state.abs(), self.state.abs()))

    def rate(self, f: Tensor) -> float:
        """Return ``q = g_t + g_y . f``, how fast g changes along the solution."""
        return self.by_time + float(torch.dot(self.by_state, f))


class EventFunction:
    """``g(t, y)`` for one solve, on the flat states of ``field``; counts its evaluations.

    It is evaluated with a graph throughout, outside of autocast, so that it may call autograd itself.
    """

    def __init__(self, event: Event, field: FlatField) -> None:
        self.event = event
        self.field = field
        self.evaluations = 0
        self._wanted = torch.is_grad_enabled()
        own = _trained(event.event_fn)
        self.trained = list(own.values())
        """What g's own gradient goes to."""
        self._known = own | _trained(field.field)

    def values(self, times: list[float], states: Tensor) -> list[float]:
        """Return g at each of ``times``, with ``states [m, d]``; one read of the device. They may be infinite."""
        # One read for all of them: a read of its own for each sign would make a GPU wait so often.
        found = [self._at(t, y)[0].detach() for t, y in zip(times, states, strict=True)]
        values: list[float] = torch.stack(found).tolist()
        return values

    def linearised(self, t: float, y: Tensor) -> Linearised:
        """Return g and its derivatives at ``(t, y [d])``; refuses what its graph must not reach.

        Raises
        ------
        NonFiniteError
            If g is not finite.
        UsageError
            If it is not one number, or depends on a trained tensor that neither it nor the field holds.
        """
        value, time, state = self._at(t, y)
        if self._wanted:
            self._refuse_closures(value, (time, state))
        by_time, by_state = _derivatives(value, time, state)
        return Linearised(self.refuse_infinite(t, float(value.detach())), float(by_time), by_state, y.detach())

    def with_derivatives(self, t: float, y: Tensor) -> tuple[Tensor, float, Tensor]:
        """Return g at ``(t, y [d])``, 0-d with the graph to ``y`` and its own parameters, ``g_t`` and ``g_y [d]``."""
        self.evaluations += 1
        with torch.enable_grad():
            time = self.field.time(t).requires_grad_()
            state = y if y.requires_grad else y.detach().requires_grad_()
            value = self._value(time, state)
        by_time, by_state = _derivatives(value, time, state)
        return value, float(by_time), by_state

    def _at(self, t: float, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return g at ``(t, y [d])`` with a graph, and the leaves that it was called with."""
        self.evaluations += 1
        with torch.inference_mode(mode=False), torch.enable_grad():
            time = self.field.time(t).requires_grad_()
            state = (y.clone() if y.is_inference() else y.detach()).requires_grad_()
            return self._value(time, state), time, state

    def _value(self, time: Tensor, state: Tensor) -> Tensor:
        try:
            value = told("event_fn", "event_fn(t, y)", self.event.event_fn, time, self.field.layout.unflatten(state))
        except RuntimeError as error:
            # Both are leaves or views of one here, into which PyTorch lets nobody write.
            if "used in an in-place operation" in str(error):
                raise UsageError(
                    "event_fn: it writes into the time or the state that it is given (an in-place operation), which "
                    "the solver still needs; let it work on a copy, y = y.clone()"
                ) from error
            raise
        return self._checked(value)

    def _checked(self, value: object) -> Tensor:
        if isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point():
            return value.reshape(())
        if isinstance(value, Tensor) and value.numel() != 1:
            raise UsageError(
                f"event_fn: expected one number, got a tensor of shape {tuple(value.shape)}; which of them ends the "
                "solve of the whole batch? Return their product or minimum, or solve sample by sample"
            )
        got = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(f"event_fn: expected one floating-point number as a tensor, got {got}")

    def refuse_infinite(self, t: float, value: float) -> float:
        """Return ``value`` at ``t``.

        Raises
        ------
        NonFiniteError
            If it is not finite.
        """
        if not math.isfinite(value):
            raise NonFiniteError(
                f"event_fn: it is {value} at t = {t:g}; bound it (a pole: multiply by its denominator), or check the "
                "state for NaN or infinity there"
            )
        return value

    def _refuse_closures(self, value: Tensor, called_with: tuple[Tensor, ...]) -> None:
        """Raise if g depends on a trained tensor that neither it nor the field holds.

        Raises
        ------
        UsageError
            If it does.
        """
        known = self._known | {id(x): x for x in called_with}
        for leaf in leaves([value], {None, *(x.grad_fn for x in known.values())}):
            if id(leaf) not in known:
                raise UsageError(
                    f"event_fn: it depends on a tensor of shape {tuple(leaf.shape)} that requires a gradient and is "
                    "neither its own parameter nor the field's (reached through a closure); make it an nn.Module that "
                    "holds the tensor (self.name = tensor), or part of the state"
                )


def _derivatives(value: Tensor, time: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``value`` differentiated by both; its graph stays."""
    if not value.requires_grad:
        return torch.zeros_like(time), torch.zeros_like(state)
    by_time, by_state = torch.autograd.grad(
        value, (time, state), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return by_time, by_state


def _trained(function: object) -> dict[int, Tensor]:
    """Return the tensors with a gradient that a module holds, or the module that ``function`` is a method of."""
    owner = function.__self__ if isinstance(function, MethodType) else function
    if not isinstance(owner, nn.Module):
        return {}
    held = {id(x): x for x in owner.parameters()} | Held(owner).tensors
    return {key: x for key, x in held.items() if x.requires_grad}
