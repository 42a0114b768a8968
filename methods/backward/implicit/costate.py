"""The costate equation solved backwards by implicit steps: it is linear, so a stage is one system and no iteration."""

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from odegrad.contracts import ImplicitWork
from odegrad.errors import UnsupportedError
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.linear import Jacobians, Linearisation, System
from odegrad.methods.solvers.implicit.pullback import tell
from odegrad.methods.solvers.implicit.stepper import hermite_polynomial, hermite_weights
from odegrad.methods.solvers.implicit.tableau import Implicit, ImplicitWeights
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import Stepper


class LinearCostate(Protocol):
    """What is solved: ``a' = -f_y(t, y(t))^T a`` along a known trajectory."""

    field: FlatField
    parameters: tuple[Tensor, ...]

    def states(self, times: Sequence[float]) -> Tensor:
        """Return the trajectory's states ``[m, d]``."""
        ...

    def weighs(self, stage: int) -> bool:
        """Return whether the stage's pull-back to the parameters is used."""
        ...

    def keep(self, stage: int, pulled: Sequence[Tensor | None]) -> None:
        """Hold what a stage gives to the parameters."""
        ...


class ImplicitCostateStepper(Stepper):
    """Carries ``x = (a, k)``, ``k = -f_y^T a``; ``(I + h gamma f_y^T) A_i = B_i`` with the Jacobian at each stage.

    Its steps are judged by the integral of f beside the costate, ``(y, a)``, as explicit ones are.
    """

    def __init__(self, solver: OneStepSolver, scheme: Implicit, costate: LinearCostate, like: Tensor) -> None:
        self.scheme = scheme
        self.tableau = scheme.tableau
        self.observer = solver.observer
        self.costate = costate
        self.d = like.numel()
        self.jacobians = Jacobians.of(costate.field, scheme.linear)
        self.weights = ImplicitWeights.of(self.tableau, like.dtype, like.device)
        self.k, self.f = like.new_empty((2, self.tableau.stages, self.d))
        self._start, self._end = like, like
        self.x_next = like
        self._system: System | None = None

    def start(self, t: float, y0: Tensor) -> Tensor:
        """Return ``(a, -f_y^T a)``: one f call and one product."""
        (y,) = self.costate.states([t])
        samples, self._start = self.jacobians.samples, y
        at = Linearisation(self.jacobians, self.costate.field.time(t), samples.of(y), formed=False)
        self.f[0].copy_(samples.flat(at.dy.detach()))
        of_state, of_parameters = at.pull(samples.of(y0), self._wanted(0))
        self.costate.keep(0, of_parameters)
        return torch.cat([y0, samples.flat(of_state).neg()])

    def rate(self, t: float, x: Tensor) -> Tensor:  # noqa: ARG002
        """Return f and the carried rate, ``[2d]``."""
        return torch.cat([self.f[0], x[self.d :]])

    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:  # noqa: ARG002
        """Return ``(a', k')``: a Jacobian, a factorisation and a solve for each stage."""
        tableau, samples, hg = self.tableau, self.jacobians.samples, h * self.tableau.gamma
        start = samples.of(x[: self.d])
        self.k[0].copy_(samples.of(x[self.d :]).view(-1))
        times = [tableau.times(t, h, t_next)[i] for i in tableau.solved]
        stage = start
        for i, time, y in zip(tableau.solved, times, self.costate.states(times), strict=True):
            # The explicit part of the stage; what is left is linear in A_i, so one solve is exact and nothing iterates.
            base = torch.addmv(start.reshape(-1), self.k[:i].t(), self.weights.rows[i], alpha=h)
            at = Linearisation(self.jacobians, self.costate.field.time(time), samples.of(y))
            self.f[i].copy_(samples.flat(at.dy.detach()))
            self._system = at.system(-hg)
            stage = self._system.solve_transposed(base.view_as(start)) if at.depends else base.view_as(start)
            of_state, of_parameters = at.pull(stage, self._wanted(i), keep=self.jacobians.kind == "krylov")
            torch.neg(of_state.reshape(-1), out=self.k[i])
            self.costate.keep(i, of_parameters)
        count = len(tableau.solved)
        products, self._end = self.jacobians.products * count, y
        tell(self.observer, ImplicitWork(jacobians=count, factorisations=count, solves=count, products=products))
        self.x_next = torch.cat([samples.flat(stage), samples.flat(self.k[-1].view_as(stage))])
        return self.x_next

    def error(self, h: float) -> Tensor:
        """Return the embedded estimate, filtered by the last stage's system."""
        if self._system is None or self.weights.error is None:
            raise UnsupportedError(f"solver {self.scheme.name}: it has no error estimate; use kencarp4")
        samples = self.jacobians.samples
        raw = torch.mv(self.k.t(), self.weights.error).mul_(h).view(samples.batch, samples.n, 1)
        tell(self.observer, ImplicitWork(solves=1))
        # Unfiltered, the estimate of a stiff component grows with h |lambda| and says nothing of its error (Shampine
        # 1984).
        return samples.flat(self._system.solve_transposed(raw))

    def judged(self, h: float, x: Tensor, x_next: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the last attempt is judged by: error, start and end of state and costate, ``[2d]`` each."""
        error = self.error(h)
        of_state = torch.mv(self.f.t(), cast("Tensor", self.weights.error)).mul_(h)
        ends = (torch.cat([self._start, x[:d]]), torch.cat([self._end, x_next[:d]]))
        return torch.cat([of_state, error]), *ends

    def standing(self, x: Tensor, d: int) -> Tensor:
        """Return what the first step is chosen by: state and costate, ``[2d]``."""
        return torch.cat([self._start, x[:d]])

    def accept(self) -> None:
        """Stand on the new state; costate and rate are carried."""
        self.f[0].copy_(self.f[-1])
        self._start = self._end

    def dense(self, x: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the cubic Hermite polynomial of costates and rates at both ends, ``[m, d]``."""
        d, weights = self.d, hermite_weights(h, thetas, x)
        ends = torch.stack([self.x_next[:d] - x[:d], x[d:], self.x_next[d:]])
        return torch.addmm(x[:d].expand(len(weights), -1), weights, ends)

    def polynomial(self, x: Tensor, h: float) -> Tensor:
        """Return the coefficients ``[4, d]`` of that polynomial in powers of theta."""
        return hermite_polynomial(x, self.x_next, h)

    def _wanted(self, stage: int) -> tuple[Tensor, ...]:
        return self.costate.parameters if self.costate.weighs(stage) else ()
