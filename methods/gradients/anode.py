"""ANODE: keep the state at the start of each block, redo the block with a graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Calls, StepCounts, Traits
from odegrad.errors import UsageError
from odegrad.methods.gradients.entry import Route, SharedLoopMethod, forward_calls
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import Grid, integrate, replay_with_graph
from odegrad.methods.solvers.solver import RungeKutta
from odegrad.methods.solvers.step import Step


@dataclass(frozen=True)
class Anode(SharedLoopMethod):
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
        summary="checkpoint each block's start, replay the block with a graph",
        paper="Gholami et al., ANODE: Unconditionally Accurate Memory-Efficient Gradients for Neural ODEs, IJCAI 2019",
        exact=True,
        memory="M d + A s N of one block",
        cost_forward="s(N+R)+2 F",
        cost_backward="sN F + sN B",
        backward_phase="recompute",
    )

    def __post_init__(self) -> None:
        """Check the option."""
        n = self.steps_per_block
        if n is not None and (not isinstance(n, int) or n < 1):
            raise UsageError(f"steps_per_block: expected a positive whole number or None, got {n!r}")

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        calls = steps.evaluations * steps.accepted
        return Calls(forward_calls(steps), calls, calls)

    def solve(self, field: FlatField, solver: RungeKutta, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that replays block by block."""
        return BlockReplay(field, solver, times, self.steps_per_block).apply(y0)


class BlockReplay(Route):
    """``blocks[i] = (index of the output that ends it or None, steps)``; ``kept[i]`` is the block's first state."""

    def __init__(self, field: FlatField, solver: RungeKutta, times: Sequence[float], steps_per_block: int | None):
        super().__init__(field, solver, times)
        self.steps_per_block = steps_per_block
        self.blocks: list[Grid] = []
        self.ends: list[int | None] = []

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep the first state and the accepted steps of each block."""
        outputs = {t: k for k, t in enumerate(self.times) if k > 0}
        starts: list[Tensor] = []
        open_block: Grid = []

        def record(step: Step) -> None:
            if not open_block:
                starts.append(step.y)
            open_block.append((step.t, step.h, step.t_next))
            end = outputs.get(step.t_next)
            if end is not None or len(open_block) == self.steps_per_block:
                self.blocks.append(list(open_block))
                self.ends.append(end)
                open_block.clear()

        ys = integrate(self.field, self.solver, y0, self.times, record)
        return torch.stack(ys), tuple(starts)

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Replay the blocks from the last to the first."""
        a = torch.zeros_like(grads[0])
        total: list[Tensor | None] = [None] * len(self.parameters)
        for start, grid, end in zip(reversed(kept), reversed(self.blocks), reversed(self.ends), strict=True):
            if end is not None:
                a = a + grads[end]
            with torch.enable_grad():
                y = start.detach().requires_grad_()
                y_end = replay_with_graph(self.field, self.solver, y, grid)
            a, *pulled = torch.autograd.grad(y_end, (y, *self.parameters), a, allow_unused=True)
            total = [p if t is None else (t if p is None else t + p) for t, p in zip(total, pulled, strict=True)]
        return a + grads[0], total
