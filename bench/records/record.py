"""Runs and records: what crosses a process boundary and what is kept; plain data, no torch.

A *run* is one cell of the grid; its id is a hash of its content. A *record* is what one run measured, with its run
and its machine. ``COLUMNS`` documents every column of a record: readers, tables and gates follow it.
"""

import dataclasses
import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 1
"""Version of the record's columns. 1: first."""

PASSES = ("time", "count", "memory", "train", "diagnose")
"""The passes of a run, in their order: times first, taken in turn with the other methods of a comparison."""

EVALUATIONS = 8
"""How many times the metric is evaluated during a training, the start left out, unless a run says otherwise."""

TUNING = "tuning"
"""The stage of a trial that chooses settings."""

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))

Options = tuple[tuple[str, str | int | float | bool], ...]
"""Options as sorted pairs, so that a run is hashable."""


def freeze_options(options: Mapping[str, str | int | float | bool] | None) -> Options:
    """Return ``options`` as sorted pairs."""
    return tuple(sorted((options or {}).items()))


class Status(enum.StrEnum):
    """How a run ended; every value but ``ok`` comes with a message."""

    OK = "ok"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    UNSUPPORTED = "unsupported"
    ERROR = "error"
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True)
class Run:
    """One cell of the grid: names and numbers only."""

    suite: str
    task: str
    size: str
    gradient: str
    optimizer: str
    solver: str
    seed: int
    rtol: float
    atol: float
    iterations: int
    device: str = "cpu"
    dtype: str = "float32"
    method: str = ""
    """The name shown: the gradient method's, or that of a published pair such as ``snopt``."""
    gradient_options: Options = ()
    optimizer_options: Options = ()
    solver_options: Options = ()
    code: str = ""
    """Fingerprint of a user's own method or task file; empty for built-in ones."""
    stage: str = ""
    """``tuning`` for a trial that chooses settings, judged on the validation split; empty for a run that counts."""
    passes: str = ""
    """The passes to measure, separated by commas; empty for all."""
    evaluations: int = EVALUATIONS
    """How many times the metric is evaluated during the training, the start left out."""

    @property
    def run_id(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of the run's canonical JSON.

        Fields of ``LATER`` count only where they differ from their default, so that older results keep their ids.
        """
        content = self.to_dict()
        for name, default in LATER.items():
            if content[name] == default:
                del content[name]
        text = _CANONICAL.encode(content)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; options become dictionaries."""
        out = dict(self.__dict__)
        for key in ("gradient_options", "optimizer_options", "solver_options"):
            out[key] = dict(out[key])
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Run":
        """Return the run that ``to_dict`` wrote; keys that are no field of a run are ignored."""
        names = {f.name for f in dataclasses.fields(cls)}
        values = {k: v for k, v in data.items() if k in names}
        for key in ("gradient_options", "optimizer_options", "solver_options"):
            values[key] = freeze_options(values.get(key))
        return cls(**values)


LATER: Mapping[str, Any] = {
    f.name: f.default for f in dataclasses.fields(Run) if f.name in {"stage", "passes", "evaluations"}
}
"""Fields that runs did not have at first, with their defaults."""


@dataclass(frozen=True)
class Record:
    """What one run measured. A value that was not measured is None."""

    run: Run
    status: Status
    message: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """Column name -> value; names are those of ``COLUMNS``."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """Hardware, versions, commit and settings, from ``odegrad.machine.description``."""

    def to_row(self) -> dict[str, Any]:
        """Return the flat row: the run's fields, ``run_id``, every measured column, ``machine`` as a dictionary."""
        row: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "run_id": self.run.run_id, **self.run.to_dict()}
        row |= {"status": str(self.status), "message": self.message}
        row |= {c.name: self.measured.get(c.name) for c in COLUMNS if c.measured}
        row["machine"] = dict(self.machine)
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Record":
        """Return the record that ``to_row`` wrote."""
        measured = {c.name: row[c.name] for c in COLUMNS if c.measured and row.get(c.name) is not None}
        return cls(
            run=Run.from_dict(row),
            status=Status(row["status"]),
            message=row.get("message", ""),
            measured=measured,
            machine=row.get("machine", {}),
        )


@dataclass(frozen=True)
class Column:
    """One column of a record: its pandas dtype, unit and meaning."""

    name: str
    dtype: str
    unit: str
    meaning: str
    higher_is_better: bool | None = None
    deterministic: bool = True
    measured: bool = True


def _identity(name: str, dtype: str, meaning: str) -> Column:
    return Column(name, dtype, "", meaning, measured=False)


