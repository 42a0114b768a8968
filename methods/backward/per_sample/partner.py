"""The symplectic partner on rows: by rank, stage by stage, one f call's graph at a time."""

import torch
from torch import Tensor

from odegrad.methods.backward.node import Gradients
from odegrad.methods.backward.per_sample.node import StartKeepingNode, Starts, at, of_outputs_inside, with_outputs
from odegrad.methods.backward.products import add_to
from odegrad.methods.solvers.per_sample.ledger import Rank
from odegrad.methods.solvers.per_sample.stages import RowStages


class PartnerRowsNode(StartKeepingNode):
    """Keeps the first state of every accepted step; see ``SymplecticAdjoint`` for the formulas, ``h`` is a column."""

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> Gradients:
        """Walk the ranks from the last to the first."""
        grads = self.folded(grads)
        ranks, starts = self.ledger.ranks(), Starts(kept[0], kept[1:], self.places)
        a = grads.new_zeros((len(ranks.samples), grads.shape[-1]))
        total = [torch.zeros_like(p) for p in self.parameters]
        for rank in ranks.backwards():
            w = len(rank.samples)
            a[:w] = self._rank_back(starts.of(rank), rank, with_outputs(a[:w], rank, grads), grads, total)
        return grads[0].index_add(0, at(ranks.samples, a), a), total

    def _rank_back(self, y: Tensor, rank: Rank, a: Tensor, grads: Tensor, total: list[Tensor]) -> Tensor:
        """Return the cotangents ``[w, n]`` of the steps' first states; add to ``total`` the parameters' part.

        ``grads [K, batch, n]`` are those of the outputs, of which some may be inside of the steps.
        """
        tableau = self.solver.tableau
        stages = RowStages(tableau, y)
        # The last stage, at the new state, has no weight in the step; what is read inside needs it.
        count = tableau.stages if len(rank.inside) else tableau.evaluations
        times, h = rank.steps.sent(tableau, y)
        stages.set_sizes(h, rank.steps.h)
        inputs = [y]
        for i in range(1, count):
            self.field.write_rows(times[i - 1], inputs[-1], stages.k[i - 1])
            inputs.append(stages.combine(y, i - 1))
        weights, scaled = stages.buffer.weights, a * h
        pushed = [scaled * b for b in tableau.b[:count]]
        if len(rank.inside):
            read, rows = of_outputs_inside(rank, grads), at(rank.inside.rows, y)
            of_stages = zip(pushed, stages.dense_weights(rank.inside), strict=True)
            pushed = [cotangent.index_add(0, rows, read * weight) for cotangent, weight in of_stages]
            a = a.index_add(0, rows, read)
        pulled = y.new_zeros((count, *y.shape))
        for i in range(count - 1, -1, -1):
            cotangent = pushed[i]
            if i + 1 < count:
                column = weights.columns[i][: count - i - 1]
                later = torch.mv(pulled[i + 1 :].reshape(len(column), -1).t(), column).view_as(y)
                cotangent = torch.addcmul(cotangent, later, h)
            pulled[i] = self._pull_stage(times[i], inputs[i], cotangent, total)
        return a + pulled.sum(0)

    def _pull_stage(self, t: Tensor, y: Tensor, a: Tensor, total: list[Tensor]) -> Tensor:
        """Return ``f_y^T a [w, n]``, and add ``f_theta^T a`` to ``total``: one call with a graph."""
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            dy = self.field.at(t, leaf)
        if not dy.requires_grad:
            return torch.zeros_like(y)
        of_state, *of_parameters = self.field.pulled_through([dy], (leaf, *self.parameters), [a])
        add_to(total, of_parameters)
        return torch.zeros_like(y) if of_state is None else of_state
