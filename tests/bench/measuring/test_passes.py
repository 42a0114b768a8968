"""The passes on a task whose every number is known in closed form."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from odegrad.binding import solve_with
from odegrad.errors import InfrastructureError, NonFiniteError, UnknownNameError, UnsupportedError
from odegrad.machine.conditions import Snapshot
from odegrad.measuring import passes
from odegrad.measuring.building import build
from odegrad.measuring.timing import Timings, time_iterations
from odegrad.measuring.training import evaluation_points, train
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver
from odegrad.records.columns import COLUMNS
from odegrad.records.record import PASSES, TUNING, Run
from odegrad.registry import build_gradient, build_solver, build_task

HERE = Path(__file__).parents[1]
TASK = f"{HERE / 'tiny_task.py'}:Tiny"
CURIOUS = f"{HERE / 'tiny_task.py'}:curious"
CPU = torch.device("cpu")
Y0 = [0.5, 0.5 + 1 / 3, 0.5 + 2 / 3, 1.5]
MEAN_SQUARE = sum(y * y for y in Y0) / 4


def _run(**changes):
    values = {
        "suite": "test",
        "task": TASK,
        "size": "tiny",
        "gradient": "naive",
        "optimizer": "sgd",
        "solver": "dopri5",
        "seed": 0,
        "rtol": 1e-8,
        "atol": 1e-8,
        "iterations": 6,
        "dtype": "float64",
    }
    return Run(**(values | changes))


def _nothing(_):
    pass


def run_pass(name, run, progress, scratch=None):
    """Run one pass with a scratch folder of its own, or the one that is given."""
    with tempfile.TemporaryDirectory() as own:
        folder = Path(scratch or own) / "run"
        folder.mkdir(exist_ok=True)
        return passes.run_pass(name, run, str(folder), progress)


def test_every_column_is_declared(tmp_path):
    """What the passes measure are columns of a record, all of them but what the worker adds."""
    measured = set().union(*(run_pass(name, _run(), _nothing, tmp_path) for name in PASSES))
    assert measured == {c.name for c in COLUMNS if c.measured} - {"process_seconds", "round_seconds_raw"}


def test_count():
    """F calls, products and steps agree with each other."""
    found = run_pass("count", _run(gradient="adjoint"), _nothing)
    assert found["nfe_forward"] == 2 + 6 * (found["accepted_steps"] + found["rejected_steps"])
    assert found["nfe_backward"] == 2 + 6 * (found["accepted_steps_backward"] + found["rejected_steps_backward"])
    assert found["vjps"] == found["nfe_backward"]
    assert found["nfe_tap"] == 0
    assert found["gradient_relative_error"] < 1e-6
    assert found["gradient_cosine"] == pytest.approx(1.0, abs=1e-12)


def test_certificate_against_the_closed_form():
    """L = mean(y0^2) e^(2 theta), dL/dtheta = 2 L; the certificate's error is the distance to that."""
    found = run_pass("count", _run(gradient="naive", rtol=1e-3, atol=1e-3), _nothing)
    problem = build_task(TASK).build("tiny", 0, CPU, torch.float64)
    loose = solve_with(build_gradient("naive"), build_solver("dopri5", 1e-3, 1e-3))
    (g,) = torch.autograd.grad(problem.loss(loose, problem.probe_batch()), problem.model.theta)
    true = 2 * MEAN_SQUARE * math.e
    assert found["gradient_relative_error"] == pytest.approx(abs(g.item() - true) / true, rel=1e-6)
    assert found["gradient_method_error"] == 0.0
    assert found["gradient_cosine"] == pytest.approx(1.0)
    assert found["gradient_accuracy"] == "accurate"
    assert found["reference_error"] <= 1e-11
    assert found["reference_failure"] == ""
    assert found["reference_calls"] > 0


def test_naive_and_anode_have_the_same_certificate():
    """Both are exact on the same grid."""
    errors = [run_pass("count", _run(gradient=g, rtol=1e-3, atol=1e-3), _nothing) for g in ("naive", "anode")]
    assert errors[0]["gradient_method_error"] == 0.0
    assert errors[1]["gradient_method_error"] <= 1e-12
    difference = errors[0]["gradient_relative_error"] - errors[1]["gradient_relative_error"]
    assert abs(difference) <= 1e-12


