"""What the tables of the page show: for each column its heading, its value to sort by and its text."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from odegrad.records.columns import COLUMN_OF, PARTS, ShownAs
from odegrad.reports import units
from odegrad.reports.tables.across import ACROSS_RATIOS
from odegrad.reports.tables.row_texts import calls, part_of_iteration, peak, wall_clock


@dataclass(frozen=True)
class PageColumn:
    """One column of a table on the page."""

    heading: str
    value: str
    """Column of the summary or of the records."""
    text: Callable[[Any], str] = str
    right: bool = True
    of_row: Callable[[object], str] | None = None
    """The text of a whole row, where the value alone does not make it."""

    @property
    def hint(self) -> str:
        """Return what the column means, from the glossary."""
        column = COLUMN_OF.get(self.value)
        return "" if column is None else column.meaning


def of_record(name: str) -> PageColumn:
    """Return the column that shows a record's column ``name``, as ``COLUMNS`` of records says."""
    column = COLUMN_OF[name]
    return PageColumn(column.heading, name, units.TEXTS[column.shown_as], right=column.shown_as is not ShownAs.TEXT)


_NAMED = (of_record("task"), PageColumn("method", "label", right=False))
_COSTS = tuple(
    of_record(name)
    for name in (
        "nfe_forward", "nfe_backward", "gradient_relative_error", "trained_gradient_relative_error", "peak_bytes",
        "forward_seconds", "backward_seconds", "update_seconds", "train_seconds",
    )
)  # fmt: skip
_DETAILS = (of_record("gradient_method_error"), of_record("saved_bytes"))
SUMMED: dict[str, Callable[[object], str]] = {
    "nfe_forward": lambda row: calls(row, "forward"),
    "nfe_backward": lambda row: calls(row, "backward"),
    "peak_bytes": peak,
    "train_seconds": wall_clock,
    **{name: partial(part_of_iteration, name=name) for name in PARTS},
}
"""Columns of which a row of several seeds shows how far they lie apart, and its text."""
RESULTS_SHOWN = (
    *_NAMED,
    of_record("metric_name"),
    of_record("metric_value"),
    *(replace(column, of_row=SUMMED.get(column.value)) for column in _COSTS),
    PageColumn("ok", "ok"),
    *_DETAILS,
    PageColumn("metric, interval", "interval"),
    of_record("metric_limit"),
    PageColumn("behind it", "gap", units.metric),
    PageColumn("failures", "failures", right=False),
)
ACROSS_SHOWN = (
    PageColumn("method", "method", right=False),
    *(
        column
        for cost, name in ACROSS_RATIOS.items()
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
OPTIMIZERS_SHOWN = (
    *_NAMED,
    of_record("optimizer"),
    PageColumn("until the", "quantity", right=False),
    PageColumn("is", "target", units.metric),
    PageColumn("reached", "reached"),
    PageColumn("iterations, median", "iterations_median", units.significant),
    PageColumn("interval", "iterations_interval"),
    PageColumn("ratio to reference", "iterations_ratio", units.significant),
    PageColumn("seconds, median", "seconds_median", units.seconds),
    PageColumn("interval", "seconds_interval"),
    PageColumn("ratio to reference", "seconds_ratio", units.significant),
    PageColumn("one iteration", "iteration_seconds", units.seconds),
    of_record("peak_bytes"),
)
TRIALS_SHOWN = (
    *(PageColumn(name, name, right=False) for name in ("task", "method", "optimizer", "solver", "options")),
    of_record("metric_name"),
    PageColumn("validation metric", "metric_value", units.metric),
    PageColumn("least validation loss", "validation_loss", units.metric),
    PageColumn("ok", "n_ok", units.count),
    PageColumn("trials", "n", units.count),
    PageColumn("chosen", "chosen", lambda chosen: "chosen" if chosen else "", right=False),
)
RUNS_SHOWN = (
    *_NAMED,
    *map(of_record, ("seed", "status", "metric_name", "metric_value")),
    *_COSTS,
    *_DETAILS,
    *map(of_record, ("solver", "optimizer", "run_id")),
)
CLAIMS_SHOWN = (
    PageColumn("claim", "claim", right=False),
    PageColumn("task", "task", right=False),
    PageColumn("verdict", "verdict", right=False),
    PageColumn("effect", "effect", units.significant),
    PageColumn("interval", "interval"),
    PageColumn("needed", "needed", right=False),
    PageColumn("target", "target", right=False),
    PageColumn("seeds that agree", "agreeing", units.count),
    PageColumn("seeds", "seeds", units.count),
    PageColumn("seeds needed", "needed_seeds", units.count),
    PageColumn("p", "p_value", lambda value: units.significant(value, 2)),
    PageColumn("reason", "reason", right=False),
)
