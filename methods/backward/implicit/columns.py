"""Sensitivities carried along implicit steps: the derivative of each converged stage by one system for all columns."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from odegrad.contracts import ImplicitWork
from odegrad.errors import UnsupportedError
from odegrad.methods.backward.products import derivative_along
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.linear import Jacobians, Linearisation
from odegrad.methods.solvers.implicit.pullback import tell
from odegrad.methods.solvers.implicit.stepper import hermite_weights, solved_stages
from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.loop import steps
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import AcceptedStep


class ImplicitColumns:
    """Walks a solve and the columns ``S [batch, n, m]`` along it.

    ``W_i S_i = S + h sum_{j<i} a_ij K_j + h gamma f_theta(Y_i)``, ``K_i = f_y(Y_i) S_i + f_theta(Y_i)``, with ``W_i``
    at the converged stage: the derivative of the computed step.

    Parameters
    ----------
    field, solver, scheme
        Of the solve.
    parameters
        To which the first columns belong.
    directions
        The columns' directions in each parameter, ``[m, *shape]``.
    """

    def __init__(
        self,
        field: FlatField,
        solver: OneStepSolver,
        scheme: Implicit,
        parameters: Sequence[Tensor],
        directions: Sequence[Tensor],
    ) -> None:
        self.field = field
        self.solver = solver
        self.tableau = scheme.tableau
        self.parameters = tuple(parameters)
        self.directions = directions
        self.jacobians = Jacobians.of(field, scheme.linear)
        self.batched = True
        self.m = 0
        if self.jacobians.kind == "krylov":
            raise UnsupportedError(
                f"forward_sensitivity: its columns need factorised systems, and a state of {self.jacobians.samples.n} "
                "numbers is solved for by GMRES; use aca or symplectic_adjoint"
            )

    def walk(self, y0: Tensor, times: Sequence[float], columns: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Solve from ``y0 [d]`` and yield the outputs ``[k, d]`` that each step reaches, with columns ``[k, m, d]``.

        ``columns [m, d]`` are those at the start.
        """
        samples, self.m = self.jacobians.samples, len(columns)
        order = samples.order()
        back = torch.argsort(order)
        s = columns[:, order].view(-1, samples.batch, samples.n).permute(1, 2, 0).contiguous()
        rate = self._first_rate(times[0], samples.of(y0), s) if self.tableau.explicit_first else s
        for step in steps(self.field, self.solver, y0, times):
            s_next, rate_next = self._step(step, s, rate)
            reached = [s_next[None]] if step.grid_step.ends_at_output else []
            if step.grid_step.thetas:
                weights = hermite_weights(step.h, step.grid_step.thetas, s)
                ends = torch.stack([s_next - s, rate, rate_next])
                reached.insert(0, s + torch.einsum("kw,wbnm->kbnm", weights, ends))
            if reached:
                found = torch.cat(reached).flatten(1, 2).transpose(1, 2)
                yield torch.cat(list(step.ys)), found[:, :, back]
            s, rate = s_next, rate_next

    def _step(self, step: AcceptedStep, s: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Return columns and their rates at the end of the step."""
        tableau, h = self.tableau, step.h
        times = tableau.times(step.t, h, step.grid_step.t_next)
        rates, stage_columns = [rate] if tableau.explicit_first else [], s
        for i, y in zip(tableau.solved, solved_stages(step), strict=True):
            # At the converged stage, not where Newton's iteration had its Jacobian: the derivative is of the step as
            # computed.
            at = Linearisation(self.jacobians, self.field.time(times[i]), y)
            of_parameters = self._along_parameters(at)
            hg = h * tableau.gamma
            base = torch.add(s, of_parameters, alpha=hg)
            for weight, known in zip(tableau.a[i], rates, strict=True):
                base = torch.add(base, known, alpha=h * weight)
            # All columns are right-hand sides of one factorised system.
            stage_columns = at.system(hg).solve(base)
            rates.append(_product(at, stage_columns) + of_parameters)
        count = len(tableau.solved)
        products = self.jacobians.products * count
        work = ImplicitWork(jacobians=count, factorisations=count, solves=count, products=products)
        tell(self.solver.observer, work)
        # The last stage is the new state, and the sum over b would only round it anew.
        if tableau.stiffly_accurate:
            return stage_columns, rates[-1]
        end = s
        for weight, known in zip(tableau.b, rates, strict=True):
            end = torch.add(end, known, alpha=h * weight)
        return end, rate

    def _first_rate(self, t: float, y: Tensor, s: Tensor) -> Tensor:
        """Return ``f_y S + f_theta`` at the start."""
        at = Linearisation(self.jacobians, self.field.time(t), y)
        tell(self.solver.observer, ImplicitWork(jacobians=1, products=self.jacobians.products))
        return _product(at, s) + self._along_parameters(at)

    def _along_parameters(self, at: Linearisation) -> Tensor:
        """Return ``f_theta`` times the columns' directions, ``[batch, n, m]``."""
        self.field.refuse_closures([at.dy], (at.y, at.t))
        found, self.batched = derivative_along(at.dy, self.parameters, self.directions, self.m, batched=self.batched)
        return found[..., 0].permute(1, 2, 0)


def _product(at: Linearisation, s: Tensor) -> Tensor:
    """Return ``f_y S [batch, n, m]``."""
    return torch.zeros_like(s) if at.matrix is None else torch.bmm(at.matrix, s)
