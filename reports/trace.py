"""The training of every run in long form: one row a run and point at which the metric was evaluated."""

from pathlib import Path

import numpy as np
import pandas as pd
from pyarrow import Table, parquet

from odegrad.records.columns import COLUMNS
from odegrad.records.replacing import replacing

TRACED_RUN = ("run_id", "task", "size", "method", "gradient", "optimizer", "solver", "seed")
_TRACE = "trace_"
TRACES = {c.name: c.name.removeprefix(_TRACE) for c in COLUMNS if c.name.startswith(_TRACE)}
"""A record's list -> the column of the long form, in the unit of the record's."""

RUNS_AT_A_TIME = 8192
"""So many runs are in long form at a time, where they are written."""


def long_form(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the points of every run that holds a trace, by run and then by iteration.

    Columns are ``TRACED_RUN`` of the records and the values of ``TRACES``, float64; NaN where a run has no such trace.
    """
    traced = frame[frame["trace_iteration"].notna()]
    if traced.empty:
        return pd.DataFrame(columns=[*TRACED_RUN, *TRACES.values()])
    counts = traced["trace_iteration"].map(len).to_numpy()
    own = traced[list(TRACED_RUN)].loc[traced.index.repeat(counts)].reset_index(drop=True)
    lists = {
        new: np.concatenate([_values(values, count) for values, count in zip(traced[old], counts, strict=True)])
        for old, new in TRACES.items()
    }
    return own.assign(**lists)


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write the long form of records as Parquet."""
    traced = frame[frame["trace_iteration"].notna()]
    first = Table.from_pandas(long_form(traced.iloc[:RUNS_AT_A_TIME]), preserve_index=False)
    with replacing(path) as part, parquet.ParquetWriter(part, first.schema) as writer:
        writer.write_table(first)
        for start in range(RUNS_AT_A_TIME, len(traced), RUNS_AT_A_TIME):
            points = long_form(traced.iloc[start : start + RUNS_AT_A_TIME])
            writer.write_table(Table.from_pandas(points, schema=first.schema, preserve_index=False))


def _values(values: object, count: int) -> np.ndarray:
    return np.asarray(values, dtype=np.float64) if isinstance(values, np.ndarray) else np.full(count, np.nan)
