"""Records with plausible numbers, made from a seed: what the reports are tested on."""

import dataclasses
import json
import zlib

import numpy as np
import pytest

from odegrad.records.record import Record, Run, Status
from odegrad.reports.frame import from_rows

METHODS = ("naive", "adjoint", "anode", "interpolation", "snopt", "torchdiffeq_naive", "torchdiffeq_adjoint")
NFE = {"naive": (20, 0), "adjoint": (20, 36), "anode": (20, 20), "interpolation": (20, 29), "snopt": (20, 36)}
PEAK = {"naive": 58.2e6, "adjoint": 5.4e6, "anode": 12.7e6, "interpolation": 6.1e6, "snopt": 5.9e6}
ERROR = {"naive": 2.41e-4, "adjoint": 8.7e-4, "anode": 2.41e-4, "interpolation": 5.3e-4, "snopt": 8.7e-4}
METHOD_ERROR = {"naive": 0.0, "adjoint": 7.9e-4, "anode": 0.0, "interpolation": 4.4e-4, "snopt": 7.9e-4}
SPEED = {"naive": 1.0, "adjoint": 1.5, "anode": 1.3, "interpolation": 1.35, "snopt": 1.7}
MACHINE = {
    "cpu": "Test CPU 3000", "cores": 2, "memory_bytes": 8_000_000_000, "gpu": None, "python": "3.11.7",
    "torch": "2.13.0", "torchdiffeq": "0.2.5", "odegrad": "0.1.0", "commit": "0123456789ab", "threads": 1,
    "malloc": {"MALLOC_ARENA_MAX": "1"},
}  # fmt: skip


def make_run(task, method, seed):
    return Run(
        suite="quick", task=task, size="tiny", gradient={"snopt": "adjoint"}.get(method, method), solver="dopri5",
        optimizer="snopt" if method == "snopt" else "adam", seed=seed, rtol=1e-3, atol=1e-3, iterations=80,
        method=method,
    )  # fmt: skip


def make_measured(run):
    """Return plausible measurements, the same for the same run."""
    base = run.method.removeprefix("torchdiffeq_")
    base = base if base in NFE else "adjoint"
    rng = np.random.default_rng(zlib.crc32(f"{run.task} {run.method} {run.seed}".encode()))
    digits, peer = run.task == "digits", run.method.startswith("torchdiffeq")
    scale, speed = (1.0 if digits else 0.3), SPEED[base] * (1.4 if peer else 1.0)
    forward, backward = 0.0123 * speed * scale, 0.0301 * speed * scale
    progress = 1.0 - np.exp(-np.arange(9) / (1.2 if run.method == "snopt" else 2.0))
    metric = (0.1 + 0.86 * progress if digits else 5.6 - 2.3 * progress) + rng.normal(0, 0.004, 9)
    return {
        "metric_name": "accuracy" if digits else "nll", "metric_value": float(metric[-1]),
        "metric_higher_is_better": digits, "metric_target": 0.93 if digits else 3.5, "target_reached": True,
        "metric_limit": None if digits else 3.264,
        "train_seconds": 80 * (forward + backward), "train_loss": np.linspace(2.3, 0.2, 80).tolist(),
        "trace_iteration": list(range(0, 81, 10)), "trace_metric": metric.tolist(),
        "trace_seconds": (np.arange(9) * 10 * (forward + backward) * rng.uniform(0.97, 1.03)).tolist(),
        "nfe_forward": NFE[base][0] + 6 * (not digits), "nfe_backward": NFE[base][1], "nfe_tap": 0, "vjps": 40,
        "accepted_steps": 3, "rejected_steps": 0, "accepted_steps_backward": 5, "rejected_steps_backward": 1,
        "saved_bytes": int(0.6 * PEAK[base] * scale), "peak_bytes": int(PEAK[base] * scale),
        "forward_seconds": forward, "backward_seconds": backward, "update_seconds": 4.1e-4,
        "forward_seconds_raw": [forward] * 3, "backward_seconds_raw": [backward] * 3,
        "update_seconds_raw": [4.1e-4] * 3, "warmup_seconds_raw": [0.05],
        "gradient_relative_error": ERROR[base] * (1 if digits else 0.02),
        "gradient_method_error": None if peer else METHOD_ERROR[base] * (1 if digits else 0.02),
        "gradient_cosine": 0.999999, "log_norm_max": 3.2, "process_seconds": 9.5,
        "trained_gradient_relative_error": 3 * ERROR[base], "trained_log_norm_max": 4.5,
        "trained_gradient_method_error": None if peer else 2 * METHOD_ERROR[base],
        "trained_nfe_forward": NFE[base][0] + 6, "trained_nfe_backward": NFE[base][1],
    }  # fmt: skip


def make_record(task="digits", method="naive", seed=0, status=Status.OK, message="", settings=None, **measured):
    """Return one record; a failed one has no measurements but those given."""
    run = dataclasses.replace(make_run(task, method, seed), **(settings or {}))
    values = make_measured(run) if status is Status.OK else {}
    return Record(run, status, message, values | measured, MACHINE)


def make_quick(methods=METHODS, tasks=("digits", "circles"), seeds=(0, 1)):
    return [make_record(task, method, seed) for task in tasks for method in methods for seed in seeds]


@pytest.fixture
def record():
    """Return the factory of one record."""
    return make_record


@pytest.fixture(scope="session")
def quick():
    """Return the records of a whole suite: seven methods, two tasks, two seeds, none failed."""
    return make_quick()


@pytest.fixture(scope="session")
def frame_of():
    """Turn records into a frame."""
    return lambda records: from_rows(r.to_row() for r in records)


@pytest.fixture
def mixed(quick):
    """Return the quick suite with two failures, a non-finite metric, and names full of markup."""
    odd = make_record("digits", "my_method.py:Größe<b>&_$x$", 0, metric_value=float("nan"))
    return [
        *quick[1:],
        dataclasses.replace(quick[0], status=Status.DIVERGED, message="loss is not finite at iteration 3", measured={}),
        odd,
        make_record("digits", "adjoint", 2, Status.OUT_OF_MEMORY, "<script>alert(1)</script> needed 9 GB & had 8"),
    ]


@pytest.fixture
def write_results(tmp_path):
    """Write records into a results folder and return it."""

    def write(records, name="records.jsonl", folder=tmp_path / "results"):
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(r.to_row()) + "\n" for r in records]
        (folder / name).write_text("".join(lines), encoding="utf-8")
        return folder

    return write
