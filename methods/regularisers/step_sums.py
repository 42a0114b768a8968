"""Penalties that are sums over the computed steps: ``error`` and ``stiffness``, carried along by the steps themselves.

``error``: ``sum_j E_j |h_j|``, E_j the norm of the step's error estimate; ``stiffness``: ``sum_j S_j``,
``S_j = |k_s - k_(s-1)| / |z_s - z_(s-1)|`` over the two stages at the end of the step, which estimates the largest
eigenvalue (Pal et al., "Opening the Blackbox: Accelerating Neural Differential Equations by Regularizing Internal
Solver Heuristics", ICML 2021, arXiv 2105.03918). They are discrete: no limit as h -> 0, and no continuous adjoint. Step
sizes are constants to them, as everywhere.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.errors import UnsupportedError
from odegrad.methods.solvers.dynamics import Dynamics
from odegrad.methods.solvers.schemes import ExtendedTableau, StepSeen
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.step import GraphStages, Stages
from odegrad.methods.solvers.stepper import Stepper
from odegrad.methods.solvers.steppers import RungeKuttaStepper
from odegrad.methods.solvers.tableau import Tableau

SUMS = ("error", "stiffness")
"""The penalties that steps add to."""


@dataclass(frozen=True)
class StepSums(ExtendedTableau):
    """Steps of a Runge-Kutta method that add to the last numbers of the state what each step is penalised by.

    Parameters
    ----------
    tableau
        The Runge-Kutta method.
    kinds
        Which of ``SUMS``, one number of the state for each, in this order.
    tolerances
        ``(rtol, atol)`` in whose units E_j is taken, or None for the plain norm.
    """

    kinds: tuple[str, ...] = SUMS
    tolerances: tuple[float, float] | None = None

    def stepper(self, stages: Stages, dynamics: Dynamics) -> Stepper:
        """Return what takes the steps on ``stages``."""
        return _SummingStepper(stages, self, dynamics)

    def added(self, seen: StepSeen, dynamics: Dynamics) -> Tensor:
        """Return what a step adds to each sum, ``[k]``."""
        of = {"error": self._error, "stiffness": self._stiffness}
        return torch.stack([of[kind](seen, dynamics) for kind in self.kinds])

    def _error(self, seen: StepSeen, dynamics: Dynamics) -> Tensor:
        weights = self.tableau.error or ()
        used = [k * (w * seen.h) for w, k in zip(weights, seen.stages, strict=True) if w != 0.0]
        error = torch.stack(used).sum(0)
        if self.tolerances is not None:
            rtol, atol = self.tolerances
            error = error / (atol + rtol * torch.maximum(seen.x.abs(), seen.x_next.abs()))
        return dynamics.norm(error) * abs(seen.h)

    def _stiffness(self, seen: StepSeen, dynamics: Dynamics) -> Tensor:
        moved = dynamics.norm(seen.x_next - seen.before)
        slope = dynamics.norm(seen.stages[-1] - seen.stages[-2])
        # At rest both vanish; the where inside keeps the gradient of the other branch finite.
        safe = torch.where(moved > 0, moved, torch.ones_like(moved))
        return torch.where(moved > 0, slope / safe, torch.zeros_like(moved))


class _SummingStepper(RungeKuttaStepper):
    """Runge-Kutta steps that add to the last k numbers of the state."""

    def __init__(self, stages: Stages, scheme: StepSums, dynamics: Dynamics) -> None:
        super().__init__(stages)
        self.scheme = scheme
        self.dynamics = dynamics

    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:  # noqa: ARG002
        """Return the state after the step, with what the step adds to the sums."""
        # The last stage is part of the sums: it cannot be left out where only the state is wanted.
        x_next = super().attempt(t, h, t_next, x, whole=True)
        before = self.stages.combine(x, max(self.tableau.stages - 3, 0), h)
        added = self.scheme.added(StepSeen(h, self._stages(), x, x_next, before), self.dynamics)
        k = len(self.scheme.kinds)
        return torch.cat([x_next[:-k], x_next[-k:] + added])

    def _stages(self) -> Sequence[Tensor]:
        if isinstance(self.stages, GraphStages):
            return [self.stages.buffer.k[i] if k is None else k for i, k in enumerate(self.stages.ks)]
        return self.stages.buffer.k.unbind(0)


def summing(solver: OneStepSolver, kinds: tuple[str, ...], *, scaled: bool) -> OneStepSolver:
    """Return the solver whose steps also add up the penalties ``kinds`` in the last numbers of the state.

    Raises
    ------
    UnsupportedError
        If the solver's steps do not tell what a penalty needs.
    """
    if not isinstance(solver.scheme, Tableau) or solver.compile or solver.sees != "state":
        raise UnsupportedError(
            f"{kinds[0]}: it sums over plain steps of a Runge-Kutta method, got solver {solver.name} with compile = "
            f"{solver.compile} and sees = {solver.sees!r}; use dopri5 or tsit5, without these options"
        )
    tableau = solver.scheme
    if "error" in kinds and tableau.error is None:
        raise UnsupportedError(f"error: solver {solver.name} estimates no error; use dopri5, tsit5 or bosh3")
    if "stiffness" in kinds and not (tableau.fsal and tableau.c[-2] == 1.0):
        raise UnsupportedError(
            f"stiffness: it needs two stages at the end of a step, which solver {solver.name} has not; use dopri5 or "
            "tsit5"
        )
    tolerances = (solver.controller.rtol, solver.controller.atol) if scaled else None
    return dataclasses.replace(solver, scheme=StepSums(tableau, kinds, tolerances))
