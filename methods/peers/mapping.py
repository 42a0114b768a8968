"""What odegrad's solvers are called in another library, and why it cannot take one: a refusal is a row, not a guess."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from odegrad.contracts import Peer, Solver
from odegrad.errors import SolverError, UnsupportedError
from odegrad.methods.solvers.control import Controller
from odegrad.methods.solvers.solver import NO_ONE_STEP_SOLVER, OneStepSolver
from odegrad.methods.solvers.times import checked_times

EXTRA = "install odegrad[peers]"
"""What to do where a library is missing that the extra brings."""

_USUAL = Controller(rtol=1.0, atol=1.0)
"""Whose safety and factors every library takes: they are its own."""


@dataclass(frozen=True)
class PeerMapping:
    """How a library is told of a solver.

    Parameters
    ----------
    library
        Name of the module to import.
    distribution
        Name of the package to install, whose version is recorded.
    install
        What to do where it is not there.
    adaptive, fixed
        Our solver's name -> the library's, for adaptive steps and for fixed ones.
    no_fixed
        Why it takes no fixed steps, where it does not.
    options
        Which of ``first_step``, ``max_step``, ``max_steps``, ``factors`` (safety and the bounds of a step's change) the
        library can be told. Others are refused; ``max_steps`` is then the library's own.
    norm
        The norm of a step's error, in words.
    outputs
        How it meets the outputs, in words.
    times_have_gradient
        Whether the gradient with respect to the output times comes back.
    faults
        What is known to be wrong with it, a sentence each.
    """

    library: str
    distribution: str
    install: str
    adaptive: Mapping[str, str]
    fixed: Mapping[str, str] = field(default_factory=dict)
    no_fixed: str = ""
    options: frozenset[str] = frozenset()
    norm: str = "root mean square over the whole batch"
    outputs: str = "steps past them and interpolates"
    times_have_gradient: bool = False
    faults: tuple[str, ...] = ()

    @property
    def named(self) -> Peer:
        """Return the library as a method states it."""
        return Peer(self.distribution)

    def refuses(self, solver: Solver) -> str | None:
        """Return why the library cannot take ``solver``, or None if it can."""
        if not isinstance(solver, OneStepSolver):
            return NO_ONE_STEP_SOLVER
        if find_spec(self.library) is None:
            return f"{self.distribution} is not installed; {self.install}"
        if solver.per_sample:
            return f"{self.distribution}'s steps are run as published, on batches that share them; use batch = 'joint'"
        return self._unmapped_steps(solver) or self._unmapped_option(solver)

    def _unmapped_steps(self, solver: OneStepSolver) -> str | None:
        known = self.adaptive if solver.adaptive else self.fixed
        if solver.name in known:
            return None
        if not solver.adaptive and self.no_fixed:
            return self.no_fixed
        steps = "adaptive" if solver.adaptive else "fixed"
        return f"{self.distribution} has no such method for {steps} steps; it takes {', '.join(known)}"

    def _unmapped_option(self, solver: OneStepSolver) -> str | None:
        control, name = solver.controller, self.distribution
        if solver.precision:
            return f"{name} computes in the state's type; leave out precision, or give it a field that casts itself"
        if solver.compile:
            return f"{name}'s steps are run as published; leave out compile"
        if solver.sees != "state":
            return f"{name}'s step control sees the state; use sees = 'state'"
        if control.control != _USUAL.control:
            return f"{name}'s step control is the elementary one here; use control = 'elementary'"
        factors = (control.safety, control.max_factor, control.min_factor)
        if "factors" not in self.options and factors != (_USUAL.safety, _USUAL.max_factor, _USUAL.min_factor):
            return f"{name}'s step control has factors of its own; leave out safety, max_factor and min_factor"
        untold = {"min_step", "step_t", "grid", "norm", "tolerances", "first_step", "max_step"} - self.options
        given = next((option for option in sorted(untold) if getattr(solver, option)), None)
        return None if given is None else f"{name} cannot be told {given}; leave it out"

    def taken(self, solver: Solver) -> tuple[OneStepSolver, str]:
        """Return the solver and its name in the library.

        Raises
        ------
        UnsupportedError
            If the library cannot take it.
        """
        reason = self.refuses(solver)
        if reason is not None or not isinstance(solver, OneStepSolver):
            raise UnsupportedError(f"{self.distribution} cannot use solver {solver.name}: {reason}")
        return solver, (self.adaptive if solver.adaptive else self.fixed)[solver.name]

    def times(self, ts: Tensor) -> list[float]:
        """Return the output times as floats.

        Raises
        ------
        UsageError
            If they are no times.
        UnsupportedError
            If their gradient is asked for and the library gives none: it would be zero without a word.
        """
        times = checked_times(ts)
        if ts.requires_grad and not self.times_have_gradient:
            raise UnsupportedError(
                f"{self.distribution} gives output times no gradient here, and these are trained; detach them, or use "
                "another method"
            )
        return times

    def module(self, name: str = "") -> Any:
        """Return the library, or its module ``name``, imported when it is first used: nobody else's process pays.

        Raises
        ------
        UnsupportedError
            If it is not installed, or cannot be imported beside what is.
        """
        try:
            return importlib.import_module(f"{self.library}.{name}" if name else self.library)
        except ImportError as error:
            raise UnsupportedError(f"{self.distribution} cannot be imported ({error}); {self.install}") from error

    def failed(self, solver: OneStepSolver, what: str) -> SolverError:
        """Return the error of a solve that the library gave up."""
        return SolverError(
            f"{self.distribution} with solver {solver.name}: {what}; loosen rtol and atol, or raise limits"
        )
