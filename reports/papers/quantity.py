"""What a claim measures in a run: a column of the record, or a number made of several."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from odegrad.reports.comparing import time_to_target
from odegrad.reports.summary import Results

METRIC_AS_LOSS = "metric_as_loss"
TARGET_SECONDS = "target_seconds"
BASELINE_TARGET_SECONDS = "seconds_to_baselines_metric"
END_TIME_CHANGE = "end_time_change"
MEAN_END_TIME = "mean_end_time"
TRAINING_NFE_BACKWARD = "training_nfe_backward"
SWEPT_ERROR = "trained_gradient_relative_error"
"""The gradient error at which costs of unlike methods are compared."""

TRACED = ("metric_higher_is_better", "trace_metric", "trace_seconds", "trace_iteration")

DERIVED = {
    METRIC_AS_LOSS: ("metric_value", "metric_higher_is_better"),
    TARGET_SECONDS: ("metric_target", *TRACED),
    BASELINE_TARGET_SECONDS: ("metric_target", "metric_value", *TRACED),
    END_TIME_CHANGE: ("train_end_time",),
    MEAN_END_TIME: ("train_end_time",),
    TRAINING_NFE_BACKWARD: ("trace_nfe_backward",),
}
"""Quantities that are no column of a record -> the columns that they are made of."""


def columns_of(quantity: str) -> tuple[str, ...]:
    """Return the columns of a record that ``quantity`` is made of."""
    return DERIVED.get(quantity, (quantity,))


def with_quantity(results: Results, quantity: str) -> pd.DataFrame:
    """Return the cells with the column ``quantity``.

    ``metric_as_loss``: the final metric, its sign turned where higher is better. ``target_seconds``: seconds until the
    task's own target is reached, infinite if it never is. ``end_time_change``: last over first trained end time of the
    ODE. ``mean_end_time``: its mean over the training, the less the sooner it falls. ``training_nfe_backward``: f calls
    of a backward pass, the mean over the evaluations of the training. Others are columns of a record;
    ``seconds_to_baselines_metric`` is of a pair and made in ``odegrad.reports.papers.effects``.
    """
    cells = results.cells
    if quantity == TARGET_SECONDS:
        return time_to_target(results)
    if quantity == METRIC_AS_LOSS:
        upwards = cells["metric_higher_is_better"].astype("boolean").fillna(False).astype(bool)
        values = cells["metric_value"].astype("float64")
        return cells.assign(**{quantity: values.where(~upwards, -values)})
    if quantity == END_TIME_CHANGE:
        return cells.assign(**{quantity: _of_lists(cells["train_end_time"], lambda times: times[-1] / times[0])})
    if quantity == MEAN_END_TIME:
        return cells.assign(**{quantity: _of_lists(cells["train_end_time"], np.mean)})
    if quantity == TRAINING_NFE_BACKWARD:
        return cells.assign(**{quantity: _of_lists(cells["trace_nfe_backward"], np.mean)})
    return cells


def _of_lists(lists: pd.Series, number: Callable[[NDArray[np.float64]], float]) -> pd.Series:
    """Return a number of each list; NaN where there is none."""
    values = [number(each) if isinstance(each, np.ndarray) and each.size else np.nan for each in lists]
    return pd.Series(values, lists.index, dtype="float64")
