"""The dynamics: states and the vector field that moves them."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from typing_extensions import TypeVar

State = Tensor | tuple[Tensor, ...]
"""A state ``[batch, *state]`` or a tuple of such; solutions carry a leading ``[time]``."""

StateT = TypeVar("StateT", bound=State)
"""The kind of one state: a tensor gives a tensor, a tuple a tuple of as many."""


@runtime_checkable
class VectorField(Protocol):
    """The dynamics ``f(t, y) -> dy/dt``, an ``nn.Module``: ``t`` is a 0-d tensor, ``y`` and ``dy/dt`` are states.

    A field with an attribute ``sample_time = True`` takes ``t`` as ``[batch, 1, ..., 1]`` too, with as many dimensions
    as ``y``: where samples have steps of their own it is called so, on any number of them.
    """

    def __call__(self, t: Tensor, y: StateT, /) -> StateT:
        """Return ``dy/dt`` with the structure and shapes of ``y``."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield every parameter that ``f`` depends on.

        Trained tensors among its attributes are found as well; one reached through a closure is refused.
        """
        ...


@runtime_checkable
class Bounded(Protocol):
    """A module that a field reads, such as a path through data, and that is known from one time to another only."""

    known_between: tuple[float, float] | None
    """The first and the last time, an attribute of the module itself; None where it is known at all times.

    A solve that leaves them is refused before it starts.
    """


HALVES = ("stiff", "rest")
"""The methods of a field that is split into two, each of ``(t, y)`` as the field itself, which is their sum."""


@runtime_checkable
class CarriesMore(Protocol):
    """A vector field on tuples that hold more than what moves: integrals along the solution, constants."""

    moving: int
    """How many of the first parts move; a regulariser, which is of the dynamics, looks at these alone."""
    unjudged: int
    """How many of the last parts no step is judged by: what is only measured must not move the accepted grid."""


def unjudged_parts(field: object) -> int:
    """Return how many of the last parts of the state are outside of the error norm on ``field``."""
    # Not isinstance, which looks the protocol's members up at every solve.
    return int(getattr(field, "unjudged", 0))


def pass_on(field: object, wrapper: object) -> None:
    """Let ``wrapper``, a field that calls ``field``, say the same of its state and time: else its steps are others."""
    for name in ("moving", "unjudged", "sample_time"):
        if hasattr(field, name):
            setattr(wrapper, name, getattr(field, name))


@runtime_checkable
class CallsHeard(Protocol):
    """A field that counts its calls, and is told of those that happen where its own code does not run."""

    inner: object
    """The field that is counted."""

    def heard_call(self) -> None:
        """Count a call."""
        ...

    def heard_product(self) -> None:
        """Count a vector-Jacobian product."""
        ...