COLUMNS: tuple[Column, ...] = (
    _identity("schema_version", "int64", "version of these columns"),
    _identity("run_id", "string", "hash of the run's content"),
    _identity("suite", "string", "name of the suite"),
    _identity("task", "string", "name of the task"),
    _identity("size", "string", "the task's size: tiny, default, paper"),
    _identity("method", "string", "name shown: the gradient method, or a published pair such as snopt"),
    _identity("gradient", "string", "gradient method"),
    _identity("gradient_options", "object", "options of the gradient method"),
    _identity("optimizer", "string", "optimizer"),
    _identity("optimizer_options", "object", "options of the optimizer; empty: the task's own"),
    _identity("solver", "string", "solver"),
    _identity("solver_options", "object", "options of the solver"),
    _identity("seed", "int64", "seed of parameters, data order and noise"),
    _identity("device", "string", "cpu or cuda"),
    _identity("dtype", "string", "floating-point type of the training"),
    _identity("rtol", "float64", "relative tolerance of the solver"),
    _identity("atol", "float64", "absolute tolerance of the solver"),
    _identity("iterations", "int64", "training iterations asked for"),
    _identity("code", "string", "fingerprint of a user's own file; empty for built-in ones"),
    _identity("stage", "string", "tuning: a trial that chooses settings on the validation split; empty: it counts"),
    _identity("passes", "string", "passes measured, separated by commas; empty: all"),
    _identity("evaluations", "int64", "how many times the metric is evaluated during the training"),
    _identity("status", "string", "ok, or why there is no full measurement"),
    _identity("message", "string", "what went wrong, if anything"),
    Column("metric_name", "string", "", "what metric_value is: accuracy, nll, ..."),
    Column("metric_value", "float64", "", "the task's metric on held-out data after training"),
    Column("metric_split", "string", "", "the held-out data of metric_value: test, or validation for a trial"),
    Column("metric_higher_is_better", "boolean", "", "direction of metric_value"),
    Column("metric_target", "float64", "", "value that a good method reaches at this size"),
    Column(
        "metric_limit", "float64", "", "best value that any model can expect, where it is known: a density's entropy"
    ),
    Column("target_reached", "boolean", "", "whether metric_value is at least as good as metric_target", True),
    Column("train_seconds", "float64", "s", "wall-clock of the training iterations, without evaluation", False, False),
    Column("train_loss", "object", "", "training loss of every iteration"),
    Column("train_end_time", "object", "time", "end time of the ODE in every iteration, where it is trained"),
    Column("trace_iteration", "object", "", "iterations at which the metric was evaluated during training"),
    Column("trace_metric", "object", "", "the metric at trace_iteration"),
    Column(
        "trace_validation_loss",
        "object",
        "",
        "mean loss on the validation split at trace_iteration, where more than 8 evaluations are asked for",
    ),
    Column("trace_seconds", "object", "s", "training wall-clock at trace_iteration", None, False),
    Column("trace_nfe_forward", "object", "calls", "nfe_forward at trace_iteration"),
    Column("trace_nfe_backward", "object", "calls", "nfe_backward at trace_iteration"),
    Column("nfe_forward", "int64", "calls", "f calls of one forward pass on the first batch", False),
    Column("nfe_backward", "int64", "calls", "f calls of one backward pass on the first batch", False),
    Column("nfe_tap", "int64", "calls", "f calls for curvature samples in one refresh, beside nfe_backward", False),
    Column("vjps", "int64", "calls", "vector-Jacobian products of one backward pass", False),
    Column("accepted_steps", "int64", "steps", "accepted steps of one forward pass", False),
    Column("rejected_steps", "int64", "steps", "rejected steps of one forward pass", False),
    Column("accepted_steps_backward", "int64", "steps", "accepted steps of one backward solve", False),
    Column("rejected_steps_backward", "int64", "steps", "rejected steps of one backward solve", False),
    Column("nfe_outside", "int64", "calls", "f calls of both at a time outside of the interval of their solve", False),
    Column("operators_forward", "int64", "calls", "tensor operators of one forward pass, the loss included", False),
    Column("operators_backward", "int64", "calls", "tensor operators of one backward pass", False),
    Column(
        "flops_forward", "int64", "FLOP", "matrix products, convolutions of one forward pass, 2 a multiply-add", False
    ),
    Column("flops_backward", "int64", "FLOP", "the same of one backward pass", False),
    Column("host_syncs", "int64", "calls", "waits of the host for the GPU in both; none on a CPU", False),
    Column("predicted_nfe_forward", "int64", "calls", "nfe_forward as the method predicts it from the steps", False),
    Column("predicted_nfe_backward", "int64", "calls", "nfe_backward as the method predicts it from the steps", False),
    Column("predicted_vjps", "int64", "calls", "vjps as the method predicts them from the steps", False),
    Column("saved_bytes", "int64", "B", "tensor bytes kept between forward and backward", False),
    Column(
        "peak_bytes", "int64", "B", "peak of tensor bytes of one forward and backward above what stood before", False
    ),
    Column(
        "predicted_saved_bytes", "int64", "B", "saved_bytes of the ODE's solves alone, predicted by the method", False
    ),
    Column(
        "predicted_peak_bytes", "int64", "B", "peak_bytes of the ODE's solves alone, leading terms of the method", False
    ),
    Column("forward_seconds", "float64", "s", "median time of one forward pass", False, False),
    Column("backward_seconds", "float64", "s", "median time of one backward pass", False, False),
    Column("update_seconds", "float64", "s", "median time of one optimizer step", False, False),
    Column("forward_seconds_raw", "object", "s", "every timed forward pass", None, False),
    Column("backward_seconds_raw", "object", "s", "every timed backward pass", None, False),
    Column("update_seconds_raw", "object", "s", "every timed optimizer step", None, False),
    Column("warmup_seconds_raw", "object", "s", "every untimed warm-up iteration", None, False),
    Column(
        "round_seconds_raw",
        "object",
        "s",
        "median iteration of every round: a process of its own, in turn with the other methods of the comparison",
        None,
        False,
    ),
    Column(
        "time_relative_interval",
        "float64",
        "",
        "half the width of the median iteration's 95 % interval, relative to the median",
        False,
        False,
    ),
    Column(
        "taints", "string", "", "what disturbed the time pass, with commas: load,throttled; empty: nothing", None, False
    ),
    Column("compile_seconds", "float64", "s", "time that compiling the solver's step took, if it is", False, False),
    Column("gradient_relative_error", "float64", "", "distance to the float64 reference gradient, relative", False),
    Column("gradient_method_error", "float64", "", "distance to naive on the same grid in float64, relative", False),
    Column(
        "gradient_digest", "string", "", "hash of the float64 gradient's bits: exact on one machine class, not across"
    ),
    Column("gradient_cosine", "float64", "", "cosine between gradient and reference", True),
    Column("gradient_accuracy", "string", "", "accurate, inaccurate or undecided; see reading-numbers.md"),
    Column("reference_error", "float64", "", "how far the reference is known: two independent ways of it", False),
    Column("reference_calls", "int64", "calls", "f calls that the reference has cost, shared by a block's methods"),
    Column("reference_failure", "string", "", "why there is no reference; empty: there is one", None),
    Column("log_norm_max", "float64", "1/time", "largest mu_2 of the Jacobian along the probe batch's trajectory"),
    Column("log_norm_minus_max", "float64", "1/time", "largest mu_2(-J) there: growth of errors backward in time"),
    Column("log_norm_integral", "float64", "", "largest integral of mu_2(J) over time, of the probe batch's samples"),
    Column(
        "log_norm_minus_integral",
        "float64",
        "",
        "largest integral of mu_2(-J): the exponent of the growth of errors where a state is solved back at once",
    ),
    Column("trained_nfe_forward", "int64", "calls", "nfe_forward at the trained parameters", False),
    Column("trained_nfe_backward", "int64", "calls", "nfe_backward at the trained parameters", False),
    Column(
        "trained_gradient_relative_error", "float64", "", "gradient_relative_error at the trained parameters", False
    ),
    Column("trained_gradient_method_error", "float64", "", "gradient_method_error at the trained parameters", False),
    Column("trained_gradient_accuracy", "string", "", "gradient_accuracy at the trained parameters"),
    Column("trained_reference_error", "float64", "", "reference_error at the trained parameters", False),
    Column("trained_log_norm_max", "float64", "1/time", "log_norm_max at the trained parameters"),
    Column("trained_log_norm_minus_max", "float64", "1/time", "log_norm_minus_max at the trained parameters"),
    Column("trained_log_norm_integral", "float64", "", "log_norm_integral at the trained parameters"),
    Column("trained_log_norm_minus_integral", "float64", "", "log_norm_minus_integral at the trained parameters"),
    Column("trace_log_norm_max", "object", "1/time", "log_norm_max at trace_iteration"),
    Column("trace_log_norm_minus_max", "object", "1/time", "log_norm_minus_max at trace_iteration"),
    Column("diagnose_seconds", "float64", "s", "time of all logarithmic norms, after the training", False, False),
    Column("process_seconds", "float64", "s", "wall-clock of the whole run with all its passes", False, False),
    Column("gradient_norm", "float64", "", "Euclidean norm of the float64 gradient"),
    Column(
        "gradient_sketch",
        "object",
        "",
        "64 random projections of the float64 gradient: distances of two sketches are those of the gradients to 9 %",
    ),
    _identity("machine", "object", "hardware, versions, commit and settings"),
)
"""Every column of a record, in order."""
