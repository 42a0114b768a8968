"""The exact pull-back through a step of an implicit-explicit pair.

With ``a'`` the cotangent of the new state, ``m_j`` that of ``B_j``, ``J`` and ``F`` the stiff half's and the rest's
Jacobians at stage i, from the last stage to the first:

``q_i = h (b_i - e_si) a' + h sum_{j>i} e_ji m_j``, ``p_i = h sum_{j>i} a_ji m_j``, ``u_i = F^T q_i`` (and ``a'`` at the
last one), ``(I - h gamma J)^T c_i = p_i + h gamma u_i``, ``m_i = u_i + J^T c_i``.

The first stage is explicit: ``c_1 = p_1``. ``dL/dy = sum m_i``; the parameters get ``f_rest,theta^T q_i`` and
``f_stiff,theta^T c_i``. Where nothing is left to the rest this is the pull-back of the implicit method.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.contracts import ImplicitWork, StepObserver
from odegrad.methods.solvers.implicit.additive import Imex, PairWeights
from odegrad.methods.solvers.implicit.linear import Jacobians, Linearisation
from odegrad.methods.solvers.implicit.pullback import gather, tell


@dataclass(frozen=True)
class PairPullback:
    """Pulls back through steps of one pair on the halves ``stiff`` and ``rest`` of one field; see ``StagePullback``."""

    scheme: Imex
    stiff: Jacobians
    rest: Jacobians
    parameters: tuple[Tensor, ...]
    observer: StepObserver | None

    def through(
        self, times: Sequence[float], h: float, stages: Sequence[Tensor], a: Tensor, inside: Tensor | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return the cotangent of the step's start and the parameters' gradients.

        Parameters
        ----------
        times, h
            Of all stages; the signed size.
        stages
            All of them, the start first, ``[batch, n, 1]``.
        a
            The cotangent of the new state, ``[batch, n, 1]``.
        inside
            Those of the dense output's slopes, ``[2, d]`` sample behind sample; None if nothing depends on them.
        """
        tableau = self.scheme.tableau
        hg = h * tableau.gamma
        weights = PairWeights.of(tableau, self.scheme.partner, a.dtype, a.device)
        m = a.new_empty((tableau.stages, a.numel()))
        of_slopes = None if inside is None else weights.dense[:, ::2].t() @ inside
        end, last = a.reshape(-1), tableau.stages - 1
        total: list[Tensor | None] = [None] * len(self.parameters)
        for i in range(last, -1, -1):
            p, q = self._of_halves(i, h, m, end, weights)
            if of_slopes is not None:
                p, q = p + of_slopes[i], q + of_slopes[i]
            time, y = self.stiff.field.time(times[i]), stages[i]
            u, of_rest = Linearisation(self.rest, time, y, formed=False).pull(q.view_as(a), self.parameters)
            gather(total, of_rest)
            if i == last:
                u = u + a
            at = Linearisation(self.stiff, time, y, formed=i > 0)
            c = p.view_as(a)
            if i > 0:
                c = torch.add(c, u, alpha=hg)
                c = at.system(hg).solve_transposed(c) if at.depends else c
            of_y, of_stiff = at.pull(c, self.parameters)
            gather(total, of_stiff)
            torch.add(u.reshape(-1), of_y.reshape(-1), out=m[i])
        products = self.stiff.products * last
        tell(self.observer, ImplicitWork(jacobians=last, factorisations=last, solves=last, products=products))
        return m.sum(0).view_as(a), total

    def _of_halves(self, i: int, h: float, m: Tensor, end: Tensor, weights: PairWeights) -> tuple[Tensor, Tensor]:
        """Return ``p_i`` and ``q_i``, ``[d]``."""
        later = m[i + 1 :].t()
        p = torch.mv(later, weights.stiff_columns[i]).mul_(h)
        q = torch.addmv(end * weights.left[i], later, weights.rest_columns[i]).mul_(h)
        return p, q
