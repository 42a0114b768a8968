"""Samples that cannot be solved on: which, why, and what is said of them."""

import warnings

import numpy as np

from odegrad.errors import (
    FailedSamplesWarning,
    NonFiniteError,
    SolverError,
    StepSizeUnderflowError,
    TooManyStepsError,
)
from odegrad.methods.solvers.per_sample.times import HostFloats, HostIntegers
from odegrad.methods.solvers.solver import OneStepSolver

TOLD_SAMPLES = 8
"""The most samples that a message tells of one by one."""


class Failures:
    """The samples of one solve that have failed.

    Parameters
    ----------
    solver
        Of the solve.
    names
        What the samples are called, ``[m]``.
    """

    def __init__(self, solver: OneStepSolver, names: HostIntegers) -> None:
        self.solver = solver
        self.names = names
        self.errors: dict[int, SolverError] = {}

    def none_of(self, samples: HostIntegers) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Return which of ``samples`` have not failed."""
        if not self.errors:
            return np.ones(len(samples), dtype=np.bool_)
        return np.asarray([int(i) not in self.errors for i in samples], dtype=np.bool_)

    def not_finite_at_start(self, sample: int, t: float, what: str) -> None:
        """Note that the solve of ``sample`` cannot begin."""
        self._add(
            sample,
            NonFiniteError,
            f"{what} is not finite at t = {t:g}, before the first step; check the parameters and the initial state for "
            "NaN or infinity",
        )

    def underflow(self, sample: int, t: float, h: float) -> None:
        """Note that the step of ``sample`` no longer moves its time."""
        self._add(
            sample,
            StepSizeUnderflowError,
            f"at t = {t:g} the step {h:g} no longer changes the time; the problem is stiff or singular there: loosen "
            "rtol and atol, or regularise the vector field",
        )

    def singular(self, sample: int, t: float) -> None:
        """Note that the Jacobian of ``sample`` is not finite, so that no implicit step can be solved from there."""
        self._add(
            sample,
            NonFiniteError,
            f"the field's Jacobian is not finite at t = {t:g}; the field has an infinite slope there (a root, a "
            "quotient): bound it, or take an explicit solver such as dopri5",
        )

    def look_at(
        self,
        samples: HostIntegers,
        t: HostFloats,
        h: HostFloats,
        ends: HostFloats,
        ratios: HostFloats,
        attempts: HostIntegers,
    ) -> None:
        """Note which of ``samples``, after attempts of size ``h`` towards ``ends``, cannot go on."""
        # The joint loop's rules: a step of this size does not overflow by its size.
        lost = ~np.isfinite(ratios) & (np.abs(h) < 1e-10 * np.maximum(np.abs(t), np.abs(ends)))
        late = (attempts >= self.solver.max_steps) & (t != ends) & ~lost
        for row in np.flatnonzero(lost):
            self._add(
                samples[row],
                NonFiniteError,
                f"the field or the state is not finite just after t = {t[row]:g} (step {attempts[row]}, h = "
                f"{h[row]:g}); check the parameters for NaN, clip gradients, or bound the vector field",
            )
        for row in np.flatnonzero(late):
            self._add(
                samples[row],
                TooManyStepsError,
                f"{attempts[row]} steps were attempted and t = {t[row]:g} is reached of {ends[row]:g}, h = {h[row]:g}; "
                "the problem may be stiff: loosen rtol and atol, or raise max_steps",
            )

    def raise_if_all(self) -> None:
        """Raise the first failure if no sample is left."""
        if len(self.errors) == len(self.names):
            self.raise_first()

    def raise_first(self) -> None:
        """Raise the first failure, if there is one."""
        for error in self.errors.values():
            raise error

    def warn(self) -> None:
        """Tell of the failed samples, whose outputs are NaN from there on; the others are as without them."""
        if not self.errors:
            return
        names = sorted(self.errors)
        told = "; ".join(str(self.errors[i]) for i in names[:TOLD_SAMPLES])
        more = f"; and {len(names) - TOLD_SAMPLES} more" if len(names) > TOLD_SAMPLES else ""
        warnings.warn(
            FailedSamplesWarning(
                f"{len(names)} of {len(self.names)} samples could not be solved: {told}{more}; their outputs from "
                "there on are NaN, and those of the others are what they are without them: leave NaN out of the loss, "
                "or the samples out of the batch",
                tuple(int(self.names[i]) for i in names),
            ),
            stacklevel=2,
        )

    def _add(self, sample: int, kind: type[SolverError], text: str) -> None:
        key = int(sample)
        if key not in self.errors:
            self.errors[key] = kind(f"solver {self.solver.name}, sample {int(self.names[key])}: {text}")