def test_peer_has_no_method_error():
    """Torchdiffeq stands on its own grid, so the error of the method alone is not known."""
    assert run_pass("count", _run(gradient="torchdiffeq_adjoint"), _nothing)["gradient_method_error"] is None


def test_train_follows_gradient_descent():
    """Theta after six steps is that of the closed-form descent; the metric is the loss there."""
    seen = []
    found = run_pass("train", _run(), seen.append)
    theta, losses = 0.5, []
    for _ in range(6):
        losses.append(MEAN_SQUARE * math.exp(2 * theta))
        theta -= 0.01 * 2 * losses[-1]
    assert found["train_loss"] == pytest.approx(losses, rel=1e-6)
    assert found["metric_value"] == pytest.approx(MEAN_SQUARE * math.exp(2 * theta), rel=1e-6)
    assert found["trace_metric"][0] == pytest.approx(losses[0], rel=1e-6)
    assert found["trace_iteration"] == sorted({round(i * 6 / 8) for i in range(9)})
    assert found["target_reached"] == (found["metric_value"] <= 3.0)
    assert found["trace_seconds"][-1] == found["train_seconds"] > 0
    assert {"pass": "train"} in seen
    assert {s["of"] for s in seen if "of" in s} == {6}
    assert found["trained_gradient_relative_error"] < 1e-6
    assert found["trained_nfe_forward"] > 0


@pytest.mark.parametrize("gradient", ["aca", "adjoint"])
def test_penalties_are_trained_with_and_told_apart(gradient):
    """Descent on ``m e^(2 theta) + w m theta (e^(2 theta) - 1) / 2``: the second is the mean ``int (theta y)^2 dt``."""
    weight = 0.3
    run = _run(gradient=gradient, regulariser_options=(("kinetic", weight),))
    found = run_pass("train", run, _nothing)
    theta, losses, penalties = 0.5, [], []
    for _ in range(6):
        growth = math.exp(2 * theta)
        losses.append(MEAN_SQUARE * growth)
        penalties.append(weight * MEAN_SQUARE * theta * (growth - 1) / 2)
        slope = weight * MEAN_SQUARE * ((growth - 1) / 2 + theta * growth)
        theta -= 0.01 * (2 * losses[-1] + slope)
    assert found["train_loss"] == pytest.approx(losses, rel=1e-6)
    assert found["train_penalty"] == pytest.approx(penalties, rel=1e-6)
    assert found["metric_value"] == pytest.approx(MEAN_SQUARE * math.exp(2 * theta), rel=1e-6)
    plain = run_pass("count", _run(gradient=gradient), _nothing)
    assert run_pass("count", run, _nothing)["nfe_forward"] == plain["nfe_forward"]
    assert run_pass("train", _run(gradient=gradient), _nothing)["train_penalty"] is None


def test_regularisers_that_cannot_be_trained_with_are_refused():
    with pytest.raises(UnsupportedError, match="use aca"):
        run_pass("train", _run(gradient="adjoint", regulariser_options=(("error", 0.1),)), _nothing)
    net = {"task": "digits_mlp", "rtol": 1e-2, "atol": 1e-2, "dtype": "float32"}
    snopt = _run(gradient="adjoint", optimizer="snopt", regulariser_options=(("kinetic", 0.1),), **net)
    with pytest.raises(UnsupportedError, match="first-order optimizer"):
        run_pass("train", snopt, _nothing)


