"""The steps of a Rosenbrock method without a graph.

A step is a function of ``(t, h, x)`` alone, bit for bit, so that a replay repeats it.
"""

import torch
from torch import Tensor

from odegrad.contracts import ImplicitWork
from odegrad.errors import UnsupportedError
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.linear import MAX_IN_BLOCK, MAX_IN_MATRIX
from odegrad.methods.solvers.implicit.linearised import LinearisedStepper
from odegrad.methods.solvers.rosenbrock.slopes import Slopes
from odegrad.methods.solvers.rosenbrock.tableau import Rosenbrock, RosenbrockWeights
from odegrad.methods.solvers.solver import OneStepSolver


class RosenbrockStepper(LinearisedStepper[Slopes]):
    """The steps without a graph; parameters as those of ``ImplicitStepper``."""

    def __init__(
        self, solver: OneStepSolver, scheme: Rosenbrock, field: FlatField, like: Tensor, *, refuse_mixing: bool = False
    ) -> None:
        super().__init__(solver, scheme.linear, field, like, refuse_mixing=refuse_mixing)
        if self.jacobians.kind == "krylov":
            raise UnsupportedError(
                f"solver {scheme.name}: it needs the factors of its linear systems, and neither a sample of this state "
                f"({self.jacobians.apart.n} numbers, at most {MAX_IN_BLOCK}) nor the batch ({self.d}, at most "
                f"{MAX_IN_MATRIX}) is small enough for that; use kencarp4, which solves by products"
            )
        self.scheme = scheme
        self.tableau = scheme.tableau
        self.weights = RosenbrockWeights.of(self.tableau, like.dtype, like.device)
        field.differentiated_twice = True
        self.u = like.new_empty((self.tableau.stages, self.d))
        """The solved stages, sample behind sample."""

    def start(self, t: float, y0: Tensor) -> Tensor:  # noqa: ARG002
        """Return ``y0`` itself."""
        self._at = None
        return y0

    def rate(self, t: float, x: Tensor) -> Tensor:
        """Return f at the state: the call that linearises it, which the first attempt takes over."""
        return self.samples.flat(self.linearised(t, self.samples.of(x.detach())).dy.detach())

    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:  # noqa: ARG002
        """Return the state after a step from ``x``."""
        with torch.no_grad():
            self.x_next = self._solved(t, h, t_next, x.detach())
        return self.x_next

    def _solved(self, t: float, h: float, t_next: float, x: Tensor) -> Tensor:
        tableau, weights, samples, u = self.tableau, self.weights, self.samples, self.u
        hg = h * tableau.gamma
        self.tell_lost()
        y = samples.of(x)
        at = self.linearised(t, y)
        system, flat = at.system(hg), y.reshape(-1)
        of_time = None if at.of_time is None else at.of_time.detach().reshape(-1)
        for i, time in enumerate(tableau.times(t, h, t_next)):
            if i == 0:
                rate = at.dy.detach()
            else:
                state = torch.addmv(flat, u[:i].t(), weights.a[i]).view_as(y)
                rate = samples.call(self.field, self.field.time(time), state)
            r = torch.addmv(rate.reshape(-1) * hg, u[:i].t(), weights.c[i])
            if of_time is not None and tableau.gammas[i]:
                r = torch.add(r, of_time, alpha=h * hg * tableau.gammas[i])
            u[i].copy_(system.solve(r.view_as(y)).view(-1))
        built = self.newly_built()
        self._untold = ImplicitWork(
            jacobians=built, factorisations=1, solves=tableau.stages, products=at.products * built
        )
        return samples.flat(torch.addmv(flat, u.t(), weights.m).view_as(y))

    def linearise(self, t: float, y: Tensor) -> Slopes:
        """Return f and its derivatives at the start of a step."""
        return Slopes(self.jacobians, t, y)

    def error(self, h: float) -> Tensor:  # noqa: ARG002
        """Return ``sum_i (m_i - m^_i) u_i``, the distance to the embedded method."""
        raw = torch.mv(self.u.t(), self.weights.error)
        return self.samples.flat(raw.view(self.samples.batch, self.samples.n, 1))
