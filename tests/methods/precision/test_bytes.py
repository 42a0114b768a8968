"""What a low field costs: predicted bytes are the counted ones, and calls are those of a high field."""

import pytest
import torch

from odegrad.binding import solve_with
from odegrad.measuring.call_counts import count_columns
from odegrad.measuring.cost import graph_sizes, sizes_of
from odegrad.measuring.memory import measured_bytes
from odegrad.methods.solvers.step import Weights
from odegrad.methods.solvers.tableaus import TABLEAUS
from odegrad.reference.subject import Subject

TIMES = torch.tensor([0.0, 0.4, 1.0])


def _subject(tools):
    field, y0 = tools.Net(), tools.start()
    return Subject(lambda solve: solve(field, y0, TIMES)[-1].sum(), (y0, *field.parameters()), (field,))


def _columns(low, tools):
    return count_columns(_subject(tools), low.method, low.solver)


def test_a_call_keeps_half_of_the_bytes(precision, tools):
    """P4: of dense layers, the state of the stage included; copies are two bytes a number."""
    field, y0 = tools.Net(), tools.start()
    high, none = graph_sizes(field, TIMES, y0, per_sample=False)
    low, copies = graph_sizes(field, TIMES, y0, per_sample=False, precision=precision)
    state = y0.numel() * y0.element_size()
    assert low == 2 * 8 * (4 + 16 + 16)
    assert low <= 0.51 * (high + state)
    assert (none, copies) == (0, 2 * sum(p.numel() for p in field.parameters()))
    assert sizes_of(field, y0, 3, low, copies).copies_bytes == copies


def test_naive_keeps_the_graphs_of_its_calls_and_one_copy(precision, tools):
    """P4: ``s N A + 2 p + K d``, to the byte; beside the loss, and the tableau's weights times each size of a step."""
    low, subject = tools.Low("naive", precision), _subject(tools)
    predicted = _columns(low, tools)["predicted_saved_bytes"]
    subject.pull_back(subject.loss(solve_with(low.method, low.solver)))
    found = measured_bytes(subject, lambda: solve_with(low.method, low.solver))["saved_bytes"]
    field, y0 = tools.Net(), tools.start()
    a, copies = graph_sizes(field, TIMES, y0, per_sample=False, precision=precision)
    assert predicted == 4 * 8 * a + copies + 3 * y0.numel() * 4
    others = 4 + 2 * Weights.of(TABLEAUS["rk4"], torch.float32, y0.device).used_weights.nbytes
    assert found - predicted == others


def test_other_methods_keep_the_copies_too(low, tools):
    """Above what they keep in float32: two bytes a number, and half of what else is of the field."""
    if low.name == "naive":
        pytest.skip("its graph is counted above")
    found = {}
    for each in (low, tools.Low(low.name, "")):
        subject = _subject(tools)
        subject.pull_back(subject.loss(solve_with(each.method, each.solver)))
        found[each.precision] = measured_bytes(subject, lambda one=each: solve_with(one.method, one.solver))
    copies = 2 * sum(p.numel() for p in tools.Net().parameters())
    assert found[low.precision]["saved_bytes"] == found[""]["saved_bytes"] + copies


def test_counts_are_those_of_a_high_field(low, tools):
    """On a fixed grid: f calls, products, steps, as counted and as predicted; the host waits no more than it did."""
    found, plain = _columns(low, tools), _columns(tools.Low(low.name, ""), tools)
    for name in ("nfe_forward", "nfe_backward", "vjps"):
        assert found[name] == plain[name] == found[f"predicted_{name}"], name
    assert found["accepted_steps"] == plain["accepted_steps"]
    assert (found["scale_retries"], plain["scale_retries"]) == (0 if low.precision == "float16" else None, None)
    assert (found["scale_log2"] is None) == (low.precision != "float16")
