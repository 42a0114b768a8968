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
    ("compaction", "count", "sample_time", "outputs"),
    [
        ("none", 2, True, "step_ends"),
        ("each", 4, True, "step_ends"),
        ("halving", 3, False, "step_ends"),
        ("halving", 9, True, "dense"),
        ("each", 4, False, "dense"),
    ],
)
@pytest.mark.parametrize(("name", "options"), METHODS, ids=[f"{name} {options or ''}" for name, options in METHODS])
@pytest.mark.filterwarnings("ignore:field. _Net takes one time:UserWarning")
def test_predictions_are_measurements(name, options, compaction, count, sample_time, outputs):
    """S4: f calls, their rows, products and kept bytes, to the last one; with outputs inside of steps, too."""
    method, field = build_gradient(name, options), _Net(sample_time=sample_time)
    chosen = {"batch": "per_sample", "compaction": compaction, "outputs": outputs}
    solver = make_solver("dopri5", rtol=1e-4, atol=1e-6, **chosen)
    ts = torch.linspace(0.0, 2.0, count, dtype=torch.float64)
    if outputs == "dense":
        # The last interval is a twentieth: the last step holds outputs.
        ts = torch.cat([ts[:-1], ts.new_tensor([1.95, 2.0])])
    predicted, measured, peak = _both(method, field, solver, start().requires_grad_(), ts)
    assert {key: predicted[f"predicted_{key}"] for key in measured} == measured
    assert measured["vjps"] > 0
    assert peak >= measured["saved_bytes"]


def _both(method, field, solver, y0, ts):
    """Return the predicted columns, the same as measured, and the peak bytes of one gradient."""
    counts, back = Counts(), method.traits.backward_phase
    log = SolveLog(counts, field, y0, ts)
    ys = method(CountedField(field, counts), solver.observed_by(log), y0, ts)
    log.watch(ys)
    log.time_calls = log.outputs if ts.requires_grad else 0
    with counts.during(back):
        ys.square().sum().backward()
    del ys
    gc.collect()
    with memory_meter(torch.device("cpu")) as meter:
        ys = method(field, solver, y0, ts)
        saved = meter.current_bytes()
        ys.square().sum().backward()
        peak = meter.peak_bytes()
    measured = {
        "nfe_forward": counts.calls["forward"],
        "nfe_backward": counts.calls[back],
        "vjps": counts.vjps[back],
        "saved_bytes": saved,
    }
    if solver.per_sample:
        measured["sample_evaluations"] = counts.rows["forward"]
        measured["sample_evaluations_backward"] = counts.rows[back]
    if solver.implicit:
        work = counts.work[back]
        measured["jacobians_backward"] = work.jacobians
        measured["factorisations_backward"] = work.factorisations
        measured["linear_solves_backward"] = work.solves
    return predicted_columns(method, solve_costs([log], solver, back)), measured, peak


class _Pair(nn.Module):
    """``(x, v)' = (v, k mu (1 - x^2) v - x + sin 3 t)``, ``mu`` a number that rests; ``rest`` more that fade."""

    def __init__(self, *, sample_time, rest):
        super().__init__()
        self.sample_time = sample_time
        self.k = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.rest = rest

    def forward(self, t, y):
        x, v, mu, others = y.split([1, 1, 1, self.rest], -1)
        return torch.cat([v, self.k * mu * (1 - x * x) * v - x + torch.sin(3 * t), 0 * mu, -others], -1)


