"""ANODE: keep the state at the start of each block, redo the block with a graph."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Bytes, Calls, Sizes, StepCounts, Traits
from odegrad.errors import UsageError
from odegrad.methods.backward.entry import Route, TappableMethod, forward_calls
from odegrad.methods.backward.step_ends import StepEnds
from odegrad.methods.solvers.compiled import StepCompiler
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import integrate, replay_with_graph, replayed
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.step import dense_weights
from odegrad.methods.solvers.stepper import GridStep, Step
from odegrad.methods.solvers.steppers import graph_stepper


@dataclass(frozen=True)
class Anode(TappableMethod):
    """Store each block's first state and its accepted steps; redo the block with a graph (Gholami et al. 2019).

    A block is the interval between two outputs, or at most ``steps_per_block`` accepted steps of it. The replay takes
    the recorded steps, so the gradient is naive's; one engine call a block.

    Parameters
    ----------
    steps_per_block
        Most accepted steps of a block; None for one block per output interval, as published.

    Raises
    ------
    UsageError
        If ``steps_per_block`` is not a positive whole number.
    """

    steps_per_block: int | None = None

    traits: ClassVar[Traits] = Traits(
        name="anode",
        summary="keeps each block's start, replays the block with a graph",
        paper="Gholami et al., ANODE: Unconditionally Accurate Memory-Efficient Gradients for Neural ODEs, IJCAI 2019",
        exact=True,
        keeps="the first state and the recorded steps of each block",
        memory="M d + A s N of one block",
        cost_forward="s(N+R)+2 F",
        cost_backward="sN F + sN B",
        backward_phase="recompute",
        state_from="replay",
        taps="step ends",
    )

    def __post_init__(self) -> None:
        """Check the option."""
        n = self.steps_per_block
        if n is not None and (not isinstance(n, int) or n < 1):
            raise UsageError(f"steps_per_block: expected a positive whole number or None, got {n!r}")

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        calls = steps.evaluations * steps.accepted + steps.carried
        return Calls(forward_calls(steps), calls, calls)

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:
        """Return the bytes that these steps cost."""
        n, blocks = steps.accepted, steps.intervals
        if self.steps_per_block is not None:
            blocks = max(blocks, math.ceil(n / self.steps_per_block))
        saved = (blocks - 1 + sizes.outputs) * sizes.state_bytes
        return Bytes(saved, saved + steps.evaluations * math.ceil(n / blocks) * sizes.graph_bytes)

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that replays block by block."""
        return BlockReplay(field, solver, times, self.steps_per_block).watched_by(self.tap).apply(y0)


class BlockReplay(Route):
    """Keeps the carried vector at the start of each block, ``kept[i]``, and redoes ``blocks[i]`` from it."""

    def __init__(self, field: FlatField, solver: OneStepSolver, times: Sequence[float], steps_per_block: int | None):
        super().__init__(field, solver, times)
        self.steps_per_block = steps_per_block
        self.blocks: list[list[GridStep]] = []

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep the first state and the accepted steps of each block."""
        starts: list[Tensor] = []
        open_block: list[GridStep] = []

        def record(step: Step) -> None:
            if not open_block:
                starts.append(step.x)
                self.blocks.append(open_block)
            open_block.append(step.place)
            if self.ends is not None:
                self.ends.record(step)
            ends_at_output = len(step.place.outputs) > len(step.place.thetas)
            if ends_at_output or len(open_block) == self.steps_per_block:
                self.blocks[-1] = list(open_block)
                open_block.clear()

        ys = integrate(self.field, self.solver, y0, self.times, record)
        return ys, tuple(starts)

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Replay the blocks from the last to the first."""
        back = ReplayedSteps(self.field, self.solver, self.parameters, grads, self.ends)
        a = torch.zeros_like(kept[-1])
        for start, grid in zip(reversed(kept), reversed(self.blocks), strict=True):
            a = back.through(start, grid, a)
        return back.to_start(self.times[0], kept[0], a), back.total


