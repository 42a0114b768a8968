"""MALI: invert the asynchronous leapfrog step by step, pull back one f call at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Bytes, Calls, Sizes, StepCounts, Traits
from odegrad.methods.backward.costs import forward_calls
from odegrad.methods.backward.products import pull_call
from odegrad.methods.backward.step_ends import StepEnd
from odegrad.methods.backward.stepwise import InvertedNode, WalkBack
from odegrad.methods.backward.tappable import TappableMethod
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.schemes import Leapfrog
from odegrad.methods.solvers.solver import OneStepSolver


@dataclass(frozen=True)
class Mali(TappableMethod):
    """Keep the last (y, v) only, and run the undamped leapfrog backwards to every earlier one (Zhuang et al. 2021).

    The step's only f call, ``u = f(t + h/2, y_m)``, stands at ``y_m = y' - h/2 v'``, which the end of the step gives;
    then ``v = 2 u - v'`` and ``y = y_m - h/2 v``. One call with a graph both inverts the step and pulls back through
    it. The gradient is exact for the leapfrog's solution, up to rounding in the reconstruction. The undamped leapfrog
    is weakly stable: on contracting dynamics a parasitic oscillation of v grows like the error of a backward solve,
    exp of the integral of mu(-f_y), and step control may not get through.
    """

    traits: ClassVar[Traits] = Traits(
        name="mali",
        summary="inverts the asynchronous leapfrog (solver alf) step by step: memory free of the number of steps",
        paper="Zhuang et al., MALI: A Memory Efficient and Reverse Accurate Integrator for Neural ODEs, ICLR 2021",
        exact=True,
        keeps="the last carried vector",
        memory="2d + A, independent of N",
        cost_forward="N+R+2 F",
        cost_backward="N+1 F + N+1 B",
        backward_phase="recompute",
        state_from="inverse",
        taps="step ends",
    )

    def cannot_use(self, solver: OneStepSolver) -> str | None:
        """Return why this method cannot take the steps of ``solver``, or None if it can."""
        if solver.implicit:
            return "an implicit step has no inverse step; use aca, or solver alf"
        if not isinstance(solver.scheme, Leapfrog):
            return "it inverts the asynchronous leapfrog and nothing else; use solver alf"
        if solver.scheme.eta != 1.0:
            return (
                f"with damping eta = {solver.scheme.eta:g} the reconstruction grows like |1 - 2 eta|^-N; "
                "use eta = 1, or gradient method aca"
            )
        return None

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        return Calls(forward_calls(steps), steps.accepted + 1, steps.accepted + 1)

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:  # noqa: ARG002
        """Return the bytes that these steps cost."""
        saved = (2 + sizes.outputs) * sizes.state_bytes
        return Bytes(saved, saved + sizes.graph_bytes + sizes.parameter_bytes)

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that runs the leapfrog back."""
        return _InvertedLeapfrog(field, solver, times, self.tap).apply(y0)


class _InvertedLeapfrog(InvertedNode):
    """Runs the leapfrog back."""

    def walk_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> WalkBack:
        """Invert and pull back from the last step to the first."""
        total = [torch.zeros_like(p) for p in self.parameters]
        y, v = kept[0].tensor_split(2)
        a_y, a_v = torch.zeros_like(y), torch.zeros_like(v)
        for n, step in self.backwards():
            # Back through y' = y_m + h/2 v', v' = 2 u - v, u = f(y_m), y_m = y + h/2 v, from the last to the first;
            # the same four, solved for the other end, give y and v.
            half = 0.5 * step.h
            a_y = a_y + grads[step.at_end].sum(0)
            a_v = torch.add(a_v, a_y, alpha=half)
            middle = torch.sub(y, v, alpha=half)
            u, pulled = pull_call(self.field, step.t + half, middle, 2.0 * a_v, self.parameters, total)
            v = 2.0 * u - v
            y = torch.sub(middle, v, alpha=half)
            a_y = a_y + pulled
            a_v = torch.sub(half * a_y, a_v)
            yield StepEnd(n, y, a_y)
        self.arrive(y, kept)
        # The first velocity is f(t0, y0): its cotangent belongs to the initial state and the parameters.
        _, pulled = pull_call(self.field, self.times[0], y, a_v, self.parameters, total)
        return a_y + pulled + grads[0], total
