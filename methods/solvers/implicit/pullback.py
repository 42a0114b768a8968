"""The exact pull-back through a diagonally implicit step: one transposed linear system for each solved stage.

No Newton iteration is differentiated. The stage ``Y_i = B_i + h gamma f(t_i, Y_i)`` is a function of ``B_i`` and the
parameters by the implicit function theorem: its cotangent goes back through ``W_i^-T``, ``W_i = I - h gamma f_y``, at
the stage itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.contracts import ImplicitWork, StepObserver, WorkObserver
from odegrad.methods.solvers.implicit.linear import Jacobians, Linearisation
from odegrad.methods.solvers.implicit.tableau import ImplicitTableau, ImplicitWeights


def tell(observer: StepObserver | None, work: ImplicitWork) -> None:
    """Tell ``observer`` of the work, if it listens."""
    listener: object = observer
    if isinstance(listener, WorkObserver):
        listener.worked(work)


@dataclass(frozen=True)
class StagePullback:
    """Pulls back through steps of one tableau on one field.

    Parameters
    ----------
    tableau, jacobians
        Of the steps.
    parameters
        That the field depends on.
    observer
        Hears of the work, if it listens.
    """

    tableau: ImplicitTableau
    jacobians: Jacobians
    parameters: tuple[Tensor, ...]
    observer: StepObserver | None

    def through(
        self,
        times: Sequence[float] | Sequence[Tensor],
        h: float | Tensor,
        stages: Sequence[Tensor],
        a: Tensor,
        q: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """Return the cotangents of the step's start and the parameters' gradients.

        Parameters
        ----------
        times
            Of all stages; where samples have times of their own ``[batch]`` each.
        h
            The signed size; where samples have their own ``[batch, 1, 1]``.
        stages
            The solved ones, ``[batch, n, 1]``.
        a, q
            The cotangents of the new state and the new rate, ``[batch, n, 1]``; ``q`` is None where none is carried.
        """
        tableau, hg = self.tableau, h * self.tableau.gamma
        weights = ImplicitWeights.of(tableau, a.dtype, a.device)
        pulled = a.new_empty((tableau.stages, a.numel()))
        total: list[Tensor | None] = [None] * len(self.parameters)
        last = tableau.stages - 1
        for i in reversed(tableau.solved):
            if i < last:
                r = torch.mv(pulled[i + 1 :].t(), weights.columns[i]).view_as(a).mul_(h)
            else:
                r = torch.zeros_like(a) if q is None else q
            if not tableau.stiffly_accurate or i == last:
                # b_s is gamma where the last stage is the new state.
                r = _added(r, a, h * tableau.b[i])
            at = self._linearised(times[i], stages[i - tableau.solved.start])
            c = at.system(hg).solve_transposed(r) if at.depends else r
            # J^T c, and not (c - r) / (h gamma), which is the same and loses digits where h is small.
            of_y, of_parameters = at.pull(c, self.parameters)
            if i == last and tableau.stiffly_accurate:
                of_y = of_y + a
            pulled[i].copy_(of_y.reshape(-1))
            gather(total, of_parameters)
        count = len(tableau.solved)
        products = self.jacobians.products * count
        tell(self.observer, ImplicitWork(jacobians=count, factorisations=count, solves=count, products=products))
        of_start = pulled[tableau.solved.start :].sum(0).view_as(a)
        if not tableau.stiffly_accurate:
            of_start = of_start + a
        of_rate = None
        if tableau.explicit_first:
            of_rate = torch.mv(pulled[1:].t(), weights.columns[0]).view_as(a).mul_(h)
        return of_start, of_rate, total

    def _linearised(self, t: float | Tensor, y: Tensor) -> Linearisation:
        return Linearisation(self.jacobians, self.jacobians.time(t), y)


def _added(r: Tensor, a: Tensor, weight: float | Tensor) -> Tensor:
    return torch.addcmul(r, a, weight) if isinstance(weight, Tensor) else torch.add(r, a, alpha=weight)


def gather(total: list[Tensor | None], pulled: Sequence[Tensor | None]) -> None:
    """Add what was pulled back to ``total``, where None stands for zero."""
    # Never in place into what autograd handed out: it may hand out one tensor twice.
    for i, p in enumerate(pulled):
        if p is not None:
            before = total[i]
            total[i] = p if before is None else before + p
