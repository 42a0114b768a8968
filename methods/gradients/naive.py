"""Naive backprop: autograd through every accepted step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Bytes, Calls, Sizes, StepCounts, Traits
from odegrad.methods.backward.entry import TappableMethod, forward_calls
from odegrad.methods.backward.step_ends import StepEnds
from odegrad.methods.solvers.dynamics import FlatField, trained_parameters
from odegrad.methods.solvers.loop import integrate_with_graph
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import Step


@dataclass(frozen=True)
class Naive(TappableMethod):
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

    def refuses(self, solver: OneStepSolver) -> str | None:
        """Return why this method cannot use ``solver``, or None if it can."""
        if solver.compile:
            return "it keeps the graph of eager steps; leave out compile, or take aca, which has the same gradient"
        return super().refuses(solver)

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        calls = steps.evaluations * steps.accepted + steps.carried
        return Calls(forward_calls(steps), 0, calls)

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:
        """Return the bytes that these steps cost."""
        saved = steps.evaluations * steps.accepted * sizes.graph_bytes + sizes.outputs * sizes.state_bytes
        return Bytes(saved, saved)

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with the graph of the steps."""
        if self.tap is None or not torch.is_grad_enabled():
            return integrate_with_graph(field, solver, y0, times)
        return _watched(StepEnds(self.tap, field, solver.scheme), solver, y0, times)


def _watched(ends: StepEnds, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
    """Solve with the graph of the steps and hooks on the states between them, which change no gradient."""
    of_outputs: list[Tensor] = []

    def on_step(step: Step) -> None:
        ends.record(step)
        ends.inside_graph(len(ends.grid), step.x_next, lambda: of_outputs[0], whole=True)

    def keep(grads: Tensor) -> None:
        of_outputs[:] = [grads.detach()]

    if not y0.requires_grad and trained_parameters(ends.field.field):
        y0 = y0.detach().requires_grad_()
    ys = integrate_with_graph(ends.field, solver, y0, times, on_step)
    if ys.requires_grad:
        ys.register_hook(keep)  # type: ignore[no-untyped-call]
        ends.inside_graph(0, y0, lambda: of_outputs[0], whole=True)
    return ys
