"""The passes of a run: each builds afresh from the seed and measures one kind of thing.

``count`` (f calls, vector-Jacobian products, steps, operators, predictions, certificate), ``memory``, ``time``,
``train``, ``diagnose`` (logarithmic norms before, along and after the training).
Instruments never share a pass with the clock.
"""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
import torch

from odegrad.binding import next_solve, next_tap, samples_by_itself, solve_with
from odegrad.contracts import CompilesPrograms, Split, equivalent_solver
from odegrad.diagnosis.probe import largest_norms
from odegrad.errors import InfrastructureError, NonFiniteError, UnknownNameError
from odegrad.machine.conditions import snapshot, taints
from odegrad.machine.description import package_version
from odegrad.measuring.building import DTYPES, Built, ModelState, build, set_state
from odegrad.measuring.call_counts import calls_of_an_iteration, count_columns
from odegrad.measuring.canary import check_instruments, seal
from odegrad.measuring.memory import measured_bytes
from odegrad.measuring.timing import PASS_SECONDS, time_iterations
from odegrad.measuring.training import Progress, train
from odegrad.measuring.untouched import untouched
from odegrad.methods.solvers.compiled import compile_seconds
from odegrad.records.record import PASSES, TUNING, Run
from odegrad.reference.certificate import certify
from odegrad.reference.shared import shared_reference
from odegrad.reference.subject import Subject, of_problem, of_training
from odegrad.registry import build_gradient, build_task

SNAPSHOT = ".state.pt"
"""Behind the iteration, the name of a model's state in the scratch folder."""
EMULATED = "emulated"
"""The taint of a time pass in 16 bits on a CPU, which is left out."""
REFERENCES = "references"
"""Name of the folder beside the scratch folders of a sweep's runs that holds what these share."""
PROGRAMS = "programs"
"""Name of the folder there that holds programs which methods of other libraries have compiled."""
CERTIFYING = "certifying"
"""Name of the folder in it for certificates, which all runs share: nobody times what they compile."""


def run_pass(name: str, run: Run, scratch: str, progress: Progress) -> dict[str, object]:
    """Run one pass and return the columns it measured.

    Parameters
    ----------
    name
        One of ``PASSES``.
    run
        What to measure.
    scratch
        A folder of the run's own, in which one pass leaves files for the next. Those of a sweep's runs lie side by
        side; the references that they share lie there too.
    progress
        Told of the pass as it goes.

    Raises
    ------
    UnknownNameError
        If there is no pass ``name``.
    OdegradError
        What the method, the solver or the training raise; other errors pass through as they are.
    InstrumentsError
        If the instruments are no longer what they were when this module was imported.
    """
    if name not in _PASSES:
        raise UnknownNameError("pass", name, _PASSES)
    torch.manual_seed(run.seed)
    progress({"pass": name})
    columns = _PASSES[name](run, Path(scratch), progress)
    check_instruments()
    return columns


def count(run: Run, scratch: Path, progress: Progress) -> dict[str, object]:
    """Count one forward and one backward pass on the first batch, predict them, and certify the gradient.

    All of it at the initial parameters, which are the same for every method.
    """
    built = build(run)
    _keep_programs(built, scratch, CERTIFYING)
    return count_built(built, scratch.parent / REFERENCES, progress)


def count_built(built: Built, references: Path, progress: Progress) -> dict[str, object]:
    """Return the columns of the count pass on what was built; ``references`` is the folder of shared ones."""
    built = built.uncompiled()
    tap = next_tap(built.optimizer)
    with untouched(built.problem.model, built.run.method or built.run.gradient):
        batch = built.problem.batch(0)
        columns = count_columns(
            of_training(built.problem),
            built.method,
            built.solver,
            tap,
            lambda solve: samples_by_itself(built.optimizer, solve, batch),
        )
    progress({"pass": "count", "what": "certificate"})
    columns |= _library(built)
    return columns | _certificate(built, built.problem.model.state_dict(), references)


def _library(built: Built) -> dict[str, object]:
    """Return which other library has been measured, and its version."""
    peer = built.method.traits.peer
    name = "" if peer is None else peer.distribution
    return {"library": name, "library_version": package_version(name) or "" if name else ""}


