"""What ends a solve: a function of time and state that crosses zero, and how it is looked for."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from odegrad.errors import UsageError

EventFn = Callable[[Tensor, Any], Tensor]
"""``g(t, y)``, one number."""

CrossingDirection = Literal[-1, 0, 1]


@dataclass(frozen=True)
class Event:
    """The end of a solve where ``event_fn(t, y)`` crosses zero.

    Parameters
    ----------
    event_fn
        ``g(t, y)``: one number, of the time and the state that the field sees. Its parameters are those of the
        ``nn.Module`` that it is, or is a method of.
    t_max
        No event is looked for behind it: a number, or a tensor of one, by which the state there has a gradient where
        the event is not required. None for no limit but the solver's ``max_steps``.
    direction
        1: only where g rises along the solve, -1: only where it falls, 0: both.
    first_excluded
        Whether a zero at the start itself, where the last event was, is left out.
    event_samples
        How many times inside of each step g is looked at, on the dense output: two crossings in one step are found if
        one of these lies between them.
    differentiated
        Whether the solution moves with the time of the event. False as in ``torchdiffeq.odeint``: the time has no
        gradient, and the last state that at a fixed time.
    required
        Whether it is an error that there is none up to ``t_max``; False ends the solve there.

    Raises
    ------
    UsageError
        If an argument is out of range.
    """

    event_fn: EventFn
    t_max: float | Tensor | None = None
    direction: CrossingDirection = 0
    first_excluded: bool = True
    event_samples: int = 3
    differentiated: bool = True
    required: bool = True
    limit: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    """``t_max`` as it was given, where that is a tensor."""

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not callable(self.event_fn) or isinstance(self.event_fn, Event):
            raise UsageError(
                f"event_fn: expected a function of time and state, or an nn.Module, got {type(self.event_fn).__name__}"
            )
        if self.t_max is not None:
            if isinstance(self.t_max, Tensor):
                object.__setattr__(self, "limit", self.t_max)
                object.__setattr__(self, "t_max", self.t_max.detach())
            object.__setattr__(self, "t_max", float(self.t_max))
            if not math.isfinite(self.t_max):
                raise UsageError(f"t_max: expected a finite time or None, got {self.t_max!r}")
        if self.direction not in (-1, 0, 1):
            raise UsageError(f"direction: expected -1 (falling), 0 (both) or 1 (rising), got {self.direction!r}")
        if not isinstance(self.first_excluded, bool):
            raise UsageError(f"first_excluded: expected True or False, got {self.first_excluded!r}")
        if not isinstance(self.required, bool):
            raise UsageError(f"required: expected True or False, got {self.required!r}")
        if not self.required and self.t_max is None:
            raise UsageError("required: expected True without t_max, got False; give t_max, where the solve ends then")
        if not isinstance(self.event_samples, int) or self.event_samples < 0:
            raise UsageError(f"event_samples: expected a whole number of at least 0, got {self.event_samples!r}")

    def __call__(self, t: Tensor, y: object) -> Tensor:
        """Return ``g(t, y)``."""
        return self.event_fn(t, y)