@pytest.mark.parametrize("gradient", ["naive", "adjoint", "interpolation"])
def test_calls_are_counted_along_the_training(gradient):
    """At the start those of the count pass, at the end those of the trained parameters; the descent is not touched."""
    run = _run(gradient=gradient)
    found, counted = run_pass("train", run, _nothing), run_pass("count", run, _nothing)
    for phase in ("forward", "backward"):
        calls = found[f"trace_nfe_{phase}"]
        assert len(calls) == len(found["trace_iteration"])
        assert (calls[0], calls[-1]) == (counted[f"nfe_{phase}"], found[f"trained_nfe_{phase}"])
    fewer = run_pass("train", dataclasses.replace(run, evaluations=1), _nothing)
    assert fewer["train_loss"] == found["train_loss"]
    assert len(fewer["trace_nfe_forward"]) == 2
    trial = run_pass("train", dataclasses.replace(run, stage=TUNING), _nothing)
    assert trial["trace_nfe_forward"] is None
    assert trial["train_loss"] == found["train_loss"]


def test_a_fine_trace_has_the_validation_loss():
    """Asked for more than 8 evaluations, a task that tells its held-out loss is asked for that of validation."""
    telling = _run(task=f"{HERE / 'tiny_task.py'}:Telling", iterations=10)
    found = run_pass("train", dataclasses.replace(telling, evaluations=10), _nothing)
    assert found["trace_iteration"] == list(range(11))
    assert found["trace_validation_loss"] == pytest.approx([0.5 * x for x in found["trace_metric"]], rel=1e-12)
    assert run_pass("train", telling, _nothing)["trace_validation_loss"] is None
    assert run_pass("train", _run(iterations=10, evaluations=10), _nothing)["trace_validation_loss"] is None


def test_diagnosis_reads_the_states_along_the_training(tmp_path):
    """The field is theta y over one unit of time: mu_2(J) is theta at every point of the descent, mu_2(-J) -theta."""
    trained = run_pass("train", _run(), _nothing, tmp_path)
    found = run_pass("diagnose", _run(), _nothing, tmp_path)
    theta, along = 0.5, {0: 0.5}
    for i in range(6):
        theta -= 0.01 * 2 * MEAN_SQUARE * math.exp(2 * theta)
        along[i + 1] = theta
    wanted = [along[i] for i in trained["trace_iteration"]]
    assert found["trace_log_norm_max"] == pytest.approx(wanted, abs=1e-7)
    assert found["trace_log_norm_minus_max"] == pytest.approx([-x for x in wanted], abs=1e-7)
    for prefix, value in (("", 0.5), ("trained_", theta)):
        assert found[f"{prefix}log_norm_max"] == pytest.approx(value, abs=1e-7)
        assert found[f"{prefix}log_norm_minus_max"] == pytest.approx(-value, abs=1e-7)
        assert found[f"{prefix}log_norm_integral"] == pytest.approx(value, abs=1e-7)
        assert found[f"{prefix}log_norm_minus_integral"] == pytest.approx(-value, abs=1e-7)
    assert found["diagnose_seconds"] > 0


def test_diagnosis_without_a_training_says_what_is_missing():
    """The states that it reads are those that the train pass leaves in the scratch folder."""
    with pytest.raises(InfrastructureError, match="expected the states that the train pass leaves"):
        run_pass("diagnose", _run(), _nothing)


def test_learning_rates_follow_the_schedule():
    """Gradient descent in closed form, its steps scaled by the factor that holds at each iteration."""
    found = run_pass("train", _run(task=TASK.replace(":Tiny", ":Scheduled")), _nothing)
    theta, losses = 0.5, []
    for factor in (1.0, 1.0, 0.1, 0.1, 0.01, 0.01):
        losses.append(MEAN_SQUARE * math.exp(2 * theta))
        theta -= factor * 0.01 * 2 * losses[-1]
    assert found["train_loss"] == pytest.approx(losses, rel=1e-6)


def test_divergence_names_the_iteration():
    """A loss that overflows stops the run with its iteration."""
    with pytest.raises(NonFiniteError, match=r"not finite|loss: (inf|nan) at iteration \d"):
        run_pass("train", _run(task=TASK.replace(":Tiny", ":Exploding"), optimizer_options=()), _nothing)


class _Broken(Naive):
    """A method whose gradient is NaN in one number."""

    def __call__(self, field, solver, y0, ts):
        ys = super().__call__(field, solver, y0, ts)
        if ys.requires_grad:
            ys.register_hook(lambda g: torch.full_like(g, torch.nan))
        return ys