def _certificate(built: Built, state: ModelState, references: Path) -> dict[str, object]:
    run, smooth = built.run, built.task.info.smooth

    def afresh(dtype: torch.dtype = built.certified_in) -> Subject:
        return of_problem(built.problem_with(state, dtype), smooth=smooth)

    true = shared_reference(afresh(torch.float64), f"{run.task} {run.size} seed {run.seed}", references)
    naive = solve_with(build_gradient("naive"), equivalent_solver(built.method, built.solver))
    found = certify(
        afresh,
        solve_with(built.method, built.solver),
        true,
        naive,
        built.solver.controller.rtol,
        same_grid=built.method.traits.shared_loop,
    )
    if not math.isfinite(found.norm):
        raise NonFiniteError(
            f"gradient: {found.non_finite} of its numbers in float64 are NaN or infinite, so there is nothing to "
            "compare; the method, the field or the loss gives them"
        )
    return {
        "gradient_relative_error": found.relative_error,
        "gradient_method_error": found.method_error,
        "gradient_cosine": found.cosine,
        "gradient_digest": found.digest,
        "gradient_norm": found.norm,
        "gradient_sketch": found.sketch,
        "gradient_accuracy": found.accuracy,
        "reference_error": true.error,
        "reference_calls": true.calls,
        "reference_failure": true.reason,
    }


def memory(run: Run, scratch: Path, progress: Progress) -> dict[str, Any]:  # noqa: ARG001
    """Measure the bytes kept between forward and backward, and the peak of both, after one warm-up of each.

    An optimizer that learns from curvature samples takes them in the measured pass: its peak is that of a refresh.
    """
    return measure_memory(build(run))


def measure_memory(built: Built) -> dict[str, Any]:
    """Return the columns of the memory pass on what was built."""
    built = built.uncompiled()
    peer = built.method.traits.peer
    if peer is not None and not peer.seen:
        return {"saved_bytes": None, "peak_bytes": None}
    batch, subject = built.problem.batch(0), of_training(built.problem)
    subject.pull_back(subject.loss(solve_with(built.method, built.solver)))
    return measured_bytes(subject, lambda: next_solve(built.optimizer, built.method, built.solver, batch))


def _keep_programs(built: Built, scratch: Path, folder: str) -> None:
    """Let the method look up what it compiles in ``folder`` of the sweep, and leave it there."""
    if isinstance(built.method, CompilesPrograms):
        built.method.keep_programs(scratch.parent / PROGRAMS / folder)


def time_pass(run: Run, scratch: Path, progress: Progress) -> dict[str, object]:  # noqa: ARG001
    """Time forward, backward and update apart, with a bare field, and say what disturbed the machine meanwhile.

    The first round of a run compiles its programs, which is ``compile_seconds``; the later ones read them back.
    """
    if (run.precision or torch.finfo(DTYPES[run.dtype]).bits < 32) and run.device == "cpu":
        # Its kernels emulate 16 bits: their seconds say nothing of a device that has them.
        return {"taints": EMULATED}
    built = build(run)
    _keep_programs(built, scratch, run.run_id)
    before = snapshot(run.device)
    timings = time_iterations(built.problem, built.method, built.solver, built.optimizer, PASS_SECONDS)
    after = snapshot(run.device)
    compiling = compile_seconds(built.problem.model.modules()) if built.solver.compile else None
    if isinstance(built.method, CompilesPrograms):
        compiling = built.method.compile_seconds(built.problem.model.modules())
    return {
        "compile_seconds": compiling,
        "forward_seconds": statistics.median(timings.forward),
        "backward_seconds": statistics.median(timings.backward),
        "update_seconds": statistics.median(timings.update),
        "forward_seconds_raw": timings.forward,
        "backward_seconds_raw": timings.backward,
        "update_seconds_raw": timings.update,
        "warmup_seconds_raw": timings.warm_up,
        "time_relative_interval": timings.relative_interval(),
        "taints": ",".join(taints(before, after, psutil.cpu_count() or 1)),
    }


