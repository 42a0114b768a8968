"""What the page says of libraries side by side: a sentence a kind of task, and a table."""

import itertools
import math
from collections.abc import Sequence

import pandas as pd

from odegrad.reports import units
from odegrad.reports.contrasts import OWN_LIBRARY, Contrast
from odegrad.reports.equal_error import RatioBound
from odegrad.reports.names import joined, short
from odegrad.reports.statistics import least_seeds
from odegrad.reports.tables.columns import PageColumn

LIBRARIES_SHOWN = (
    PageColumn("kind", "kind", right=False),
    PageColumn("method", "method", right=False),
    PageColumn("library", "library", right=False),
    PageColumn("bound", "bound", right=False),
    PageColumn("time at equal error, ratio", "ratio", units.significant),
    PageColumn("from", "low", units.significant),
    PageColumn("to", "high", units.significant),
    PageColumn("which is the", "said", right=False),
    PageColumn("faster in", "faster", units.count),
    PageColumn("sweeps", "sweeps", units.count),
    PageColumn("tried", "tried", units.count),
    PageColumn("compiling", "compile_seconds", units.seconds),
    PageColumn("pays from iteration", "pays_from", units.count),
)
"""The table of libraries on the page; ``tables/libraries.csv`` has the same columns, and seconds in seconds."""


def libraries_table(found: Sequence[Contrast]) -> pd.DataFrame:
    """Return the contrasts as a table, a row a kind of task and method."""
    names = [column.value for column in LIBRARIES_SHOWN]
    columns = [*names, "baseline", "seconds"]
    return pd.DataFrame([{name: getattr(each, name) for name in columns} for each in found], columns=columns)


def sentences(found: Sequence[Contrast]) -> dict[str, str]:
    """Return for each kind of task what to take of which library, what compiling costs, and how sure that is."""
    return {
        kind: _sentence(list(rows))
        for kind, rows in itertools.groupby(found, key=lambda each: each.kind)
    }  # fmt: skip


def _sentence(rows: Sequence[Contrast]) -> str:
    known = [each for each in rows if each.ratio < math.inf and each.bound != RatioBound.AT_LEAST]
    apart = [short(each.method) for each in rows if math.isnan(each.ratio)]
    failed = [short(each.method) for each in rows if each.ratio == math.inf]
    said = [_fastest(known, len(rows) - 1)]
    if apart:
        said.append(f"Nothing to compare, without a gradient error that is positive: {joined(apart)}.")
    if failed:
        said.append(f"No run ended ok: {joined(failed)}.")
    return " ".join(said)


def _fastest(known: Sequence[Contrast], compared: int) -> str:
    if not known:
        return "Nothing can be told: no method's gradient error reaches that of the baseline."
    best = known[0]
    plain = next((each for each in known if math.isnan(each.compile_seconds)), None)
    baseline = short(best.baseline)
    if best.method == best.baseline:
        return f"Nothing is faster than {baseline} at equal gradient error ({', '.join(best.tasks)})."
    text = f"{_named(best)} takes {_ratio(best)} of {baseline}'s time per gradient at equal gradient error"
    text += f" ({_sure(best, compared)}; {', '.join(best.tasks)})"
    if math.isnan(best.compile_seconds):
        return f"{text}."
    text += f", after {units.seconds(best.compile_seconds)} of compiling"
    if plain is None:
        return f"{text}."
    if math.isfinite(best.pays_from):
        text += f", which pays from {units.count(best.pays_from)} iterations on"
    return f"{text}. Without compiling, {_named(plain)} takes {_ratio(plain)}."


def _named(each: Contrast) -> str:
    return short(each.method) if each.library == OWN_LIBRARY else f"{short(each.method)} ({each.library})"


def _ratio(each: Contrast) -> str:
    return f"{each.bound} {units.significant(each.ratio, 2)}".strip()


def _sure(each: Contrast, compared: int) -> str:
    if each.decided:
        return f"faster in {each.faster} of {each.sweeps} sweeps, decided by itself"
    needed = least_seeds(compared)
    enough = "not decided" if each.sweeps >= needed else f"{needed} that agree would decide it"
    return f"faster in {each.faster} of {each.sweeps} sweeps; {enough}"