def test_a_gradient_that_is_not_finite_diverges(monkeypatch, tmp_path):
    """NaN is no measurement: the run says what was not finite, so that a gate sees its status change."""
    monkeypatch.setattr(passes, "build", lambda run: build(run, gradient=_Broken))
    with pytest.raises(NonFiniteError, match=r"gradient: \d+ of its numbers in float64 are NaN or infinite"):
        run_pass("count", _run(), _nothing, tmp_path)


def test_a_metric_that_is_not_finite_diverges():
    """The training's last step may have ruined the parameters: the evaluation says so."""
    problem = build(_run()).problem
    problem.evaluate = lambda solve, split: math.nan
    built = build(_run())
    with pytest.raises(NonFiniteError, match="metric: nan at iteration 0; the training diverged"):
        train(problem, built.method, built.solver, built.optimizer, 1, _nothing)


def test_time_repeats_the_same_iteration():
    """Medians are those of the raw repeats; the parameters are where they were."""
    found = run_pass("time", _run(), _nothing)
    for phase in ("forward", "backward", "update"):
        raw = sorted(found[f"{phase}_seconds_raw"])
        n = len(raw)
        assert found[f"{phase}_seconds"] == pytest.approx((raw[n // 2] + raw[(n - 1) // 2]) / 2)
        assert n >= 3
    assert len(found["warmup_seconds_raw"]) == 2


def test_memory_repeats_to_the_byte():
    """The same bytes on every run; the peak is at least what is saved."""
    first, second = (run_pass("memory", _run(gradient="anode"), _nothing) for _ in range(2))
    assert first == second
    assert first["peak_bytes"] >= first["saved_bytes"] > 0


def test_count_is_deterministic():
    """Two count passes agree in every column, bit for bit."""
    assert run_pass("count", _run(), _nothing) == run_pass("count", _run(), _nothing)


def test_two_processes_count_the_same():
    """Every deterministic column of the count and the memory pass, here and in a fresh process of other hashes."""
    code = (
        "import json, sys, tempfile\n"
        "from odegrad.measuring.passes import run_pass\n"
        "from odegrad.records.record import Run\n"
        "run = Run.from_dict(json.loads(sys.argv[1]))\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    columns = [run_pass(name, run, f'{folder}/run', lambda _: None) for name in ('count', 'memory')]\n"
        "print(json.dumps(columns))"
    )
    command = [sys.executable, "-c", code, json.dumps(_run(gradient="interpolation").to_dict())]
    there = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True
    )
    here = [run_pass(name, _run(gradient="interpolation"), _nothing) for name in ("count", "memory")]
    assert json.loads(there.stdout) == here
    assert min(here[0][name] for name in ("operators_forward", "operators_backward", "flops_forward")) > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_host_waits_are_few_on_a_gpu():
    """One read of the device per attempted step and the few that begin a solve; only those on a fixed grid."""
    found = run_pass("count", _run(device="cuda"), _nothing)
    attempts = found["accepted_steps"] + found["rejected_steps"]
    assert attempts <= found["host_syncs"] <= attempts + 5
    assert run_pass("count", _run(device="cuda", solver="rk4"), _nothing)["host_syncs"] <= 5


def test_unsupported_combinations_say_why():
    """A solver that a method cannot use, and an optimizer that it cannot feed."""
    with pytest.raises(UnsupportedError, match="interpolation cannot use solver dopri8"):
        run_pass("count", _run(gradient="interpolation", solver="dopri8"), _nothing)

    with pytest.raises(UnsupportedError, match="forward_sensitivity offers no curvature samples"):
        run_pass("count", _run(gradient="forward_sensitivity", optimizer=CURIOUS), _nothing)


def test_curvature_samples_count_apart():
    """A tap of three samples, each one f call and one product: the backward pass's own counts are those without it."""
    plain = run_pass("count", _run(gradient="adjoint"), _nothing)
    tapped = run_pass("count", _run(gradient="adjoint", optimizer=CURIOUS), _nothing)
    assert tapped["nfe_tap"] == 3
    assert {k: v for k, v in tapped.items() if k != "nfe_tap"} == {k: v for k, v in plain.items() if k != "nfe_tap"}


@pytest.mark.parametrize("name", ["time", "train"])
def test_curvature_consumers_run_in_every_pass(name):
    """The optimizer that wants samples gets them on its refresh iterations."""
    found = run_pass(name, _run(gradient="adjoint", optimizer=CURIOUS), _nothing)
    plain = run_pass("train", _run(gradient="adjoint"), _nothing)
    if name == "train":
        assert found["train_loss"] == plain["train_loss"]
    else:
        assert len(found["forward_seconds_raw"]) >= 3


def test_timing_leaves_parameters_and_optimizer_where_they_were():
    """Every repeat times the first iteration: momentum and parameters are put back after each update."""
    problem = build_task(TASK).build("tiny", 0, CPU, torch.float64)
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.1, momentum=0.9)
    losses, loss = [], problem.loss
    problem.loss = lambda solve, batch: losses.append(loss(solve, batch)) or losses[-1]
    timings = time_iterations(problem, build_gradient("naive"), build_solver("rk4", 1.0, 1.0), optimizer, budget=0.0)
    assert problem.model.theta.item() == 0.5
    assert len({x.item() for x in losses}) == 1
    assert len(timings.forward) == len(timings.backward) == len(timings.update) == 3
    assert len(losses) == 3 + len(timings.warm_up) == 5


def test_timing_of_a_field_that_sleeps():
    """A sleep is never short: 8 calls of 2 ms forward and 8 more in the adjoint's backward solve, every time."""
    problem = build_task(TASK).build("tiny", 0, CPU, torch.float64)
    problem.model.register_forward_hook(lambda *_: time.sleep(0.002))
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.1)
    solver = make_solver("rk4", num_steps=2)
    timings = time_iterations(problem, build_gradient("adjoint"), solver, optimizer, budget=0.0)
    assert min(timings.forward) >= 8 * 0.002
    assert min(timings.backward) >= 8 * 0.002
    assert min(timings.warm_up) >= 16 * 0.002


