"""The exception tree: every error that odegrad raises on purpose.

::

    OdegradError
    ├── UsageError (also ValueError)     what the caller passed cannot work
    │   ├── UnknownNameError             a name that no registry holds
    │   ├── SuiteError                   a suite file with a wrong key, type or value
    │   ├── ResultsError                 a results folder that cannot be used
    │   ├── BaselineError                a gate's baseline that cannot be used
    │   ├── HistoryError                 a history, or the commit of its results, that cannot be used
    │   └── UnsupportedError             a combination that a method states it cannot do
    ├── SolverError (also RuntimeError)  a solve that cannot go on
    │   ├── NonFiniteError               the field or the state is not finite
    │   ├── StepSizeUnderflowError       the step no longer changes the time
    │   ├── NewtonError                  an implicit stage that Newton's iteration does not solve
    │   ├── EventError                   an event that is not there, or that has no derivative
    │   └── TooManyStepsError            the step limit was reached
    ├── DataError                        a data set that is not there, cannot be fetched, or is not what it should be
    ├── InstrumentsError                 a clock, a counter or a certificate is not what it was
    └── InfrastructureError              the machine failed, not the method

Two are said and not raised, for a gradient that was computed all the same::

    InaccurateGradientWarning (UserWarning)  the backward pass used a state that is not the forward pass's
    └── MissedToleranceWarning               the same, off by less, but by far more than the tolerance asked for

One is said and not raised, for a batch of which some samples were solved all the same::

    FailedSamplesWarning (UserWarning)       samples with steps of their own that could not be solved to their end
"""

import difflib
from collections.abc import Iterable


class OdegradError(Exception):
    """Base of every error that odegrad raises on purpose."""


class UsageError(OdegradError, ValueError):
    """What the caller passed cannot work; the message says what to pass instead."""


class SuiteError(UsageError):
    """A suite file has a wrong key, type or value."""


class ResultsError(UsageError):
    """A results folder belongs to something else, or cannot be read or written."""


class BaselineError(UsageError):
    """A gate's baseline is missing, broken, of something else, or has nothing to compare."""


class HistoryError(UsageError):
    """A history is missing or broken, or what it needs of git is not there."""


class UnsupportedError(UsageError):
    """A combination that a method states it cannot do, with the reason."""


class DataError(OdegradError):
    """A data set is not there, cannot be fetched, or is not what it should be; the message says how to place it."""


_LISTS = {"method": "methods", "optimizer": "optimizers", "solver": "solvers", "task": "tasks", "suite": "suites"}
"""Last word of a kind -> what ``odegrad list`` lists it under."""
_FEW = 24
"""So many names are all told; of more, those that are near, and the command that lists all."""


class UnknownNameError(UsageError):
    """A name that no registry holds; the message names the nearest known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], of: str = "") -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
        lists = [
            f"odegrad list {listed}"
            for word, listed in _LISTS.items()
            if not of and word in kind.partition(" of ")[0].split()
        ]
        told = f"known are {', '.join(known)}" if known else "there are none"
        if lists:
            told = f"{' and '.join(lists)} {'tell' if len(lists) > 1 else 'tells'} all {len(known)}"
        elif len(known) > _FEW:
            told = f"known are {len(known)}, the first {', '.join(known[:_FEW])}"
        super().__init__(f"unknown {kind} {name!r}{of and f' of {of}'}: {hint}{told}")
        self.kind, self.name, self.near = kind, name, tuple(near)


class SolverError(OdegradError, RuntimeError):
    """A solve that cannot go on."""


class NonFiniteError(SolverError):
    """The field or the state is not finite."""


class StepSizeUnderflowError(SolverError):
    """The step is so small that it no longer changes the time."""


class NewtonError(SolverError):
    """Newton's iteration does not solve a stage of an implicit step."""


class EventError(SolverError):
    """An event that the solve does not reach, that is grazed, or that comes again without end."""


class TooManyStepsError(SolverError):
    """The step limit was reached before the end of the interval."""


class InstrumentsError(OdegradError):
    """The measured code has replaced a clock, a counter or the certificate; nothing that was measured counts."""


class InfrastructureError(OdegradError):
    """The machine failed (worker not started, disk full), not the method."""


class InaccurateGradientWarning(UserWarning):
    """A backward pass used a state that is far from the forward pass's: its gradient is not to be trusted."""


class MissedToleranceWarning(InaccurateGradientWarning):
    """A backward pass used a state that is close to the forward pass's, but not to the tolerance that was asked for."""


class FailedSamplesWarning(UserWarning):
    """Samples of a batch with steps of their own could not be solved to their end; the others were."""

    def __init__(self, message: str, samples: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.samples = samples
        """Which ones."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that memory is short, on a GPU or on the host.

    To be asked before an error is taken for a sign that torch cannot do something: both are a ``RuntimeError``.
    """
    named = any(kind.__name__ in ("OutOfMemoryError", "MemoryError") for kind in type(error).__mro__)
    return named or "can't allocate memory" in str(error)
