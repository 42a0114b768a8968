"""Calls, rows, bytes of solves whose samples have steps of their own: what the methods predict is what is measured."""

import gc

import pytest
import torch
from torch import nn

from odegrad.measuring.call_counts import SolveLog, count_columns, solve_costs
from odegrad.measuring.cost import predicted_columns
from odegrad.measuring.counting import CountedField, Counts
from odegrad.measuring.meters import memory_meter
from odegrad.methods.solvers.solver import make_solver
from odegrad.reference.subject import of_model
from odegrad.registry import build_gradient
from odegrad.user.models import Model

METHODS: tuple[tuple[str, dict[str, object]], ...] = (
    ("naive", {}),
    ("aca", {}),
    ("anode", {}),
    ("anode", {"steps_per_block": 2}),
    ("revolve", {"checkpoints": 3}),
    ("symplectic_adjoint", {}),
    ("adjoint", {}),
    ("adjoint", {"solver": "bosh3"}),
    ("adjoint_seminorm", {}),
    ("interpolation", {}),
    ("interpolation_dense", {}),
    ("gauss_adjoint", {"points": 2}),
)


class _Net(nn.Module):
    """``y' = W2 tanh(W1 y (1 + t / 10))``, whose first layer keeps the product and not the state."""

    def __init__(self, *, sample_time):
        super().__init__()
        self.sample_time = sample_time
        generator = torch.Generator().manual_seed(0)
        self.w1 = nn.Parameter(torch.randn(3, 16, generator=generator, dtype=torch.float64))
        self.w2 = nn.Parameter(torch.randn(16, 3, generator=generator, dtype=torch.float64))

    def forward(self, t, y):
        return torch.tanh((y * (1 + 0.1 * t)) @ self.w1) @ self.w2


def start():
    """Return eight samples of unlike size."""
    sizes = torch.linspace(0.1, 4.0, 8, dtype=torch.float64)[:, None]
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * sizes


@pytest.mark.parametrize(
    ("compaction", "outputs", "sample_time"),
    [("none", 2, True), ("each", 4, True), ("halving", 3, False)],
)
@pytest.mark.parametrize(("name", "options"), METHODS, ids=[f"{name} {options or ''}" for name, options in METHODS])
@pytest.mark.filterwarnings("ignore:field. _Net takes one time:UserWarning")
def test_predictions_are_measurements(name, options, compaction, outputs, sample_time):
    """S4: f calls, their rows, products and kept bytes, to the last one."""
    method, field = build_gradient(name, options), _Net(sample_time=sample_time)
    solver = make_solver("dopri5", rtol=1e-4, atol=1e-6, batch="per_sample", compaction=compaction)
    ts, counts = torch.linspace(0.0, 2.0, outputs, dtype=torch.float64), Counts()
    back = method.traits.backward_phase
    y0 = start().requires_grad_()
    log = SolveLog(counts, field, y0, ts)
    ys = method(CountedField(field, counts), solver.observed_by(log), y0, ts)
    log.watch(ys)
    with counts.during(back):
        ys.square().sum().backward()
    del ys
    gc.collect()
    with memory_meter(torch.device("cpu")) as meter:
        ys = method(field, solver, y0, ts)
        saved = meter.current_bytes()
        ys.square().sum().backward()
        peak = meter.peak_bytes()
    predicted = predicted_columns(method, solve_costs([log], solver, back))
    assert predicted["predicted_nfe_forward"] == counts.calls["forward"]
    assert predicted["predicted_nfe_backward"] == counts.calls[back] * (back != "forward")
    assert predicted["predicted_vjps"] == counts.vjps[back] > 0
    assert predicted["predicted_sample_evaluations"] == counts.rows["forward"]
    assert predicted["predicted_sample_evaluations_backward"] == counts.rows[back]
    assert predicted["predicted_saved_bytes"] == saved
    assert peak >= saved


def test_columns_hold_rounds_and_rows_where_samples_have_their_own_steps():
    """``useful_fraction`` is 1 where rows are dropped at once; on shared steps there are no such columns."""
    model = Model(_Net(sample_time=True), start(), torch.tensor([0.0, 2.0], dtype=torch.float64))
    found = {}
    for batch in ("joint", "none", "each", "halving"):
        own = {} if batch == "joint" else {"batch": "per_sample", "compaction": batch}
        found[batch] = count_columns(of_model(model), build_gradient("aca"), make_solver("dopri5", rtol=1e-4, **own))
    assert {found["joint"][c] for c in ("rounds", "sample_evaluations", "useful_fraction", "rounds_backward")} == {None}
    assert found["each"]["useful_fraction"] == 1.0 > found["halving"]["useful_fraction"]
    assert found["halving"]["useful_fraction"] > max(0.5, found["none"]["useful_fraction"])
    for batch in ("none", "each", "halving"):
        columns = found[batch]
        assert columns["nfe_forward"] == 2 + 6 * columns["rounds"]
        assert columns["nfe_outside"] == 0
        assert columns["rounds_backward"] == 0
        assert columns["sample_evaluations_backward"] == 6 * columns["accepted_steps"]
