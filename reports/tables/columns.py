"""What the tables of the page show: for each column its heading, its value to sort by and its text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from odegrad.records.record import COLUMNS
from odegrad.reports import units
from odegrad.reports.tables.across import RATIOS
from odegrad.reports.tables.table import METRIC_DIGITS


@dataclass(frozen=True)
class PageColumn:
    """One column of a table on the page."""

    heading: str
    value: str
    """Column of the summary or of the records."""
    text: Callable[[Any], str] = str
    right: bool = True

    @property
    def hint(self) -> str:
        """Return what the column means, from the glossary."""
        return next((c.meaning for c in COLUMNS if c.name == self.value), "")


def metric(value: float) -> str:
    """Return a metric's value as the page shows it."""
    return units.significant(value, METRIC_DIGITS)


NAMED = (PageColumn("task", "task", right=False), PageColumn("method", "label", right=False))
COSTS = (
    PageColumn("NFE forward", "nfe_forward", units.count),
    PageColumn("NFE backward", "nfe_backward", units.count),
    PageColumn("gradient error", "gradient_relative_error", units.error),
    PageColumn("gradient error, trained", "trained_gradient_relative_error", units.error),
    PageColumn("peak memory", "peak_bytes", units.memory),
    PageColumn("forward", "forward_seconds", units.seconds),
    PageColumn("backward", "backward_seconds", units.seconds),
    PageColumn("update", "update_seconds", units.seconds),
    PageColumn("wall-clock", "train_seconds", units.seconds),
)
DETAILS = (
    PageColumn("method error", "gradient_method_error", units.error),
    PageColumn("saved memory", "saved_bytes", units.memory),
)
METRIC = PageColumn("metric", "metric_value", metric)
RESULTS = (
    *NAMED,
    PageColumn("measures", "metric_name", right=False),
    METRIC,
    *COSTS,
    PageColumn("ok", "ok"),
    *DETAILS,
    PageColumn("metric, interval", "interval"),
    PageColumn("metric's limit", "metric_limit", metric),
    PageColumn("behind it", "gap", metric),
    PageColumn("failures", "failures", right=False),
)
ACROSS = (
    PageColumn("method", "method", right=False),
    *(
        column
        for cost, name in RATIOS.items()
        for column in (
            PageColumn(f"{name}, ratio", f"{cost}_ratio", units.significant),
            PageColumn("interval", f"{cost}_interval"),
            PageColumn("ok pairs", f"{cost}_pairs"),
        )
    ),
    PageColumn("score", "score", units.significant),
    PageColumn("interval", "score_interval"),
    PageColumn("mean rank", "time_rank", units.significant),
    PageColumn("ok", "ok"),
)
OPTIMIZERS = (
    *NAMED,
    PageColumn("optimizer", "optimizer", right=False),
    PageColumn("until the", "quantity", right=False),
    PageColumn("is", "target", metric),
    PageColumn("reached", "reached"),
    PageColumn("iterations, median", "iterations_median", units.significant),
    PageColumn("mean", "iterations_mean", units.significant),
    PageColumn("95 % interval", "iterations_interval"),
    PageColumn("ratio to reference", "iterations_ratio", units.significant),
    PageColumn("seconds, median", "seconds_median", units.seconds),
    PageColumn("mean", "seconds_mean", units.seconds),
    PageColumn("95 % interval", "seconds_interval"),
    PageColumn("ratio to reference", "seconds_ratio", units.significant),
    PageColumn("one iteration", "iteration_seconds", units.seconds),
    PageColumn("peak memory", "peak_bytes", units.memory),
)
TUNING = (
    *(PageColumn(name, name, right=False) for name in ("task", "method", "optimizer", "solver", "options")),
    PageColumn("measures", "metric_name", right=False),
    PageColumn("validation metric", "metric_value", metric),
    PageColumn("least validation loss", "validation_loss", metric),
    PageColumn("ok", "n_ok", units.count),
    PageColumn("trials", "n", units.count),
    PageColumn("chosen", "chosen", lambda chosen: "chosen" if chosen else "", right=False),
)
RUNS = (
    *NAMED,
    PageColumn("seed", "seed", units.count),
    PageColumn("status", "status", right=False),
    PageColumn("measures", "metric_name", right=False),
    METRIC,
    *COSTS,
    *DETAILS,
    PageColumn("solver", "solver", right=False),
    PageColumn("optimizer", "optimizer", right=False),
    PageColumn("run", "run_id", right=False),
)

CLAIMS = (
    PageColumn("claim", "claim", right=False),
    PageColumn("task", "task", right=False),
    PageColumn("verdict", "verdict", right=False),
    PageColumn("effect", "effect", units.significant),
    PageColumn("interval", "interval"),
    PageColumn("needed", "needed", right=False),
    PageColumn("target", "target", right=False),
    PageColumn("pairs", "pairs", units.count),
    PageColumn("seeds", "seeds", units.count),
    PageColumn("seeds needed", "least_seeds", units.count),
    PageColumn("reason", "reason", right=False),
)
