"""The pull-back by replay: redo recorded steps with a graph, block by block, and let autograd walk that back."""

from collections.abc import Generator, Sequence
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor

from odegrad.contracts import Tap
from odegrad.errors import UsageError
from odegrad.methods.backward.step_ends import StepEnd
from odegrad.methods.backward.stepwise import StepwiseNode, WalkBack
from odegrad.methods.solvers.compiled import StepCompiler
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import replayed, replayed_with_graph
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.step import dense_weights
from odegrad.methods.solvers.stepper import GridStep
from odegrad.methods.solvers.steppers import graph_stepper

MAY_END_APART = 100.0
"""So many units of rounding a redone step may end elsewhere."""


class BlockReplayNode(StepwiseNode):
    """Keeps the carried vector at the start of each block of steps, ``kept[i]``, and redoes the block from it.

    A block ends with a step that reaches an output, or after ``steps_per_block`` steps.
    """

    def __init__(
        self,
        field: FlatField,
        solver: OneStepSolver,
        times: Sequence[float],
        tap: Tap | None,
        steps_per_block: int | None,
    ) -> None:
        super().__init__(field, solver, times, tap)
        self.steps_per_block = steps_per_block
        self.firsts: list[int] = []
        """The number of steps before each block."""

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep where each block begins."""
        ys, starts = [y0[None]], []
        at_end = True
        for n, step in enumerate(self.steps(y0)):
            if at_end:
                starts.append(step.x)
                self.firsts.append(n)
            at_end = bool(step.grid_step.outputs) or n + 1 - self.firsts[-1] == self.steps_per_block
            ys += step.ys
        return torch.cat(ys), tuple(starts)

    def walk_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> WalkBack:
        """Replay the blocks from the last to the first."""
        back = ReplayPullback(self, grads)
        a = torch.zeros_like(kept[-1])
        stop = len(self.grid)
        for i in range(len(kept) - 1, -1, -1):
            # The first block tells whether blocks can be redone: f was called there before all that it may remember. A
            # comparison at each would cost what the checks may not.
            end = kept[1] if i == 0 and len(kept) > 1 else None
            a = yield from back.through(kept[i], self.firsts[i], stop, a, end)
            stop = self.firsts[i]
        return back.to_start(kept[0], a), back.total


class ReplayPullback:
    """Pulls back through the recorded steps of ``node`` by redoing them; parameter gradients gather in ``total``."""

    def __init__(self, node: StepwiseNode, grads: Tensor) -> None:
        self.node = node
        self.field = node.field
        self.solver = node.solver
        self.parameters = node.parameters
        self.grads = grads
        self.d = grads.shape[1]
        self.total: list[Tensor | None] = [None] * len(self.parameters)

    def through(
        self, start: Tensor, first: int, stop: int, a: Tensor, end: Tensor | None = None
    ) -> Generator[StepEnd, None, Tensor]:
        """Pull back through the steps ``first`` to ``stop``, of which ``start`` is the carried vector at the first.

        From the cotangent ``a`` of the last carried vector return that of ``start``, with the outputs' on the way;
        yield where each step begins, the last one first. ``end`` is what the last step ended at on the way forward, if
        that is to be held against.

        Raises
        ------
        UsageError
            If the steps end somewhere else now.
        """
        grid = self.node.grid[first:stop]
        # An output is a copy of the state: its cotangent joins that of the state, and of nothing carried beside it.
        # Cloned, since the caller's may be a tensor that autograd handed out.
        a = a.clone()
        a[: self.d] += self.grads[grid[-1].at_end].sum(0)
        if self.solver.compile:
            return (yield from self._through_compiled(start, grid, first, a))
        a, between = self._through_graph(start, grid, a, end)
        for i in range(len(between), 0, -1):
            yield StepEnd(first + i, *between[i - 1])
        yield StepEnd(first, start, a)
        return a

    def to_start(self, x0: Tensor, a: Tensor) -> Tensor:
        """Return ``dL/dy0 [d]`` from the cotangent of the first carried vector."""
        # What is carried beside the state was made from it, the leapfrog's velocity by one more f call.
        if a.numel() > self.d:
            with torch.enable_grad():
                y0 = x0[: self.d].detach().requires_grad_()
                x = graph_stepper(self.solver, self.field, y0.detach()).start(self.node.times[0], y0)
            of_start, *pulled = self.field.pulled_through([x], (y0, *self.parameters), [a])
            self._add(pulled)
            a = torch.zeros_like(x0[: self.d]) if of_start is None else of_start
        return a + self.grads[0]

    def _through_graph(
        self, start: Tensor, grid: Sequence[GridStep], a: Tensor, end: Tensor | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return the cotangent of ``start``; and states and costates between the steps, if a tap wants them."""
        ends: list[Tensor] = []
        inside, of_inside = [], []
        with self.field.replaying() if len(grid) == 1 else nullcontext() as replay:
            with torch.enable_grad():
                x = leaf = start.detach().requires_grad_()
                again = replayed_with_graph(self.field, self.solver, leaf, grid, self.d)
                for step, (x, ys) in zip(grid, again, strict=True):
                    if self.node.tap is not None:
                        ends.append(x)
                    if ys is not None:
                        inside.append(ys)
                        of_inside.append(self.grads[step.inside])
            if end is not None:
                _refuse_another_end(x, end)
            # States between the steps are asked for as inputs: autograd hands out their costates on the way to the
            # start.
            inner = ends[:-1]
            inputs = (leaf, *inner, *self.parameters)
            outputs, of_outputs = [x, *inside], [a, *of_inside]
            if replay is None:
                of_start, *pulled = self.field.pulled_through(outputs, inputs, of_outputs)
            else:
                of_start, *pulled = self.field.pulled_through_replay(outputs, inputs, of_outputs, replay)
        self._add(pulled[len(inner) :])
        # Each is reached, by the step from it if by nothing else.
        costates = cast("list[Tensor]", [of_start, *pulled[: len(inner)]])
        return costates[0], [(y.detach(), of_y) for y, of_y in zip(inner, costates[1:], strict=True)]

    def _through_compiled(
        self, start: Tensor, grid: Sequence[GridStep], first: int, a: Tensor
    ) -> Generator[StepEnd, None, Tensor]:
        """Redo the block without a graph, pull back by one compiled call per step."""
        tableau, compiler = self.solver.tableau, StepCompiler.of(self.field, self.solver.tableau)
        states = [start, *replayed(self.field, self.solver, start, grid[:-1], self.d)]
        unused = start.new_zeros((tableau.stages, self.d))
        for i in range(len(grid) - 1, -1, -1):
            y, step = states[i], grid[i]
            stages = unused
            if step.thetas:
                inner = self.grads[step.inside]
                stages = dense_weights(tableau, step.h, step.thetas, inner).t() @ inner
            times, h = compiler.times_and_size(step.t, step.h, step.t_next)
            pull_back = compiler.pull_back(whole=bool(step.thetas))
            a, *pulled = pull_back(y, a, times, h, stages, *compiler.tensors)
            if step.thetas:
                a = a + inner.sum(0)
            self._add(pulled)
            yield StepEnd(first + i, y, a)
        return a

    def _add(self, pulled: Sequence[Tensor | None]) -> None:
        # The first is taken as it is, which spares p zeros and a sum. Never in place: autograd may hand out one tensor
        # twice.
        for i, p in enumerate(pulled):
            if p is not None:
                total = self.total[i]
                self.total[i] = p if total is None else total + p


def _refuse_another_end(x: Tensor, end: Tensor) -> None:
    """Raise if a redone step ends at ``x [d]``, and not at ``end [d]`` as on the way forward; on a GPU do not wait."""
    x = x.detach()
    if x.is_cuda or torch.equal(x, end):
        return
    apart, size = float((x - end).abs().amax()), float(end.abs().amax())
    if apart > MAY_END_APART * torch.finfo(x.dtype).eps * size:
        raise UsageError(
            f"field: a step that is redone in the backward pass ends {apart / size:.1e} of the state's size from where "
            "it ended in the forward pass, so f is no function of t and y alone: it depends on something outside of it "
            "that has changed (a global, a variable of a closure, a generator made anew); keep that out of forward, or "
            "use gradient method naive"
        )