def train_pass(run: Run, scratch: Path, progress: Progress) -> dict[str, object]:
    """Train, evaluate the metric on the way, and leave the model's states there for the diagnosis."""
    built, calls = build(run), []
    uncompiled = built.uncompiled()

    def keep(iteration: int) -> None:
        torch.save(built.problem.model.state_dict(), scratch / f"{iteration}{SNAPSHOT}")
        if run.stage != TUNING:
            calls.append(calls_of_an_iteration(of_training(built.problem), built.method, uncompiled.solver))

    split: Split = "validation" if run.stage == TUNING else "test"
    trace = train(
        built.problem, built.method, built.solver, built.optimizer, run.iterations, progress, keep,
        evaluations=run.evaluations, split=split, regularised=built.regularised,
    )  # fmt: skip
    info = built.task.info
    target, value = info.target.get(run.size), trace.metrics[-1]
    reached = None if target is None else (value >= target if info.higher_is_better else value <= target)
    return {
        "metric_name": info.metric_name,
        "metric_value": value,
        "metric_split": split,
        "metric_higher_is_better": info.higher_is_better,
        "metric_target": target,
        "metric_limit": info.limit,
        "target_reached": reached,
        "train_seconds": trace.seconds[-1],
        "train_loss": trace.losses,
        "train_penalty": trace.penalties or None,
        "train_end_time": trace.end_times or None,
        "trace_iteration": trace.iterations,
        "trace_metric": trace.metrics,
        "trace_validation_loss": trace.validation_losses or None,
        "trace_seconds": trace.seconds,
        "trace_nfe_forward": [forward for forward, _ in calls] or None,
        "trace_nfe_backward": [backward for _, backward in calls] or None,
    } | ({} if run.stage == TUNING else _at_the_end(uncompiled, calls[-1], scratch.parent / REFERENCES, progress))


def _at_the_end(built: Built, calls: tuple[int, int], references: Path, progress: Progress) -> dict[str, object]:
    """Return calls and certificate at the trained parameters, after the clock has stopped."""
    progress({"pass": "train", "what": "certificate"})
    state = {k: v.detach().clone() for k, v in built.problem.model.state_dict().items()}
    certificate = _certificate(built, state, references)
    return {
        "trained_nfe_forward": calls[0],
        "trained_nfe_backward": calls[1],
        "trained_gradient_relative_error": certificate["gradient_relative_error"],
        "trained_gradient_method_error": certificate["gradient_method_error"],
        "trained_gradient_accuracy": certificate["gradient_accuracy"],
        "trained_reference_error": certificate["reference_error"],
    }


def diagnose(run: Run, scratch: Path, progress: Progress) -> dict[str, object]:
    """Take the logarithmic norms along the probe batch's trajectory at every state that the training has left."""
    started = perf_counter()
    problem = build_task(run.task).build(run.size, run.seed, torch.device(run.device), torch.float64)
    kept = sorted((int(path.name.removesuffix(SNAPSHOT)), path) for path in scratch.glob(f"*{SNAPSHOT}"))
    found = []
    for iteration, path in kept:
        progress({"pass": "diagnose", "iteration": iteration, "of": run.iterations})
        set_state(problem, torch.load(path, map_location=run.device, weights_only=True))
        found.append(largest_norms(problem))
    if not found:
        raise InfrastructureError(f"scratch {scratch}: expected the states that the train pass leaves, got none")
    first, last = found[0], found[-1]
    return {
        "log_norm_max": first.mu_2,
        "log_norm_minus_max": first.mu_2_minus,
        "log_norm_integral": first.integral,
        "log_norm_minus_integral": first.integral_minus,
        "trained_log_norm_max": last.mu_2,
        "trained_log_norm_minus_max": last.mu_2_minus,
        "trained_log_norm_integral": last.integral,
        "trained_log_norm_minus_integral": last.integral_minus,
        "trace_log_norm_max": [each.mu_2 for each in found],
        "trace_log_norm_minus_max": [each.mu_2_minus for each in found],
        "diagnose_seconds": perf_counter() - started,
    }


_PASSES: dict[str, Callable[[Run, Path, Progress], dict[str, object]]] = dict(
    zip(PASSES, (time_pass, count, memory, train_pass, diagnose), strict=True)
)

seal()
