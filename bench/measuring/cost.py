"""The cost model: the calls and bytes that a gradient method predicts for the solves of one loss."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from odegrad.contracts import Bytes, Calls, GradientMethod, PredictsBytes, PredictsCalls, Sizes, State, StepCounts
from odegrad.measuring.meters import memory_meter
from odegrad.states import parts


@dataclass(frozen=True)
class SolveCost:
    """What the cost of one solve, forward and backward, depends on."""

    steps: StepCounts
    sizes: Sizes
    pulled_back: bool = True
    """False for a solve that the loss does not depend on: it costs its forward calls only."""


def predicted_columns(method: GradientMethod, solves: Sequence[SolveCost]) -> dict[str, int | None]:
    """Return the predicted columns of one forward and one backward pass over ``solves``; None for what is not.

    ``solves`` are in the order of the forward pass; of none nothing is predicted.
    """
    calls = predicted_calls(method, solves) if solves else None
    sizes = predicted_bytes(method, solves) if solves else None
    return {
        "predicted_nfe_forward": None if calls is None else calls.forward,
        "predicted_nfe_backward": None if calls is None else calls.backward,
        "predicted_vjps": None if calls is None else calls.vjps,
        **_predicted_systems(calls, solves),
        "predicted_saved_bytes": None if sizes is None else sizes.saved,
        "predicted_peak_bytes": None if sizes is None else sizes.peak,
    }


def _predicted_systems(calls: Calls | None, solves: Sequence[SolveCost]) -> dict[str, int | None]:
    implicit = calls is not None and any(solve.steps.implicit for solve in solves)
    return {
        "predicted_jacobians_backward": calls.jacobians if calls is not None and implicit else None,
        "predicted_factorisations_backward": calls.factorisations if calls is not None and implicit else None,
        "predicted_linear_solves_backward": calls.solves if calls is not None and implicit else None,
    }


def predicted_calls(method: GradientMethod, solves: Sequence[SolveCost]) -> Calls | None:
    """Return the sum of the calls over ``solves``; None if the method predicts none."""
    if not isinstance(method, PredictsCalls):
        return None
    total = Calls(0, 0, 0)
    for solve in solves:
        calls = method.predicted_calls(solve.steps)
        total = _sum(total, calls if solve.pulled_back else Calls(calls.forward, 0, 0))
    return total


def _sum(a: Calls, b: Calls) -> Calls:
    return Calls(**{f.name: getattr(a, f.name) + getattr(b, f.name) for f in fields(Calls)})


def predicted_bytes(method: GradientMethod, solves: Sequence[SolveCost]) -> Bytes | None:
    """Return the bytes of all ``solves`` together; None if the method predicts none.

    The backward pass takes one solve after the other, from the last to the first, and frees what each has kept.
    """
    if not isinstance(method, PredictsBytes):
        return None
    saved, peak = 0, 0
    for solve in solves:
        if solve.pulled_back:
            size = method.predicted_bytes(solve.steps, solve.sizes)
            peak = max(peak, saved + size.peak)
            saved += size.saved
    return Bytes(saved, peak)


def sizes_of(field: nn.Module, y0: State, outputs: int, graph: int) -> Sizes:
    """Return the sizes of a solve from ``y0`` to ``outputs`` times K, whose f call's graph holds ``graph`` bytes."""
    pieces = parts(y0)
    return Sizes(
        state_bytes=sum(p.numel() * p.element_size() for p in pieces),
        parameter_bytes=sum(p.numel() * p.element_size() for p in field.parameters() if p.requires_grad),
        graph_bytes=graph,
        outputs=outputs,
        item_bytes=pieces[0].element_size(),
    )


def graph_bytes(field: Any, t: Tensor, y0: State) -> int:
    """Return the bytes that the autograd graph of the f call at ``(t, y0)`` holds, its output left out."""
    leaves = tuple(p.detach().requires_grad_() for p in parts(y0))
    with torch.enable_grad(), memory_meter(leaves[0].device) as meter:
        dy = field(t, leaves[0] if isinstance(y0, Tensor) else leaves)
        graph = [p.grad_fn for p in parts(dy)]
        del dy
        held = meter.current_bytes()
    del graph
    return held
