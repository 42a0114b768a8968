"""torchdiffeq's callbacks: functions of a field that hear of the steps of a solve."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from odegrad.contracts import refuse_arity
from odegrad.errors import UnsupportedError
from odegrad.states import Layout

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")
"""What is called before an attempted step, and after one that was accepted or rejected: ``(t, y, h)``."""


class StepCallbacks:
    """The callbacks of one field, called with time and step size as 0-d tensors and the state in the user's shapes.

    As in torchdiffeq the time is that of the step's start, the size is positive in decreasing time too, and fixed steps
    are told of before them only.
    """

    def __init__(self, found: Mapping[str, Callable[..., object]], layout: Layout) -> None:
        self._found = found
        self._layout = layout
        self._d = sum(layout.sizes)

    @classmethod
    def of(cls, field: object, layout: Layout) -> "StepCallbacks | None":
        """Return those of ``field``, None if it has none.

        Raises
        ------
        UnsupportedError
            If it has one of a backward solve.
        UsageError
            If one is no function of three arguments.
        """
        # Looked for on the class and the instance, since a module searches long for an attribute that it does not have.
        own = getattr(field, "__dict__", {})
        found = {}
        for name in CALLBACKS:
            adjoint = f"{name}_adjoint"
            if adjoint in own or hasattr(type(field), adjoint):
                raise UnsupportedError(
                    f"field: {adjoint} is a callback of torchdiffeq's backward solve, whose state is another one here; "
                    "remove it, and give the solver an observer, solver.observed_by(...), which hears of every step"
                )
            if name in own or hasattr(type(field), name):
                found[name] = getattr(field, name)
                refuse_arity(f"field: {name}", f"{name}(t, y, h)", found[name], 3)
        return cls(found, layout) if found else None

    def attempted(self, t: float, y: Tensor, h: float) -> None:
        """Tell of a step before it is attempted; ``y [d]`` is where it starts."""
        self._tell("callback_step", t, y, h)

    def judged(self, t: float, y: Tensor, h: float, *, accepted: bool) -> None:
        """Tell of an adaptive step that was accepted or rejected."""
        self._tell("callback_accept_step" if accepted else "callback_reject_step", t, y, h)

    def _tell(self, name: str, t: float, y: Tensor, h: float) -> None:
        if name in self._found:
            layout = self._layout
            with torch.no_grad():
                numbers = (torch.full((), x, dtype=torch.float64, device=layout.device) for x in (t, abs(h)))
                time, size = numbers
                self._found[name](time, layout.unflatten(y[: self._d].detach()), size)
