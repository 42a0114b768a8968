"""Predicted against counted calls for every method, and predicted bytes against sums by hand."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from odegrad.binding import solve_with
from odegrad.checks.conformance import shared_loop_methods
from odegrad.checks.problems import SmoothNet
from odegrad.contracts import Bytes, Calls, Sizes
from odegrad.measuring.call_counts import count_columns
from odegrad.measuring.cost import SolveCost, graph_bytes, predicted_columns, sizes_of
from odegrad.measuring.operators import OperatorCount
from odegrad.methods.solvers.solver import make_solver
from odegrad.reference.subject import of_training
from odegrad.registry import build_gradient

FLOAT64 = 8
TS = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)


class Problem:
    """A field solved twice, the second time from where the first ends and over other times; a third one is unused."""

    def __init__(self):
        self.model = nn.ModuleDict({"field": SmoothNet(d=3, hidden=4), "head": nn.BatchNorm1d(3).double()})

    def batch(self, iteration):
        return torch.randn(5, 3, generator=torch.Generator().manual_seed(iteration), dtype=torch.float64)

    def loss(self, solve, batch):
        field = self.model["field"]
        middle = solve(field, batch, TS)[-1]
        solve(field, batch, TS[:2])
        end = solve(field, torch.dropout(middle, 0.5, train=True), TS[[2, 1]])[-1]
        return (self.model["head"](end) ** 3).mean()


def columns(method, solver, problem=None):
    problem = problem or Problem()
    torch.manual_seed(0)
    return count_columns(of_training(problem), method, solver)


def solvers(method):
    """Return an adaptive and a fixed solver that the method takes."""
    choice = [make_solver("dopri5", rtol=1e-4, atol=1e-4), make_solver("rk4", num_steps=4)]
    leapfrogs = [make_solver("alf", rtol=1e-2, atol=1e-2), make_solver("alf", num_steps=4)]
    return choice if method.refuses(choice[0]) is None else leapfrogs


@pytest.mark.parametrize("backward", [None, "bosh3", "rk4"])
@pytest.mark.parametrize("first_step", [None, 0.1])
@pytest.mark.parametrize("name", ["adjoint", "interpolation"])
def test_predictions_know_the_options_of_the_solves(name, backward, first_step):
    """A solver of the backward solve's own, and a first step that is given forward and chosen backward."""
    method = build_gradient(name, {} if backward is None else {"solver": backward})
    found = columns(method, make_solver("dopri5", rtol=1e-4, atol=1e-4, first_step=first_step))
    for column in ("nfe_forward", "nfe_backward", "vjps"):
        assert found[f"predicted_{column}"] == found[column]


@pytest.mark.parametrize("name", shared_loop_methods())
@pytest.mark.parametrize("adaptive", [True, False])
def test_predicted_calls_are_the_counted_ones(name, adaptive):
    """On the shared loop calls and products are as predicted, over several solves, and none is outside."""
    method = build_gradient(name)
    found = columns(method, solvers(method)[0 if adaptive else 1])
    assert found["nfe_forward"] > 0
    for column in ("nfe_forward", "nfe_backward", "vjps"):
        assert found[f"predicted_{column}"] == found[column], column
    assert found["nfe_outside"] == 0
    assert found["host_syncs"] is None
    assert (found["predicted_saved_bytes"] is None) == (found["predicted_peak_bytes"] is None)
    assert found["operators_forward"] > found["nfe_forward"]


@pytest.mark.parametrize("outputs", ["dense", "auto"])
@pytest.mark.parametrize("name", ["naive", "anode", "aca", "symplectic_adjoint", "revolve", "adjoint", "interpolation"])
def test_outputs_inside_of_steps(name, outputs):
    """Calls and products are as predicted where outputs are read, over several solves and backwards in time, too."""
    method = build_gradient(name)
    found = columns(method, make_solver("dopri5", rtol=1e-2, atol=1e-2, outputs=outputs))
    for column in ("nfe_forward", "nfe_backward", "vjps"):
        assert found[f"predicted_{column}"] == found[column], column
    assert found["predicted_peak_bytes"] >= found["predicted_saved_bytes"] > 0


def test_operators_are_those_of_the_bare_loss():
    """Though counting wraps the field and watches the solves; and the products are those of the net, layer by layer."""
    method, solver = build_gradient("adjoint"), make_solver("rk4", num_steps=2)
    one, problem = columns(method, solver), Problem()
    batch = problem.batch(0)
    with OperatorCount() as forward:
        loss = problem.loss(solve_with(method, solver), batch)
    with OperatorCount() as backward:
        loss.backward()
    assert (one["operators_forward"], one["flops_forward"]) == (forward.operators, forward.flops)
    assert (one["operators_backward"], one["flops_backward"]) == (backward.operators, backward.flops)
    products = (4 * 4 + 4 * 4 + 4 * 3) * 5 * 2  # three layers of 4-4, 4-4 and 4-3 on five samples
    assert one["flops_forward"] == one["nfe_forward"] * products


