"""The exact pull-back through a Rosenbrock step: transposed systems from the last stage to the first.

The Jacobian is part of the step, and so its derivative is part of the gradient: with ``v_i = W^-T u'_i``, ``u'_i`` the
cotangent of ``u_i``, the whole step gives it the cotangent ``h gamma sum_i v_i u_i^T``, and ``f_t`` that of
``h^2 gamma sum_i gamma_i v_i``. All three are pulled back at once at the start of the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.contracts import ImplicitWork, StepObserver
from odegrad.methods.solvers.implicit.linear import Jacobians, Linearisation
from odegrad.methods.solvers.implicit.pullback import gather, tell
from odegrad.methods.solvers.rosenbrock.slopes import Slopes
from odegrad.methods.solvers.rosenbrock.tableau import RosenbrockTableau, RosenbrockWeights


@dataclass(frozen=True)
class RosenbrockPullback:
    """Pulls back through steps of one tableau on one field; see ``StagePullback``."""

    tableau: RosenbrockTableau
    jacobians: Jacobians
    parameters: tuple[Tensor, ...]
    observer: StepObserver | None

    def through(
        self, times: Sequence[float], h: float, y: Tensor, u: Tensor, a: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return the cotangent of the step's start and the parameters' gradients.

        Parameters
        ----------
        times, h
            Of all stages; the signed size.
        y
            The start ``[batch, n, 1]``.
        u
            The solved stages ``[s, batch n]``, sample behind sample.
        a
            The cotangent of the new state, as ``y``.
        """
        tableau, hg = self.tableau, h * self.tableau.gamma
        weights = RosenbrockWeights.of(tableau, a.dtype, a.device)
        at = Slopes(self.jacobians, times[0], y, graph=True)
        system = at.system(hg)
        s, flat = tableau.stages, y.reshape(-1)
        # Row i: what comes back through the right-hand side of stage i, and through the state that it calls f at.
        v, of_states = torch.empty_like(u), torch.zeros_like(u)
        total: list[Tensor | None] = [None] * len(self.parameters)
        for i in reversed(range(s)):
            r = a.reshape(-1) * tableau.m[i]
            r = torch.addmv(r, of_states[i + 1 :].t(), weights.a_columns[i])
            r = torch.addmv(r, v[i + 1 :].t(), weights.c_columns[i])
            v[i].copy_(system.solve_transposed(r.view_as(a)).view(-1))
            if i == 0:
                break
            state = torch.addmv(flat, u[:i].t(), weights.a[i]).view_as(y)
            call = Linearisation(self.jacobians, self.jacobians.field.time(times[i]), state, formed=False)
            pulled, of_parameters = call.pull(v[i].view_as(a) * hg, self.parameters)
            of_states[i].copy_(pulled.reshape(-1))
            gather(total, of_parameters)
        of_start = a + of_states.sum(0).view_as(a)
        of_slopes, of_parameters = self._through_slopes(at, h, u, v)
        if of_slopes is not None:
            of_start = of_start + of_slopes
        gather(total, of_parameters)
        work = ImplicitWork(jacobians=1, factorisations=1, solves=s, products=at.products)
        tell(self.observer, work)
        return of_start, total

    def _through_slopes(self, at: Slopes, h: float, u: Tensor, v: Tensor) -> tuple[Tensor | None, list[Tensor | None]]:
        """Return what goes back through ``f``, ``f_y`` and ``f_t`` at the start: one pull-back of all three."""
        if not at.depends:
            return None, [None] * len(self.parameters)
        tableau, hg, shape = self.tableau, h * self.tableau.gamma, at.dy.shape
        outputs, grads = [at.dy], [v[0].view(shape) * hg]
        if at.rows:
            stages_last = (x.view(tableau.stages, *shape[:2]).permute(1, 2, 0) for x in (v, u))
            of_rows, by_columns = stages_last
            outputs.append(at.jacobian)
            grads.append(torch.matmul(of_rows, by_columns.transpose(1, 2)) * hg)
        if at.of_time is not None and at.of_time.requires_grad:
            gammas = RosenbrockWeights.of(tableau, v.dtype, v.device).gammas
            outputs.append(at.of_time)
            grads.append((v.t() @ gammas).view(shape) * (h * hg))
        # Time and cotangents are leaves of the graph too: they are told of, and what comes back to them is left.
        inputs = (at.y, at.t, at.seed, *at.rows, *self.parameters)
        of_y, *pulled = self.jacobians.field.pulled_through(outputs, inputs, grads)
        return of_y, list(pulled[len(pulled) - len(self.parameters) :])