def test_relative_interval_by_hand():
    """Of nine iterations of 1 to 9 s the median's interval is from the second to the ninth: (9 - 2) / 2 of 5."""
    timings = Timings(forward=[9.0, 1.0], backward=[0.0] * 2, update=[0.0] * 2)
    assert timings.relative_interval() == math.inf
    timings.forward += [3.0, 2.0, 4.0, 5.0, 7.0, 6.0, 7.5]
    timings.backward, timings.update = [0.0] * 8 + [0.25], [0.0] * 8 + [0.25]
    assert timings.relative_interval() == pytest.approx(3.5 / 5)
    assert not timings.settled()
    timings.forward = timings.backward = timings.update = [1.0] * 4 + [1.03] * 5
    assert timings.relative_interval() == pytest.approx(0.03 / 2 / 1.03)
    assert timings.settled()


def test_time_pass_tells_its_interval_and_what_disturbed_it(monkeypatch, tmp_path):
    """The interval is that of the raw repeats; the taints are those between the snapshots around them."""
    moments = iter([Snapshot(0.0, 0.0, 0.0, quota_waits=1), Snapshot(1.0, 0.0, 0.0, quota_waits=2, swapped_in_bytes=1)])
    monkeypatch.setattr(passes, "snapshot", lambda device: next(moments))
    found = passes.time_pass(_run(), tmp_path, _nothing)  # the canary would find the replaced snapshot
    raw = [found[f"{part}_seconds_raw"] for part in ("forward", "backward", "update")]
    assert found["time_relative_interval"] == Timings([], *raw).relative_interval() > 0
    assert found["taints"] == "quota,swapping"


def test_unknown_pass():
    """The nearest known name is in the message."""
    with pytest.raises(UnknownNameError, match="did you mean 'train'"):
        run_pass("trian", _run(), _nothing)


@pytest.mark.parametrize("n", [1, 5, 8, 80])
def test_evaluation_points(n):
    """The start and the end are among them, none twice, at most nine."""
    points = list(evaluation_points(n))
    assert points[0] == 0
    assert points[-1] == n
    assert len(set(points)) == len(points) <= 9