class ReplayedSteps:
    """Pulls back through recorded steps by redoing them with a graph; parameter gradients gather in ``total``.

    The steps come from the last to the first; ``ends``, if there is one, samples the states on the way.
    """

    def __init__(
        self,
        field: FlatField,
        solver: OneStepSolver,
        parameters: Sequence[Tensor],
        grads: Tensor,
        ends: StepEnds | None,
    ) -> None:
        self.field = field
        self.solver = solver
        self.parameters = tuple(parameters)
        self.grads = grads
        self.d = grads.shape[1]
        self.total: list[Tensor | None] = [None] * len(self.parameters)
        self.ends = ends
        if ends is not None:
            self._n, self._x = len(ends.grid), ends.end

    def through(self, start: Tensor, grid: Sequence[GridStep], a: Tensor) -> Tensor:
        """Return the cotangent of ``start`` from that of the last carried vector, with the outputs' on the way."""
        between = self._sample_end_of_block(start, len(grid), a)
        a = a.clone()
        a[: self.d] += self.grads[grid[-1].at_end].sum(0)
        if self.solver.compile:
            return self._through_compiled(start, grid, a)
        with torch.enable_grad():
            x = start.detach().requires_grad_()
            x_end, inside = replay_with_graph(self.field, self.solver, x, grid, self.d, between)
        cotangents = [a, *(self.grads[at] for at, _ in inside)]
        return self._pull([x_end, *(y for _, y in inside)], x, cotangents)

    def to_start(self, t0: float, x0: Tensor, a: Tensor) -> Tensor:
        """Return ``dL/dy0 [d]`` from the cotangent of the first carried vector."""
        if self.ends is not None:
            self.ends.observe(0, x0, a, self.grads)
        if a.numel() > self.d:
            with torch.enable_grad():
                y0 = x0[: self.d].detach().requires_grad_()
                x = graph_stepper(self.solver.scheme, self.field, y0.detach()).start(t0, y0)
            a = self._pull([x], y0, [a])
        return a + self.grads[0]

    def _sample_end_of_block(self, start: Tensor, steps: int, a: Tensor) -> Callable[[int, Tensor], None] | None:
        """Sample where the block of ``steps`` from ``start`` ends; return how to sample between its steps."""
        ends = self.ends
        if ends is None:
            return None
        ends.observe(self._n, self._x, a, self.grads)
        self._n, self._x = self._n - steps, start
        first = self._n

        def between(i: int, x: Tensor) -> None:
            ends.inside_graph(first + i, x, lambda: self.grads, whole=False)

        return between

    def _through_compiled(self, start: Tensor, grid: Sequence[GridStep], a: Tensor) -> Tensor:
        """Return the cotangent of ``start``: redo the block without a graph, pull back by one compiled call a step."""
        tableau, compiler = self.solver.tableau, StepCompiler.of(self.field, self.solver.tableau)
        states = [start, *replayed(self.field, self.solver, start, grid[:-1], self.d)]
        unused = start.new_zeros((tableau.stages, self.d))
        for i, (y, place) in reversed(list(enumerate(zip(states, grid, strict=True)))):
            stages = unused
            if place.thetas:
                inner = self.grads[place.inside]
                stages = dense_weights(tableau, place.h, place.thetas, inner).t() @ inner
            times, h = compiler.place(place.t, place.h, place.t_next)
            pull_back = compiler.pull_back(whole=bool(place.thetas))
            a, *pulled = pull_back(y, a, times, h, stages, *compiler.tensors)
            if place.thetas:
                a = a + inner.sum(0)
            self._add(pulled)
            if self.ends is not None and i > 0:
                self.ends.observe(self._n + i, y, a, self.grads)
        return a

    def _pull(self, outputs: Sequence[Tensor], x: Tensor, cotangents: Sequence[Tensor]) -> Tensor:
        a, *pulled = torch.autograd.grad(outputs, (x, *self.parameters), cotangents, allow_unused=True)
        self._add(pulled)
        return torch.zeros_like(x) if a is None else a

    def _add(self, pulled: Sequence[Tensor | None]) -> None:
        for i, p in enumerate(pulled):
            if p is not None:
                total = self.total[i]
                self.total[i] = p if total is None else total + p
