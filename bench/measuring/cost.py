"""The cost model: the calls and bytes that a gradient method predicts for the solves of one loss."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from odegrad.contracts import (
    Bytes,
    Calls,
    GradientMethod,
    PredictsBytes,
    PredictsCalls,
    Sizes,
    State,
    StepCounts,
    VectorField,
    unjudged_parts,
)
from odegrad.measuring.meters import memory_meter
from odegrad.methods.fields.precision import Precision
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.states import Layout, parts


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
        **_predicted_rows(calls, solves),
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


def _predicted_rows(calls: Calls | None, solves: Sequence[SolveCost]) -> dict[str, int | None]:
    apart = calls is not None and any(solve.steps.rounds is not None for solve in solves)
    return {
        "predicted_sample_evaluations": calls.forward_rows if calls is not None and apart else None,
        "predicted_sample_evaluations_backward": calls.backward_rows if calls is not None and apart else None,
    }


def predicted_calls(method: GradientMethod, solves: Sequence[SolveCost]) -> Calls | None:
    """Return the sum of the calls over ``solves``; None if the method predicts none."""
    if not isinstance(method, PredictsCalls):
        return None
    total = Calls(0, 0, 0)
    for solve in solves:
        calls = method.predicted_calls(solve.steps)
        total = _sum(total, calls if solve.pulled_back else Calls(calls.forward, 0, 0, forward_rows=calls.forward_rows))
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
            size, copies = method.predicted_bytes(solve.steps, solve.sizes), solve.sizes.copies_bytes
            peak = max(peak, saved + size.peak + copies)
            saved += size.saved + copies
    return Bytes(saved, peak)


def sizes_of(field: VectorField, y0: State, outputs: int, graph: int | tuple[int, int], copies: int = 0) -> Sizes:
    """Return the sizes of a solve from ``y0`` to ``outputs`` times K, whose f call's graph holds ``graph`` bytes.

    Where samples have steps of their own ``graph`` are the bytes of a call and of each row. ``copies`` are those of
    what the field holds in a low type.
    """
    pieces = parts(y0)
    rows = graph if isinstance(graph, tuple) else (0, 0)
    batch = len(pieces[0]) if isinstance(graph, tuple) else 1
    return Sizes(
        state_bytes=sum(p.numel() * p.element_size() for p in pieces),
        parameter_bytes=sum(p.numel() * p.element_size() for p in field.parameters() if p.requires_grad),
        graph_bytes=rows[0] + batch * rows[1] if isinstance(graph, tuple) else graph,
        outputs=outputs,
        item_bytes=pieces[0].element_size(),
        batch=batch,
        graph_bytes_of_rows=rows,
        copies_bytes=copies,
    )


def graph_sizes(
    field: Any, ts: Tensor, y0: State, *, per_sample: bool, precision: Precision = ""
) -> tuple[int | tuple[int, int], int]:
    """Return the bytes that the graph of an f call holds, and those of the low copies that are made once a solve.

    Where samples have steps of their own, the bytes of call and row in the place of the first.
    """
    first, layout = ts.detach()[..., 0].to(parts(y0)[0]), Layout.of(y0, unjudged_parts(field))
    if not per_sample:
        low = FlatField(field, layout).in_precision(precision).low
        return graph_bytes(low or field, first, y0), low.bytes_of_copies if low is not None else 0
    rows = RowField(field, layout).in_precision(precision)
    return _rows_graph_sizes(rows, first, y0), rows.low.bytes_of_copies if rows.low is not None else 0


def _rows_graph_sizes(rows: RowField, first: Tensor, y0: State) -> tuple[int, int]:
    """Return the bytes of the graph of a call on rows, and of each of these."""
    start = rows.rows.joined(tuple(parts(y0))).detach()
    times = first.expand(len(start))
    # Affine in the rows, so two calls tell: one row is called as it is, so two and four are looked at where there are
    # as many, the first ones again where there are not.
    few, more = (start[:1].expand(count, -1) for count in (2, 4))
    small = _rows_graph_bytes(rows, times[:1].expand(2), few)
    large = _rows_graph_bytes(rows, times[:1].expand(4), more)
    of_row = (large - small) // 2
    return small - 2 * of_row, of_row


def _rows_graph_bytes(field: RowField, t: Tensor, y: Tensor) -> int:
    """Return the bytes that the graph of one f call on rows holds, its output left out."""
    leaf = y.clone().requires_grad_()
    with torch.enable_grad(), memory_meter(leaf.device) as meter:
        # The stage's own state is counted where the graph holds it: every stage stands on one of its own.
        own = leaf.clone()
        dy = field.at(t, own)
        graph = dy.grad_fn
        del dy, own
        held = meter.current_bytes()
    del graph
    return held


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