def test_another_loop_predicts_nothing_and_oversteps():
    """The peer's fixed steps stay inside; its adaptive ones read the output from a step past the end."""
    method = build_gradient("torchdiffeq_naive")
    fixed = columns(method, make_solver("rk4", num_steps=4))
    adaptive = columns(method, make_solver("dopri5", rtol=1e-4, atol=1e-4))
    assert fixed["nfe_outside"] == 0
    assert 0 < adaptive["nfe_outside"] < adaptive["nfe_forward"]
    for found in (fixed, adaptive):
        assert all(value is None for name, value in found.items() if name.startswith("predicted_"))


def test_counting_leaves_the_problem_as_it_was():
    """Running statistics, gradients and the random numbers that come are those of a problem never counted."""
    problem = Problem()
    before = {k: v.clone() for k, v in problem.model.state_dict().items()}
    columns(build_gradient("naive"), make_solver("rk4", num_steps=2), problem)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))
    after = problem.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert all(p.grad is None for p in problem.model.parameters())


def test_left_as_it_was_after_an_error_too():
    """What raises inside changes nothing either."""
    problem = Problem()

    def solve(field, y0, ts):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"), of_training(problem).left_as_it_was():
        problem.loss(solve, problem.model["head"](problem.batch(0)))
    assert problem.model["head"].running_mean.abs().sum() == 0


def test_sizes_of_a_small_net():
    """Three numbers a sample, five samples; what autograd keeps of the net: the input with t and two tanh outputs."""
    field, y0 = SmoothNet(d=3, hidden=4), torch.ones(5, 3, dtype=torch.float64)
    graph = graph_bytes(field, TS[0], y0)
    assert graph == 5 * (4 + 4 + 4) * FLOAT64
    weights = 4 * 4 + 4 * 4 + 3 * 4
    assert sizes_of(field, y0, 3, graph) == Sizes(
        state_bytes=15 * FLOAT64,
        parameter_bytes=(weights + 4 + 4 + 3) * FLOAT64,
        graph_bytes=graph,
        outputs=3,
        item_bytes=FLOAT64,
    )


def test_sizes_of_a_tuple_count_its_parts_together():
    """And a parameter that is not trained does not count."""
    field = nn.Linear(2, 2)
    field.weight.requires_grad_(requires_grad=False)
    found = sizes_of(field, (torch.ones(5, 2), torch.ones(5)), 2, 0)
    assert (found.state_bytes, found.parameter_bytes, found.item_bytes) == (15 * 4, 2 * 4, 4)


@dataclass(frozen=True)
class Teller:
    """Predicts what the step counts hold."""

    def predicted_calls(self, steps):
        return Calls(steps.accepted, steps.accepted_backward, 10 * steps.accepted_backward)

    def predicted_bytes(self, steps, sizes):
        return Bytes(sizes.state_bytes, sizes.state_bytes + sizes.graph_bytes)


def cost(accepted, back, state, graph, pulled=True):
    steps = make_solver("rk4", num_steps=1).counted(1, (accepted, 0), (back, 0))
    return SolveCost(steps, Sizes(state, 0, graph, 2, 8), pulled)


def test_several_solves_add_up_and_are_freed_one_after_the_other():
    """Kept: 100 + 10. Back: the last with all of it kept and 5 more, then the first with its own 100 and 50 more."""
    solves = [cost(2, 3, 100, 50), cost(4, 7, 1000, 1000, pulled=False), cost(5, 1, 10, 5)]
    assert predicted_columns(Teller(), solves) == {
        "predicted_nfe_forward": 2 + 4 + 5,
        "predicted_nfe_backward": 3 + 1,
        "predicted_vjps": 40,
        "predicted_jacobians_backward": None,
        "predicted_factorisations_backward": None,
        "predicted_linear_solves_backward": None,
        "predicted_sample_evaluations": None,
        "predicted_sample_evaluations_backward": None,
        "predicted_saved_bytes": 110,
        "predicted_peak_bytes": 150,
    }
    assert predicted_columns(Teller(), solves[2:])["predicted_peak_bytes"] == 15


def test_a_method_that_predicts_nothing_has_no_predictions():
    """None, not zero."""
    assert set(predicted_columns(object(), [cost(1, 1, 1, 1)]).values()) == {None}


@pytest.mark.parametrize("name", shared_loop_methods())
def test_reconstruction_error_is_a_column_of_methods_that_rebuild_the_state(name):
    """A solved, inverted or noded state has a figure, within a few tolerances here; a kept or replayed one has none."""
    method = build_gradient(name)
    solver = next(s for s in (make_solver(n, rtol=1e-4, atol=1e-4) for n in ("dopri5", "alf")) if not method.refuses(s))
    found = columns(method, solver)["reconstruction_error"]
    rebuilt = method.traits.state_from in ("solve", "inverse") or hasattr(method, "num_nodes")
    assert (found is not None) == rebuilt
    assert found is None or 0.0 <= found < 1e-2
