"""A sweep over tolerances as a table: gradient errors and f calls of a backward pass, by task and method."""

import pandas as pd

from odegrad.records.record import Status
from odegrad.reports.names import sort_key
from odegrad.reports.papers.quantity import SWEPT_ERROR, TRAINING_NFE_BACKWARD, with_quantity
from odegrad.reports.summary import Results


def sweep_rows(results: Results) -> pd.DataFrame:
    """Return a row a task, method and tolerance: ``task, method, rtol, error, calls``, both with ends, and ``seeds``.

    The error is that at the trained parameters, the calls are those of a backward pass over the training: medians over
    the seeds that ended ``ok``, with ``_least`` and ``_most``.
    """
    ok = with_quantity(results, TRAINING_NFE_BACKWARD)
    ok = ok[ok["status"] == Status.OK]
    keys = ["task", "method", "rtol"]
    values = ok[keys].assign(error=ok[SWEPT_ERROR].astype("float64"), calls=ok[TRAINING_NFE_BACKWARD])
    groups = values.groupby(keys, sort=False)
    told = {
        f"{name}{end}": getattr(groups[name], how)()
        for name in ("error", "calls")
        for end, how in (("", "median"), ("_least", "min"), ("_most", "max"))
    }
    table = pd.DataFrame(told | {"seeds": groups.size()}).reset_index()
    table["place"] = [sort_key(str(method)) for method in table["method"]]
    ordered = table.sort_values(["task", "place", "rtol"], ascending=[True, True, False])
    return ordered.drop(columns="place").reset_index(drop=True)
