"""Who hears of the steps of a solve, and of the work they were."""

from typing import Protocol, runtime_checkable

from odegrad.contracts.work import ImplicitWork, RowCounts


class StepObserver(Protocol):
    """Hears of every attempted step of a solve; ``t`` is the step's start, ``h`` its signed size."""

    def accepted(self, t: float, h: float) -> None:
        """Hear of an accepted step."""
        ...

    def rejected(self, t: float, h: float) -> None:
        """Hear of a rejected step."""
        ...


@runtime_checkable
class WorkObserver(Protocol):
    """An observer of steps that also hears of the work of implicit ones."""

    def worked(self, work: ImplicitWork) -> None:
        """Hear of the work of an attempt, of a step that was redone, or of a pull-back."""
        ...


@runtime_checkable
class RowObserver(Protocol):
    """An observer of steps that also hears of the rounds of a solve whose samples have steps of their own."""

    def solved_in_rounds(self, counts: RowCounts) -> None:
        """Hear of a solve that has ended."""
        ...


@runtime_checkable
class EventObserver(Protocol):
    """A step observer that also hears of the events that solves end at."""

    def ended(self, landings: int, evaluations: int) -> None:
        """Hear that a solve has landed on its event.

        Its last step was redone ``landings`` times, ``s`` f calls each, and the event function evaluated so often.
        """
        ...


@runtime_checkable
class ScaleObserver(Protocol):
    """A step observer that also hears how a backward pass has scaled the cotangents of a field in float16."""

    def scaled(self, log2: int, retries: int) -> None:
        """Hear of a backward pass: log2 of its last scale, and how often it was done again after an overflow."""
        ...


@runtime_checkable
class ReconstructionObserver(Protocol):
    """A step observer that also hears how well a backward pass knew the state."""

    def reconstructed(self, error: float) -> None:
        """Hear how far the state of a backward pass was from the forward pass's, relative to the state's size.

        Called once per backward pass, by methods that solve the state back, invert steps or interpolate.
        """
        ...
