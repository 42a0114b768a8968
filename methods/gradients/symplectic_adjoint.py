"""The symplectic adjoint: recompute a step's stages without a graph, pull back one f call's graph at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Bytes, Calls, Sizes, StepCounts, Traits
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.backward.costs import (
    forward_calls,
    kept_vectors,
    last_stages,
    pullback_peak,
    stage_calls,
    stage_products,
    with_systems,
)
from odegrad.methods.backward.entry import NEEDS_TABLEAU
from odegrad.methods.backward.implicit.pairs import PairPartnerNode
from odegrad.methods.backward.implicit.steps import ImplicitPartnerNode
from odegrad.methods.backward.per_sample.cost import bytes_of_replay, kept_starts, replayed_calls
from odegrad.methods.backward.per_sample.partner import PartnerRowsNode
from odegrad.methods.backward.per_sample.replay import StepReplayNode
from odegrad.methods.backward.products import pull_call
from odegrad.methods.backward.step_ends import StepEnd
from odegrad.methods.backward.stepwise import StepwiseNode, WalkBack
from odegrad.methods.backward.tappable import TappableRowsMethod
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.additive import Imex
from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import SampleTimes
from odegrad.methods.solvers.schemes import ExtendedTableau, Scheme, StepSeen
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.step import StageBuffer
from odegrad.methods.solvers.stepper import GridStep
from odegrad.methods.solvers.tableau import Tableau


@dataclass(frozen=True)
class SymplecticAdjoint(TappableRowsMethod):
    """Store the accepted states; solve the step's symplectic partner backwards, stage by stage (Matsubara et al. 2021).

    With the cotangent ``a'`` of the new state the stages' cotangents are
    ``c_i = h (b_i a' + sum_{j>i} a_ji l_j)``, ``l_i = f_y(z_i)^T c_i``, from the last stage to the first, and
    ``a = a' + sum_i l_i``, ``g += sum_i f_theta(z_i)^T c_i``: the partner of the tableau in the form that needs no
    division by ``b_i``, so stages with ``b_i = 0`` need no tableau of their own. The gradient is naive's. An output
    inside the step, at the fraction theta, adds ``h b_i(theta)`` times its cotangent to ``c_i``, and it to ``a``.

    Of an implicit step ``c_i`` solves ``(I - h gamma f_y(z_i))^T c_i = r_i``: the stages are redone by Newton's
    iteration as they were, and each takes a Jacobian, a factorisation and a transposed solve.

    Parameters
    ----------
    keep_stages
        Of an implicit solver: keep every step's stages, so that no Newton iteration is redone.

    Raises
    ------
    UsageError
        If ``keep_stages`` is no truth value.
    """

    keep_stages: bool = False

    traits: ClassVar[Traits] = Traits(
        name="symplectic_adjoint",
        summary="keeps every accepted state, pulls back by the partner method, one function call at a time",
        paper="Matsubara et al., Symplectic Adjoint Method for Exact Gradient of Neural ODE, NeurIPS 2021",
        exact=True,
        keeps="the accepted states",
        memory="(N + s) d + A",
        cost_forward="s(N+R)+2 F",
        cost_backward="(2s-1)N F + sN B",
        backward_phase="recompute",
        state_from="replay",
        taps="step ends",
    )

    def __post_init__(self) -> None:
        """Check the option."""
        if not isinstance(self.keep_stages, bool):
            raise UsageError(f"keep_stages: expected True or False, got {self.keep_stages!r}")

    def cannot_use(self, solver: OneStepSolver) -> str | None:
        """Return why this method cannot take the steps of ``solver``, or None if it can."""
        if solver.only_redone is not None:
            return solver.only_redone
        if solver.implicit:
            if self.keep_stages and isinstance(solver.scheme, Imex):
                return "keep_stages is for steps whose stages are all solved for; leave it out, or use kencarp4"
            return None
        if self.keep_stages:
            return "keep_stages is for implicit solvers, whose stages are dear to redo; leave it out, or use kencarp4"
        return None if isinstance(solver.scheme, Tableau | ExtendedTableau) else NEEDS_TABLEAU

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        if steps.rounds is not None:
            return replayed_calls(steps, steps.rounds, per_stage=2, less=1)
        s, n = steps.evaluations, steps.accepted
        if steps.implicit:
            redone, newton = (0, 0) if self.keep_stages else (n, steps.work.newton)
            backward = newton + (1 + steps.rest_stages) * redone + stage_calls(steps) + steps.carried
            calls = Calls(forward_calls(steps), backward, stage_products(steps) + steps.carried)
            return with_systems(calls, steps, redone, newton)
        read = last_stages(steps)
        return Calls(forward_calls(steps), (2 * s - 1) * n + 2 * read, s * n + read)

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:
        """Return the bytes that these steps cost."""
        if steps.rounds is not None:
            graph = 2 * steps.evaluations * sizes.state_bytes + sizes.graph_bytes_of(1, sizes.batch)
            return bytes_of_replay(steps, sizes, kept_starts(steps.rounds), graph)
        if steps.implicit:
            kept = kept_vectors(steps, steps.accepted)
            if self.keep_stages:
                own = steps.node_states - steps.carried_states
                kept = steps.carried + (own + 1) * steps.accepted + 1
            saved = (kept + sizes.outputs) * sizes.state_bytes
            return Bytes(saved, saved + pullback_peak(steps, sizes))
        saved = (steps.accepted - 1 + sizes.outputs) * sizes.state_bytes
        return Bytes(saved, saved + 2 * steps.evaluations * sizes.state_bytes + sizes.graph_bytes)

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that walks the symplectic partner back."""
        if isinstance(solver.scheme, Imex):
            return PairPartnerNode(field, solver, solver.scheme, times, self.tap).apply(y0)
        if isinstance(solver.scheme, Implicit):
            keep = self.keep_stages
            return ImplicitPartnerNode(field, solver, solver.scheme, times, self.tap, keep_stages=keep).apply(y0)
        return _SymplecticPartner(field, solver, times, self.tap).apply(y0)

    def refuses_rows_untapped(self, solver: OneStepSolver) -> str | None:  # noqa: ARG002
        """Return None if every sample may have steps of its own: where stages are redone."""
        return (
            "keep_stages is for steps that all samples share; leave it out with batch = 'per_sample'"
            if self.keep_stages
            else None
        )

    def solve_rows(self, field: RowField, solver: OneStepSolver, y0: Tensor, times: SampleTimes) -> Tensor:
        """Return the states ``[K, batch, n]`` with one node that walks the symplectic partner back, by rank.

        That of implicit steps is the pull-back through their stages, by which a rank that is redone goes back.
        """
        node = StepReplayNode if solver.implicit else PartnerRowsNode
        return node(field, solver, times).apply(y0)


class _SymplecticPartner(StepwiseNode):
    """Keeps the first state of every accepted step."""

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep the accepted states."""
        ys, starts = [y0[None]], []
        for step in self.steps(y0):
            starts.append(step.y)
            ys += step.ys
        return torch.cat(ys), tuple(starts)

    def walk_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> WalkBack:
        """Walk the accepted steps from the last to the first."""
        a = torch.zeros_like(grads[0])
        total = [torch.zeros_like(p) for p in self.parameters]
        stages = StageBuffer(_tableau(self.solver.scheme), grads[0])
        for n, step in self.backwards():
            a = a + grads[step.at_end].sum(0)
            a = self._step_back(kept[n], step, a, grads, stages, total)
            yield StepEnd(n, kept[n], a)
        return a + grads[0], total

    def _step_back(
        self, y: Tensor, step: GridStep, a: Tensor, grads: Tensor, stages: StageBuffer, total: list[Tensor]
    ) -> Tensor:
        """Return the cotangent of the step's first state; add to ``total`` the parameters' part."""
        tableau, h = stages.tableau, step.h
        extended = self.solver.scheme if isinstance(self.solver.scheme, ExtendedTableau) else None
        # A last stage at the new state has b = 0: the step itself does not need it; its dense output does, and sums do.
        count = tableau.stages if step.thetas or extended is not None else tableau.evaluations
        times = tableau.times(step.t, h, step.t_next)
        inputs = [y]
        for i in range(1, count):
            self.field.write(times[i - 1], inputs[-1], stages.k[i - 1], i - 1)
            inputs.append(stages.combine(y, i - 1, h))
        sums = None
        if extended is not None:
            self.field.write(times[-1], inputs[-1], stages.k[-1], count - 1)
            sums = _pull_sums(extended, h, inputs, stages, a, self.field)
            a = a + sums.of_end
        # With the partner's weights, b_j a_ji / b_i, written out, the division by b_i cancels: c_i takes h b_i of the
        # new state's cotangent, and h a_ji of each later stage's.
        pushed = torch.outer(stages.weights.rows[-1][:count] * h, a)
        if step.thetas:
            of_outputs = grads[step.inside]
            pushed += stages.dense_weights(h, step.thetas).t() @ of_outputs
            a = a + of_outputs.sum(0)
        if sums is not None:
            pushed += sums.of_stages
            a = a + sums.of_start
        pulled = y.new_zeros((count, y.numel()))
        for i in range(count - 1, -1, -1):
            cotangent = pushed[i]
            # Explicit, so only later stages depend on this one, and they have been pulled back already.
            if i + 1 < count:
                column = stages.weights.columns[i][: count - i - 1]
                cotangent = torch.addmv(cotangent, pulled[i + 1 :].t(), column, alpha=h)
            _, pulled[i] = pull_call(self.field, times[i], inputs[i], cotangent, self.parameters, total)
            if sums is not None and i == count - 2:
                pulled[i] += sums.of_before
        return a + pulled.sum(0)


@dataclass(frozen=True)
class _SumsPulled:
    """The cotangents that a step's sums add: of its stages ``[s, d]``, its two ends and the last but one input."""

    of_stages: Tensor
    of_start: Tensor
    of_end: Tensor
    of_before: Tensor


def _pull_sums(
    scheme: ExtendedTableau, h: float, inputs: Sequence[Tensor], stages: StageBuffer, a: Tensor, field: FlatField
) -> _SumsPulled:
    """Pull the cotangents of the sums, the last numbers of ``a``, back through what a step adds to them."""
    x_next = inputs[-1] if scheme.tableau.fsal else stages.combine(inputs[0], scheme.tableau.stages - 1, h)
    leaves = [x.detach().requires_grad_() for x in (stages.k, inputs[0], x_next, inputs[-2])]
    with torch.enable_grad():
        k, start, end, before = leaves
        added = scheme.added(StepSeen(h, k.unbind(0), start, end, before), field)
    found = torch.autograd.grad(added, leaves, a[-len(added) :], materialize_grads=True)
    return _SumsPulled(*found)


def _tableau(scheme: Scheme) -> Tableau:
    if isinstance(scheme, ExtendedTableau):
        return scheme.tableau
    if not isinstance(scheme, Tableau):
        raise UnsupportedError(f"symplectic_adjoint cannot use solver {scheme.name}: {NEEDS_TABLEAU}")
    return scheme
