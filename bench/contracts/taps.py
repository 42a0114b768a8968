"""The tap, who offers one, and who learns from its samples."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from odegrad.contracts.fields import State, VectorField
from odegrad.contracts.methods import GradientMethod, Solve


class Tap(Protocol):
    """Watches costates on their way back (curvature samples); never changes the gradient."""

    def sample_times(self, t0: float, t1: float) -> Sequence[float]:
        """Return the wanted sample times in ``[t0, t1]``; methods that sample at step ends ignore them."""
        ...

    def observe(self, field: VectorField, t: float, y: State, a: State, weight: float) -> None:
        """Take one sample.

        ``y`` is the state and ``a = dL/dy`` the costate at time ``t``, both detached and of the same structure;
        ``weight`` is the quadrature weight (in units of time) that turns the sum over samples into an integral.
        """
        ...


@runtime_checkable
class SamplingObserver(Protocol):
    """A tap that wants to know which work of a method is for its samples alone."""

    def sampling(self) -> AbstractContextManager[None]:
        """Return a context in which everything is done for the next sample."""
        ...


@runtime_checkable
class Tappable(Protocol):
    """A gradient method that offers taps."""

    def with_tap(self, tap: Tap) -> GradientMethod:
        """Return the same method with ``tap`` watching its backward pass."""
        ...


@runtime_checkable
class CurvatureConsumer(Protocol):
    """An optimizer that learns from curvature samples (SNOpt)."""

    def next_tap(self) -> Tap | None:
        """Return the tap for the coming backward pass, or None if this iteration needs no samples.

        Called once per iteration, before the forward pass.
        """
        ...


@runtime_checkable
class CurvaturePasses(Protocol):
    """An optimizer that may take its curvature samples by backward passes of its own, beside the loss's."""

    def sample(self, solve: Solve, batch: object) -> bool:
        """Take the samples of the tap of ``next_tap()``, which watches ``solve``, and leave everything else as it was.

        Called before the loss's forward pass where there is a tap. Return False if the loss's own backward pass is to
        take them; then nothing has been done.
        """
        ...
