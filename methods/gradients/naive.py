"""Naive backprop: autograd through every accepted step."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Bytes, Calls, Sizes, StepCounts, Tap, Traits
from odegrad.methods.backward.costs import (
    forward_calls,
    graph_of_steps,
    pullback_peak,
    read_graph,
    reads_at_end,
    stage_calls,
    stage_products,
    with_systems,
)
from odegrad.methods.backward.per_sample.cost import bytes_of_graph, kept_graph_calls
from odegrad.methods.backward.per_sample.naive import solved_with_graph
from odegrad.methods.backward.precision.kept_graph import solved_apart
from odegrad.methods.backward.step_ends import StepEnd, StepEndSampler
from odegrad.methods.backward.tappable import TappableRowsMethod
from odegrad.methods.solvers.dynamics import FlatField, trained_parameters
from odegrad.methods.solvers.loop import integrate_with_graph, steps_with_graph
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import GridStep


@dataclass(frozen=True)
class Naive(TappableRowsMethod):
    """Keep the graph of every accepted step and let autograd walk it back (Chen et al. 2018, section 2).

    The gradient is exact for the computed loss. Step sizes are constants: the choice of a step is not differentiated,
    and a rejected step leaves no graph behind.
    """

    traits: ClassVar[Traits] = Traits(
        name="naive",
        summary="autograd through every accepted step",
        paper="Chen et al., Neural Ordinary Differential Equations, NeurIPS 2018",
        exact=True,
        keeps="the graph of every accepted step",
        memory="A s N + K d",
        cost_forward="s(N+R)+2 F",
        cost_backward="sN B",
        backward_phase="recompute",
        double_backward=True,
        taps="step ends",
    )

    takes_transforms: ClassVar[bool] = True

    def cannot_use(self, solver: OneStepSolver) -> str | None:
        """Return why this method cannot take the steps of ``solver``, or None if it can."""
        if solver.compile:
            return "it keeps the graph of eager steps; leave out compile, or take aca, which has the same gradient"
        return super().cannot_use(solver)

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        if steps.rounds is not None:
            return kept_graph_calls(steps, steps.rounds)
        # Of an implicit solve the first rate is called again on the way back.
        again = steps.carried if steps.implicit else 0
        vjps = stage_products(steps) + steps.carried + reads_at_end(steps)
        return with_systems(Calls(forward_calls(steps), stage_calls(steps) + again, vjps), steps)

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:
        """Return the bytes that these steps cost."""
        if steps.rounds is not None:
            return bytes_of_graph(steps, sizes, steps.rounds)
        saved = graph_of_steps(steps, sizes, steps.accepted) + sizes.outputs * sizes.state_bytes
        saved += read_graph(steps, sizes)
        if steps.implicit:
            saved += steps.carried * steps.carried_states * sizes.state_bytes
        return Bytes(saved, saved + pullback_peak(steps, sizes))

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with the graph of the steps."""
        if field.low is not None:
            return solved_apart(
                field,
                solver,
                y0,
                lambda start: self._solved_with_graph(field, solver, start, times),
                watched=self.tap is not None,
            )
        return self._solved_with_graph(field, solver, y0, times)

    def _solved_with_graph(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        if self.tap is None or not torch.is_grad_enabled():
            ys = integrate_with_graph(field, solver, y0, times)
        else:
            ys = _Watched(self.tap, field, solver).solve(y0, times)
        if field.held is not None and torch.is_grad_enabled() and (solver.implicit or self.tap is not None):
            # The pull-back through an implicit step calls the field again, and so does a tap.
            field.held.settle(trained_parameters(field.field))
            if solver.implicit:
                field.refuse_memory(lambda: field(times[0], y0.detach()))
        return ys

    def solve_rows(self, field: RowField, solver: OneStepSolver, y0: Tensor, times: SampleTimes) -> Tensor:
        """Return the states ``[K, batch, n]`` with the graph of the accepted steps, by rank."""
        if field.low is not None:
            return solved_apart(field, solver, y0, lambda start: solved_with_graph(field, solver, start, times))
        return solved_with_graph(field, solver, y0, times)


class _Watched:
    """The same solve with hooks on the states between the steps, which change no gradient."""

    def __init__(self, tap: Tap, field: FlatField, solver: OneStepSolver) -> None:
        self.tap = tap
        self.field = field
        self.solver = solver
        self.grid: list[GridStep] = []
        self.sampler: StepEndSampler | None = None

    def solve(self, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with the graph of the steps."""
        # Autograd only walks to what requires a gradient: without this the initial state would have no sample.
        if not y0.requires_grad and trained_parameters(self.field.field):
            y0 = y0.detach().requires_grad_()
        ys = [y0[None]]
        for n, step in enumerate(steps_with_graph(self.field, self.solver, y0, times), start=1):
            self.grid.append(step.grid_step)
            self._sample_at(n, step.x_next)
            ys += step.ys
        solution = torch.cat(ys)
        if solution.requires_grad:
            solution.register_hook(self._begin)  # type: ignore[no-untyped-call]
            self._sample_at(0, y0)
        return solution

    def _begin(self, grads: Tensor) -> None:
        """Hear of ``dL/dys``, which autograd knows before it walks through the steps."""
        scheme = self.solver.scheme
        self.sampler = StepEndSampler(self.tap, self.field, scheme, self.grid, grads.detach())

    def _sample_at(self, n: int, x: Tensor) -> None:
        """Let autograd's walk through ``x``, the carried vector after n steps, give the sample."""
        if not x.requires_grad:
            return
        known = x.detach()

        def hook(total: Tensor) -> None:
            if self.sampler is not None:
                # autograd's sum holds the cotangent of an output at this time, which is no part of a sample's
                a = total.detach().clone()
                of_output = self.sampler.at_output(n)
                a[: len(of_output)] -= of_output
                held = self.field.held
                with nullcontext() if held is None else held.as_it_was({}, ()):
                    self.sampler.sample(StepEnd(n, known, a))

        x.register_hook(hook)  # type: ignore[no-untyped-call]
