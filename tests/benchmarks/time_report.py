"""Measure how long results take to load and to report: run it anywhere, it prints seconds, waiting left in and out.

``python tests/benchmarks/time_report.py [RECORDS]`` makes that many records (default 100 000) of a sweep: 20 tasks, 10
methods, 5 optimizers and as many seeds as it takes, each with 100 losses and a trace of 9 points, as a run writes them.
"""

import itertools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from odegrad.records.lines import encode
from odegrad.records.record import Record, Run, Status
from odegrad.reports.frame import load
from odegrad.reports.names import METHOD_ORDER
from odegrad.reports.page.build import build_report

TASKS, METHODS, OPTIMIZERS = 20, METHOD_ORDER[:10], ("adam", "sgd", "rmsprop", "adagrad", "snopt")


def made_record(task: int, method: str, optimizer: str, seed: int, rng: np.random.Generator) -> Record:
    """Return one record with random numbers; one in fifty diverged."""
    run = Run(
        suite="sweep", task=f"task_{task:02d}", size="tiny", gradient=method, optimizer=optimizer, solver="dopri5",
        seed=seed, rtol=1e-3, atol=1e-3, iterations=100, method=method,
    )  # fmt: skip
    if rng.random() < 0.02:
        return Record(run, Status.DIVERGED, "loss is not finite", {}, {"cpu": "made up"})
    forward, backward, error = np.exp(rng.normal(-4.0, 0.3, 3)).tolist()
    measured = {
        "metric_name": "accuracy", "metric_value": float(rng.random()), "metric_higher_is_better": True,
        "metric_target": 0.5, "target_reached": True, "train_seconds": 100 * (forward + backward),
        "train_loss": rng.random(100).tolist(), "trace_iteration": list(range(0, 101, 12)),
        "trace_metric": np.sort(rng.random(9)).tolist(), "trace_seconds": np.linspace(0.0, 5.0, 9).tolist(),
        "nfe_forward": 20, "nfe_backward": 30, "peak_bytes": int(1e6 * forward), "saved_bytes": 1000,
        "forward_seconds": forward, "backward_seconds": backward, "update_seconds": 1e-4,
        "gradient_relative_error": error, "gradient_method_error": error, "trained_gradient_relative_error": error,
    }  # fmt: skip
    return Record(run, Status.OK, "", measured, {"cpu": "made up"})


def main(number: int) -> None:
    """Print the seconds of loading and of the whole report."""
    rng = np.random.default_rng(0)
    seeds = range(-(-number // (TASKS * len(METHODS) * len(OPTIMIZERS))))
    grid = itertools.product(seeds, range(TASKS), METHODS, OPTIMIZERS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "records.jsonl").open("wb") as lines:
            for seed, task, method, optimizer in itertools.islice(grid, number):
                lines.write(encode(made_record(task, method, optimizer, seed, rng)))
        size = (folder / "records.jsonl").stat().st_size
        print(f"{number} records, {size / 1e6:.0f} MB", flush=True)
        begin, busy = time.perf_counter(), time.process_time()
        load(folder)
        print(f"loaded in {time.perf_counter() - begin:.1f} s, {time.process_time() - busy:.1f} s busy", flush=True)
        begin, busy = time.perf_counter(), time.process_time()
        files = build_report(folder)
        seconds, busy = time.perf_counter() - begin, time.process_time() - busy
        print(f"loaded and reported, {len(files)} files, in {seconds:.1f} s, {busy:.1f} s busy")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
