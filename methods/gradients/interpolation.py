"""The interpolation method (IRDM): solve the costate backwards, read the state from Chebyshev nodes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Bytes, Sizes, StepCounts, Traits
from odegrad.methods.backward.continuous import BackwardSolveNode, ContinuousMethod, with_dense_output
from odegrad.methods.backward.interpolant_error import MAX_NODES, HeldStates
from odegrad.methods.backward.per_sample.cost import bytes_solved_back
from odegrad.methods.backward.per_sample.interpolated import InterpolatedRowsNode
from odegrad.methods.backward.reconstruction import smallest_size, tell
from odegrad.methods.solvers.chebyshev import ChebyshevNodes, Kind, check_nodes
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.ends.landing import OpenTimes
from odegrad.methods.solvers.ends.recorded import RecordedStep
from odegrad.methods.solvers.loop import steps
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import AcceptedStep


@dataclass(frozen=True)
class Interpolation(ContinuousMethod):
    """Keep the state at Chebyshev nodes, solve ``(a, g)`` back and read ``y(t)`` from them (Daulbaev et al. 2020).

    The nodes are filled from the solver's dense output at no extra f call, per interval between two outputs; the
    barycentric formula gives the state at any time. The state is not solved backwards, so its instability on
    contracting dynamics is gone, and what is kept does not depend on the number of steps.

    Parameters
    ----------
    num_nodes
        Nodes per output interval, at least 2.
    kind
        ``second``: Chebyshev extrema, which hold the end points; ``first``: roots.

    Beside these, the options of ``ContinuousMethod``.

    Raises
    ------
    UsageError
        If an option is out of range.
    """

    num_nodes: int = 16
    kind: Kind = "second"

    traits: ClassVar[Traits] = Traits(
        name="interpolation",
        summary="solves costate and parameter gradient backwards, reads the state from Chebyshev nodes (IRDM)",
        paper="Daulbaev et al., Interpolation Technique to Speed Up Gradients Propagation in Neural ODEs, NeurIPS 2020",
        exact=False,
        keeps="the state at Chebyshev nodes",
        memory="A + n d per output + (2d+p) stages, independent of N",
        cost_forward="s(N+R)+2 F",
        cost_backward="per output s(N'+R')+2 of (F+B)",
        backward_phase="adjoint",
        state_from="interpolant",
        taps="any time",
    )

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_nodes(self.num_nodes, self.kind)

    def cannot_use(self, solver: OneStepSolver) -> str | None:
        """Return why this method cannot take the steps of ``solver``, or None if it can."""
        reason = super().cannot_use(solver)
        if reason is None and not solver.has_dense_output:
            return f"the node states come from dense output, which it does not have; use {with_dense_output(solver)}"
        return reason

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:
        """Return the bytes that these steps cost."""
        saved = (sizes.outputs + self.num_nodes * steps.intervals) * sizes.state_bytes + sizes.item_bytes
        if steps.rounds is not None:
            return bytes_solved_back(steps, sizes, saved)
        return Bytes(saved, saved + self.bytes_of_stages(steps, sizes) + sizes.graph_bytes)

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that solves back over the stored nodes."""
        return InterpolatedNode(field, solver, times, self).apply(y0)

    def solve_rows(self, field: RowField, solver: OneStepSolver, y0: Tensor, times: SampleTimes) -> Tensor:
        """Return the states ``[K, batch, n]`` with one node that solves every sample back over its own nodes."""
        nodes = (self.num_nodes, self.kind)
        return InterpolatedRowsNode(field, solver, times, self.backward_steps(solver), nodes).apply(y0)


class _NodeFiller:
    """Writes the states at the nodes as the steps pass over them; ``values [K-1, n, d]``."""

    def __init__(self, intervals: Sequence[ChebyshevNodes], y0: Tensor) -> None:
        self.values = y0.new_empty((len(intervals), intervals[0].n, y0.numel()))
        self.pending = [(i, j, float(t)) for i, nodes in enumerate(intervals) for j, t in enumerate(nodes.times)]

    def fill(self, step: AcceptedStep) -> None:
        """Fill the nodes inside ``step``; a node at its end gets the end state itself, of both intervals there."""
        inside: list[tuple[int, int, float]] = []
        while self.pending and (step.t_next - self.pending[0][2]) * step.h >= 0:
            inside.append(self.pending.pop(0))
        # All nodes inside by one product; a step's own ends are known exactly, without the interpolation error.
        between = [(i, j, t) for i, j, t in inside if t not in (step.t, step.t_next)]
        if between:
            # Neighbours, since only the first and the last of those inside can lie at an end: one slice and no index,
            # which a GPU would have to be sent.
            (i, j, _), count = between[0], len(between)
            first = i * self.values.shape[1] + j
            self.values.view(-1, self.values.shape[-1])[first : first + count] = step.at([t for _, _, t in between])
        for i, j, t in inside:
            if t in (step.t, step.t_next):
                self.values[i, j].copy_(step.y if t == step.t else step.y_next)


@dataclass(frozen=True)
class _Interpolant:
    """The state between two outputs."""

    nodes: ChebyshevNodes
    values: Tensor

    def at(self, times: Sequence[float]) -> Tensor:
        """Return the states ``[m, d]`` at ``times``."""
        return self.nodes.evaluate(self.values, times)


class InterpolatedNode(BackwardSolveNode):
    """The node of the interpolation method; it keeps the node states ``[K-1, n, d]``, and how far they are off."""

    options: Interpolation

    def __init__(self, field: FlatField, solver: OneStepSolver, times: Sequence[float], options: Interpolation) -> None:
        super().__init__(field, solver, times, options)
        self.intervals: list[ChebyshevNodes] = []
        self.enough_nodes = 0

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep the states at the nodes."""
        options, walk = self.options, steps(self.field, self.solver, y0, self.times)
        if isinstance(self.times, OpenTimes):
            # The nodes lie between start and end: until that is found every step's polynomial is kept.
            walk = iter([RecordedStep.of(step) for step in walk])
        pairs = itertools.pairwise(self.times)
        self.intervals = [ChebyshevNodes(a, b, options.num_nodes, options.kind) for a, b in pairs]
        filler, held = _NodeFiller(self.intervals, y0), HeldStates(self.intervals, self.solver.dense_degree)
        ys = [y0[None]]
        for step in walk:
            filler.fill(step)
            held.pass_over(step)
            ys += step.ys
        self.enough_nodes = held.enough_nodes(self.solver)
        return torch.cat(ys), (filler.values, held.error(filler.values, smallest_size(self.solver, y0.numel())))

    def state(self, k: int, kept: tuple[Tensor, ...]) -> _Interpolant:
        """Return the interpolant between the two outputs."""
        return _Interpolant(self.intervals[k - 1], kept[0][k - 1])

    def arrived(self, kept: tuple[Tensor, ...]) -> None:
        """Tell how far the interpolant was from the states at the ends of the forward pass's steps."""
        tell(kept[1], self.solver, self.limits(), self._remedy)

    def _remedy(self, _error: float, _limit: float) -> str:
        """Return what helps: more nodes, unless the steps ask for too many; the steps' own polynomials always do."""
        given, enough = self.options.num_nodes, self.enough_nodes
        if enough > MAX_NODES:
            return (
                f"num_nodes = {given} cannot follow steps so small, nor could {MAX_NODES}; take interpolation_dense, "
                "or aca or anode, which keep or replay the steps"
            )
        return (
            f"num_nodes = {given} is too few; give num_nodes = {enough}, or take interpolation_dense, aca or anode "
            "(where the field has kinks in time, no number of nodes will do)"
        )
