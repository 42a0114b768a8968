"""Write ``docs/columns.md`` from the columns that records declare: run it after changing them."""

from pathlib import Path

from odegrad.records.columns import COLUMNS, Column
from odegrad.records.record import SCHEMA_VERSION

HEADER = f"""# The columns of a record

Schema version {SCHEMA_VERSION}. Written by `python tests/make_columns.py` from `odegrad.records.columns.COLUMNS`.

* f calls are counted where they happen, by phase: the forward solve; the backward pass (a replay's recomputation or a
  backward solve); curvature samples apart.
* Memory on a CPU is the exact sum of tensor storages that operators make, above what stood before; on a GPU that of the
  allocator. Both repeat to the byte. It leaves out scratch memory inside of a kernel.
* Operators are those that torch dispatches, the loss and its own backward pass included; FLOPs are those of matrix
  products, convolutions and attention by torch's own formulas. Both are of the bare field, after a warm-up, without
  curvature samples, and repeat exactly.
* `predicted_...` is what the method states from the steps that were counted, summed over the solves of the loss; none
  for a method that states nothing, nor where a replay takes outputs from inside of steps. Bytes leave out what the
  model keeps outside of the ODE.
* Times are medians of repeats at the initial parameters with a bare field, the device synchronised; raw repeats are
  kept. An optimizer that refreshes curvature factors does so in the first warm-up: `update_seconds` is of an ordinary
  iteration, and `train_seconds` holds the refreshes too.
* `taints` says what else happened on the machine during the time pass: `load` (other processes), `steal` (other guests
  of a virtual machine's host), `throttled` (heat or power), `quota` (the control group's time used up), `swapping`,
  `gpu_shared`, `gpu_throttled`. What the machine does not show is left out; `odegrad doctor` says what that is.
* `gradient_sketch` is a fixed random projection of the gradient to 64 numbers, the same for every gradient of as many
  parameters: the norm of the difference of two sketches estimates that of the two gradients with a relative standard
  deviation of about 9 % (Johnson and Lindenstrauss, 1984; signs as in Achlioptas, 2003), down to rounding.
* With the solver option `compile` the time and train passes run compiled steps; the counts, bytes and gradient errors
  are those of the eager steps, which compute the same but for rounding. Compiling falls into the first warm-up.
* Every pass runs in a fresh process, one thread unless told otherwise. What the worker measures is around all passes.
* How two values are compared by the gate, by a history and between two result sets: `exact`, equal on one machine class
  and within a band of their ratio across; `bits`, equal on one machine class, not at all across; `decades`, by their
  order of magnitude; `band`, by their ratio always, because training magnifies rounding; `time`, by the ratio of
  several measurements; `ratio`, between result sets alone; `not`, not at all. A band is the largest change that is
  allowed where values need not be equal, of `decades` in powers of ten; a baseline may declare another.

| Column | Type | Unit | Meaning | Pass | Compared | Better | Deterministic |
|---|---|---|---|---|---|---|---|
"""


def page() -> str:
    """Return the page."""
    return HEADER + "\n".join(map(_row, COLUMNS)) + "\n"


def _row(column: Column) -> str:
    compared = f"{column.compared}, {column.band:g}" if column.band else str(column.compared)
    better = {True: "higher", False: "lower", None: ""}[column.higher_is_better]
    cells = (
        f"`{column.name}`", column.dtype, column.unit, column.meaning, column.measured_by, compared, better,
        "yes" if column.deterministic else "no",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs" / "columns.md").write_text(page(), encoding="utf-8")
