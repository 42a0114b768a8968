"""The columns of a record, each defined once: name, unit, meaning, its pass, how it is compared and shown; no torch.

Whatever lists columns takes them from ``COLUMNS``: the row of a record, a frame's dtypes, the metrics of gate and
history, the numbers of the pytest fixture, medians and headings of the tables, and ``docs/columns.md``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

WORKER = "worker"
"""Who measures what no pass can: the worker, around all passes of a run."""


class Compared(StrEnum):
    """How two values of a column are compared."""

    EXACT = "exact"
    """Equal on one machine class, otherwise within a band of their ratio."""
    DECADES = "decades"
    """By their order of magnitude."""
    BITS = "bits"
    """Equal on one machine class, otherwise not at all."""
    BAND = "band"
    """Within a band of their ratio always: training magnifies rounding."""
    TIME = "time"
    """By the ratio of several measurements: noise is larger than what is looked for. A history looks for steps."""
    RATIO = "ratio"
    """By the ratio between two result sets alone; no gate and no history follows it."""
    NOT = "not"
    """Not at all."""


GATED = frozenset({Compared.EXACT, Compared.DECADES, Compared.BITS, Compared.BAND})
"""How the columns are compared that the exact gate and a history hold."""


class ShownAs(StrEnum):
    """How a reader sees a value."""

    TEXT = "text"
    COUNT = "count"
    NUMBER = "number"
    """With three significant digits."""
    METRIC = "metric"
    """With four."""
    ERROR = "error"
    """As ``1.2e-07``."""
    MEMORY = "memory"
    """In kB, MB, GB."""
    DURATION = "duration"
    """In ms and s."""


@dataclass(frozen=True)
class Column:
    """One column of a record."""

    name: str
    dtype: str
    """That of pandas; ``object`` for lists and dictionaries."""
    unit: str
    """Empty where a value has none."""
    meaning: str
    measured_by: str = ""
    """The pass that measures it, or ``worker``; empty of what the run and its outcome say."""
    compared: Compared = Compared.NOT
    band: float = 0.0
    """The largest change, relative or in decades, where values are compared but need not be equal."""
    shown_as: ShownAs = ShownAs.TEXT
    title: str = ""
    higher_is_better: bool | None = None
    """None where neither direction is, or the task says it."""
    deterministic: bool = True
    summarised: bool = False
    """Whether the summary of a result set holds its median."""

    @property
    def measured(self) -> bool:
        """Return whether a measurement gives it, not the run and its outcome."""
        return bool(self.measured_by)

    @property
    def heading(self) -> str:
        """Return what a table calls it."""
        return self.title or self.name.replace("_", " ")


def _of_run(name: str, dtype: str, meaning: str, title: str = "") -> Column:
    shown_as = {"int64": ShownAs.COUNT, "float64": ShownAs.NUMBER}.get(dtype, ShownAs.TEXT)
    return Column(name, dtype, "", meaning, shown_as=shown_as, title=title)


def _text(name: str, by: str, meaning: str, **more: Any) -> Column:
    return Column(name, "string", "", meaning, by, **more)


def _list(name: str, by: str, meaning: str, unit: str = "", deterministic: bool = True) -> Column:
    return Column(name, "object", unit, meaning, by, deterministic=deterministic)


def _count(name: str, by: str, meaning: str, unit: str = "calls", **more: object) -> Column:
    settings: dict[str, Any] = {"compared": Compared.EXACT, "shown_as": ShownAs.COUNT, "higher_is_better": False}
    settings |= more
    band = 0.1 if settings["compared"] in GATED else 0.0
    return Column(name, "int64", unit, meaning, by, band=band, **settings)


def _bytes(name: str, meaning: str, compared: Compared = Compared.EXACT, by: str = "memory", **more: object) -> Column:
    return _count(name, by, meaning, "B", compared=compared, shown_as=ShownAs.MEMORY, **more)


def _error(name: str, by: str, meaning: str, title: str) -> Column:
    settings: dict[str, Any] = {"compared": Compared.DECADES, "band": 1.0, "shown_as": ShownAs.ERROR}
    return Column(name, "float64", "", meaning, by, **settings, title=title, higher_is_better=False, summarised=True)


def _seconds(name: str, by: str, meaning: str, compared: Compared, title: str = "") -> Column:
    return Column(
        name, "float64", "s", meaning, by, compared, shown_as=ShownAs.DURATION, title=title, higher_is_better=False,
        deterministic=False, summarised=compared is Compared.TIME,
    )  # fmt: skip


def _number(name: str, by: str, meaning: str, unit: str = "", **more: Any) -> Column:
    return Column(name, "float64", unit, meaning, by, **({"shown_as": ShownAs.NUMBER} | more))


_METRIC: Mapping[str, Any] = {"shown_as": ShownAs.METRIC, "summarised": True}
_PREDICTED: Mapping[str, Any] = {"compared": Compared.RATIO}
_TRAINED: Mapping[str, Any] = {"compared": Compared.BAND, "summarised": True}

COLUMNS: tuple[Column, ...] = (
    _of_run("schema_version", "int64", "version of these columns"),
    _of_run("run_id", "string", "hash of the run's content", "run"),
    _of_run("suite", "string", "name of the suite"),
    _of_run("task", "string", "name of the task"),
    _of_run("size", "string", "the task's size: tiny, default, paper"),
    _of_run("method", "string", "name shown: the gradient method, or a published pair such as snopt"),
    _of_run("gradient", "string", "gradient method"),
    _of_run("gradient_options", "object", "options of the gradient method"),
    _of_run("optimizer", "string", "optimizer"),
    _of_run("optimizer_options", "object", "options of the optimizer; empty: the task's own"),
    _of_run("solver", "string", "solver"),
    _of_run("solver_options", "object", "options of the solver"),
    _of_run("regulariser_options", "object", "weights and options of the regularisers; empty: none"),
    _of_run("seed", "int64", "seed of parameters, data order and noise"),
    _of_run("device", "string", "cpu or cuda"),
    _of_run("dtype", "string", "floating-point type of the training"),
    _of_run("precision", "string", "type that the field alone computes in; empty: that of dtype"),
    _of_run("rtol", "float64", "relative tolerance of the solver"),
    _of_run("atol", "float64", "absolute tolerance of the solver"),
    _of_run("iterations", "int64", "training iterations asked for"),
    _of_run("code", "string", "fingerprint of a user's own file; empty for built-in ones"),
    _of_run("stage", "string", "tuning: a trial that chooses settings on the validation split; empty: it counts"),
    _of_run("passes", "string", "passes measured, separated by commas; empty: all"),
    _of_run("evaluations", "int64", "how many times the metric is evaluated during the training"),
    _of_run("status", "string", "ok, or why there is no full measurement"),
    _of_run("message", "string", "what went wrong, if anything"),
    _text("library", "count", "the other library that the gradient method is of; empty: odegrad's own"),
    _text("library_version", "count", "that library's version", deterministic=False),
    _text("metric_name", "train", "what metric_value is: accuracy, nll, ...", title="measures"),
    _number(
        "metric_value", "train", "the task's metric on held-out data after training", compared=Compared.BAND, band=0.05,
        title="metric", **_METRIC,
    ),
    _text("metric_split", "train", "the held-out data of metric_value: test, or validation for a trial"),
    Column("metric_higher_is_better", "boolean", "", "direction of metric_value", "train"),
    _number("metric_target", "train", "value that a good method reaches at this size", **_METRIC),
    _number(
        "metric_limit", "train", "best value that any model can expect, where it is known: a density's entropy",
        title="metric's limit", **_METRIC,
    ),
    Column(
        "target_reached", "boolean", "", "whether metric_value is at least as good as metric_target", "train",
        higher_is_better=True,
    ),
    _seconds(
        "train_seconds", "train", "wall-clock of the training iterations, without evaluation", Compared.TIME,
        "wall-clock",
    ),
    _list("train_loss", "train", "training loss of every iteration, penalties left out"),
    _list("train_penalty", "train", "weighted penalties of every iteration, where there are regularisers"),
    _list("train_end_time", "train", "end time of the ODE in every iteration, where it is trained", "time"),
    _list("trace_iteration", "train", "iterations at which the metric was evaluated during training"),
    _list("trace_metric", "train", "the metric at trace_iteration"),
    _list(
        "trace_validation_loss", "train",
        "mean loss on the validation split at trace_iteration, where more than 8 evaluations are asked for",
    ),
    _list("trace_seconds", "train", "training wall-clock at trace_iteration", "s", deterministic=False),
    _list("trace_nfe_forward", "train", "nfe_forward at trace_iteration", "calls"),
    _list("trace_nfe_backward", "train", "nfe_backward at trace_iteration", "calls"),
    _count(
        "nfe_forward", "count", "f calls of one forward pass on the first batch", title="NFE forward", summarised=True
    ),
    _count(
        "nfe_backward", "count", "f calls of one backward pass on the first batch", title="NFE backward",
        summarised=True,
    ),
    _count(
        "nfe_tap", "count", "f calls for curvature samples in one refresh, beside nfe_backward", title="NFE tap",
        summarised=True,
    ),
    _count(
        "nfe_stiff_forward", "count", "among nfe_forward the calls of a split field's stiff half alone"
    ),
    _count("nfe_rest_forward", "count", "among nfe_forward those of its other half alone"),
    _count("nfe_stiff_backward", "count", "among nfe_backward the calls of its stiff half alone"),
    _count("nfe_rest_backward", "count", "among nfe_backward those of its other half alone"),
    _count("vjps", "count", "vector-Jacobian products of one backward pass", title="VJPs", summarised=True),
    _count("accepted_steps", "count", "accepted steps of one forward pass", "steps"),
    _count("rejected_steps", "count", "rejected steps of one forward pass", "steps"),
    _count("accepted_steps_backward", "count", "accepted steps of one backward solve", "steps"),
    _count("rejected_steps_backward", "count", "rejected steps of one backward solve", "steps"),
    _count(
        "event_landings", "count",
        "times that steps of one forward pass were redone to end at events, s f calls each; none without events",
        "steps",
    ),
    _count("event_evaluations", "count", "evaluations of event functions in one forward pass"),
    _count(
        "scale_log2", "count",
        "log2 of the last scale of the cotangents in a backward pass through a float16 field; none in other types",
        "", compared=Compared.NOT, higher_is_better=None,
    ),
    _count(
        "scale_retries", "count", "backward passes that were done again as cotangents overflowed in float16", ""
    ),
    _count("nfe_outside", "count", "f calls of both at a time outside of the interval of their solve"),
    _count("operators_forward", "count", "tensor operators of one forward pass, the loss included"),
    _count("operators_backward", "count", "tensor operators of one backward pass"),
    _count(
        "flops_forward", "count", "matrix products, convolutions of one forward pass, 2 a multiply-add", "FLOP",
        shown_as=ShownAs.NUMBER,
    ),
    _count("flops_backward", "count", "the same of one backward pass", "FLOP", shown_as=ShownAs.NUMBER),
    _count("host_syncs", "count", "waits of the host for the GPU in both; none on a CPU", compared=Compared.RATIO),
    _count("predicted_nfe_forward", "count", "nfe_forward as the method predicts it from the steps", **_PREDICTED),
    _count("predicted_nfe_backward", "count", "nfe_backward as the method predicts it from the steps", **_PREDICTED),
    _count("predicted_vjps", "count", "vjps as the method predicts them from the steps", **_PREDICTED),
    _count(
        "sample_evaluations", "count",
        "samples that the f calls of one forward pass were made on, where each has its own steps", "rows",
        summarised=True,
    ),
    _count("sample_evaluations_backward", "count", "the same of one backward pass", "rows", summarised=True),
    _number(
        "useful_fraction", "count", "share of them in the forward solve of samples that had a step to take",
        compared=Compared.EXACT, band=0.1, higher_is_better=True,
    ),
    _list("sample_steps", "count", "accepted steps of each sample in one forward pass where each has its own", "steps"),
    _count("rounds", "count", "rounds of steps of one forward pass: the most that a sample has attempted", "rounds"),
    _count("rounds_backward", "count", "the same of one backward solve, summed over intervals", "rounds"),
    _count(
        "predicted_sample_evaluations", "count", "sample_evaluations as the method predicts them", "rows",
        **_PREDICTED,
    ),
    _count(
        "predicted_sample_evaluations_backward", "count", "sample_evaluations_backward as the method predicts them",
        "rows", **_PREDICTED,
    ),
    _count(
        "newton_iterations", "count", "Newton iterations of accepted implicit steps of one forward pass, a call each",
        "iterations",
    ),
    _count(
        "newton_iterations_lost", "count", "the same of the attempts that were rejected or failed", "iterations"
    ),
    _count("newton_failures", "count", "attempts of one forward pass that Newton's iteration did not solve", "steps"),
    _count(
        "newton_iterations_backward", "count", "Newton iterations of the steps that the backward pass redoes",
        "iterations",
    ),
    _count(
        "explicit_steps", "count", "accepted steps of one forward pass that were explicit, of a solver that switches",
        "steps",
    ),
    _count("explicit_steps_lost", "count", "attempts of such steps that were not accepted", "steps"),
    _count("jacobians_forward", "count", "Jacobians of one forward pass's implicit steps, a call each", "Jacobians"),
    _count("jacobians_backward", "count", "the same of one backward pass", "Jacobians"),
    _count("factorisations_forward", "count", "linear systems that one forward pass factorises", "systems"),
    _count("factorisations_backward", "count", "the same of one backward pass", "systems"),
    _count("linear_solves_forward", "count", "right-hand sides that one forward pass solves for", "solves"),
    _count("linear_solves_backward", "count", "the same of one backward pass", "solves"),
    _count(
        "predicted_jacobians_backward", "count", "jacobians_backward as the method predicts them", "Jacobians",
        **_PREDICTED,
    ),
    _count(
        "predicted_factorisations_backward", "count", "factorisations_backward as the method predicts them", "systems",
        **_PREDICTED,
    ),
    _count(
        "predicted_linear_solves_backward", "count", "linear_solves_backward as the method predicts them", "solves",
        **_PREDICTED,
    ),
    _bytes(
        "saved_bytes", "tensor bytes kept between forward and backward", title="saved memory", summarised=True
    ),
    _bytes(
        "peak_bytes", "peak of tensor bytes of one forward and backward above what stood before", title="peak bytes",
        summarised=True,
    ),
    _bytes(
        "predicted_saved_bytes", "saved_bytes of the ODE's solves alone, predicted by the method", by="count",
        **_PREDICTED,
    ),
    _bytes(
        "predicted_peak_bytes", "peak_bytes of the ODE's solves alone, leading terms of the method", by="count",
        **_PREDICTED,
    ),
    _seconds("forward_seconds", "time", "median time of one forward pass", Compared.TIME, "forward"),
    _seconds("backward_seconds", "time", "median time of one backward pass", Compared.TIME, "backward"),
    _seconds("update_seconds", "time", "median time of one optimizer step", Compared.TIME, "update"),
    _list("forward_seconds_raw", "time", "every timed forward pass", "s", deterministic=False),
    _list("backward_seconds_raw", "time", "every timed backward pass", "s", deterministic=False),
    _list("update_seconds_raw", "time", "every timed optimizer step", "s", deterministic=False),
    _list("warmup_seconds_raw", "time", "every untimed warm-up iteration", "s", deterministic=False),
    _list(
        "round_seconds_raw", "time",
        "median iteration of every round: a process of its own, in turn with the other methods of the comparison", "s",
        deterministic=False,
    ),
    _number(
        "time_relative_interval", "time",
        "half the width of the median iteration's 95 % interval, relative to the median",
        higher_is_better=False, deterministic=False,
    ),
    _text(
        "taints", "time", "what disturbed the time pass, with commas: load,throttled; empty: nothing",
        deterministic=False,
    ),
    _seconds("compile_seconds", "time", "time that compiling the step, or a library's programs, took", Compared.RATIO),
    _error(
        "gradient_relative_error", "count", "distance to the float64 reference gradient, relative", "gradient error"
    ),
    _error(
        "gradient_method_error", "count", "distance to naive on the same grid in float64, relative", "method error"
    ),
    _text(
        "gradient_digest", "count", "hash of the float64 gradient's bits: exact on one machine class, not across",
        compared=Compared.BITS,
    ),
    _number(
        "gradient_cosine", "count", "cosine between gradient and reference", compared=Compared.RATIO,
        higher_is_better=True, summarised=True,
    ),
    _number(
        "reconstruction_error", "count",
        "distance of the backward pass's state to the forward pass's, relative; none where it is kept or replayed",
        shown_as=ShownAs.ERROR, compared=Compared.RATIO, higher_is_better=False,
    ),
    _text("gradient_accuracy", "count", "accurate, inaccurate or undecided; reading-numbers.md says when"),
    _number(
        "reference_error", "count", "how far the reference is known: two independent ways of it, relative",
        shown_as=ShownAs.ERROR, higher_is_better=False,
    ),
    _count(
        "reference_calls", "count", "f calls that the reference has cost, shared by the methods of a block",
        compared=Compared.NOT, higher_is_better=None,
    ),
    _text("reference_failure", "count", "why there is no reference; empty: there is one"),
    _number("log_norm_max", "diagnose", "largest mu_2 of the Jacobian along the probe batch's trajectory", "1/time"),
    _number("log_norm_minus_max", "diagnose", "largest mu_2(-J) there: growth of errors backward in time", "1/time"),
    _number("log_norm_integral", "diagnose", "largest integral of mu_2(J) over time, of the probe batch's samples"),
    _number(
        "log_norm_minus_integral", "diagnose",
        "largest integral of mu_2(-J): the exponent of the growth of errors where a state is solved back at once",
    ),
    _count("trained_nfe_forward", "train", "nfe_forward at the trained parameters", **_TRAINED),
    _count("trained_nfe_backward", "train", "nfe_backward at the trained parameters", **_TRAINED),
    _error(
        "trained_gradient_relative_error", "train", "gradient_relative_error at the trained parameters",
        "gradient error, trained",
    ),
    _error(
        "trained_gradient_method_error", "train", "gradient_method_error at the trained parameters",
        "method error, trained",
    ),
    _text("trained_gradient_accuracy", "train", "gradient_accuracy at the trained parameters"),
    _number(
        "trained_reference_error", "train", "reference_error at the trained parameters",
        shown_as=ShownAs.ERROR, higher_is_better=False,
    ),
    _number("trained_log_norm_max", "diagnose", "log_norm_max at the trained parameters", "1/time"),
    _number("trained_log_norm_minus_max", "diagnose", "log_norm_minus_max at the trained parameters", "1/time"),
    _number("trained_log_norm_integral", "diagnose", "log_norm_integral at the trained parameters"),
    _number("trained_log_norm_minus_integral", "diagnose", "log_norm_minus_integral at the trained parameters"),
    _list("trace_log_norm_max", "diagnose", "log_norm_max at trace_iteration", "1/time"),
    _list("trace_log_norm_minus_max", "diagnose", "log_norm_minus_max at trace_iteration", "1/time"),
    _seconds("diagnose_seconds", "diagnose", "time of all logarithmic norms, after the training", Compared.NOT),
    _seconds("process_seconds", WORKER, "wall-clock of the whole run with all its passes", Compared.RATIO),
    _number("gradient_norm", "count", "Euclidean norm of the float64 gradient"),
    _list(
        "gradient_sketch", "count",
        "64 random projections of the float64 gradient: distances of two sketches are those of the gradients to 9 %",
    ),
    _of_run("machine", "object", "hardware, versions, commit and settings"),
)  # fmt: skip
"""Every column of a record, in order."""

PARTS = ("forward_seconds", "backward_seconds", "update_seconds")
"""The columns that make up the time of an iteration."""

COLUMN_OF: Mapping[str, Column] = {column.name: column for column in COLUMNS}
"""Name -> column."""