@pytest.mark.parametrize(
    ("solver", "compaction", "outputs", "sample_time", "rest"),
    [("kencarp4", "halving", 3, True, 0), ("tr_bdf2", "none", 2, True, 5), ("kvaerno3", "each", 4, False, 0)],
)
@pytest.mark.parametrize(
    ("name", "options"), METHODS[:6], ids=[f"{name} {options or ''}" for name, options in METHODS[:6]]
)
@pytest.mark.filterwarnings("ignore:field. _Pair takes one time:UserWarning")
def test_predictions_of_implicit_steps_are_measurements(name, options, solver, compaction, outputs, sample_time, rest):
    """S4 of implicit steps: f calls, rows, products, systems and kept bytes, to the last one; the peak within a half.

    A rank iterates until its slowest row has come to its tolerance, which its round did among other rows.
    """
    generator = torch.Generator().manual_seed(1)
    y0 = torch.randn(5, 3 + rest, generator=generator, dtype=torch.float64)
    y0[:, 2] = torch.tensor([1.0, 2.0, 30.0, 8.0, 1.0])
    chosen = make_solver(solver, rtol=1e-2, atol=1e-3, batch="per_sample", compaction=compaction)
    ts = torch.linspace(0.0, 0.6, outputs, dtype=torch.float64)
    field = _Pair(sample_time=sample_time, rest=rest)
    predicted, measured, peak = _both(build_gradient(name, options), field, chosen, y0.requires_grad_(), ts)
    assert {key: predicted[f"predicted_{key}"] for key in measured} == measured
    assert predicted["predicted_saved_bytes"] < predicted["predicted_peak_bytes"] < 1.5 * peak


SHARED: tuple[tuple[str, dict[str, object]], ...] = (
    ("dopri5", {"rtol": 1e-3, "atol": 1e-4}),
    ("bosh3", {"rtol": 1e-2, "atol": 1e-3}),
    ("rk4", {"num_steps": 6}),
    ("dopri5", {"num_steps": 3}),
    ("dopri5", {"rtol": 1e-2, "atol": 1e-2, "precision": "bfloat16"}),
    ("kencarp4", {"rtol": 1e-2, "atol": 1e-3}),
)


@pytest.mark.parametrize(("solver", "chosen"), SHARED, ids=[f"{name} {chosen}" for name, chosen in SHARED])
@pytest.mark.parametrize(
    ("name", "options"), METHODS[:6], ids=[f"{name} {options or ''}" for name, options in METHODS[:6]]
)
def test_predictions_of_what_is_read_inside_of_shared_steps_are_measurements(name, options, solver, chosen):
    """F calls and products, with outputs inside of steps, at ends and in the last one; bytes of what is kept of states.

    That is all but naive's numbers of each step, and what an implicit solve makes once.
    """
    ts = torch.tensor([0.0, 0.1, 0.15, 1.0, 1.02, 1.5, 1.95, 1.99, 2.0], dtype=torch.float64)
    field, method = _Net(sample_time=False), build_gradient(name, options)
    y0 = start().to(torch.float32 if "precision" in chosen else torch.float64).requires_grad_()
    solver = make_solver(solver, outputs="dense", **chosen)
    predicted, measured, _ = _both(method, field.to(y0.dtype), solver, y0, ts)
    beside = measured.pop("saved_bytes") - predicted["predicted_saved_bytes"]
    assert {key: predicted[f"predicted_{key}"] for key in measured} == measured
    if solver.implicit:
        assert beside >= 0
    elif name == "naive":
        weights = sum(w != 0.0 for row in (*solver.tableau.a, solver.tableau.b) for w in row)
        attempts = measured["nfe_forward"] // solver.tableau.evaluations
        assert 0 <= beside <= attempts * weights * y0.element_size()
    else:
        assert beside == 0


@pytest.mark.parametrize("solver", ["dopri5", "kencarp4"])
@pytest.mark.parametrize("name", ["aca", "naive"])
def test_gradients_by_times_are_calls_of_their_own(name, solver):
    """One for the start and one for each output, of all rows."""
    chosen = make_solver(solver, rtol=1e-3, atol=1e-5, batch="per_sample")
    ts = torch.linspace(0.0, 1.0, 3, dtype=torch.float64).requires_grad_()
    field = _Net(sample_time=True)
    predicted, measured, _ = _both(build_gradient(name), field, chosen, start().requires_grad_(), ts)
    for key in ("nfe_forward", "nfe_backward", "vjps", "sample_evaluations", "sample_evaluations_backward"):
        assert predicted[f"predicted_{key}"] == measured[key]


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
