"""One move of a metric between two lines of a history: whether it is one, what it means, and what repeats it."""

import shlex
from typing import Any

from odegrad.gate.baseline import default_bands
from odegrad.gate.metrics import better, limit_of, moved
from odegrad.gate.verdict import GateFinding, GateState
from odegrad.history.line import FOLLOWED_TIMES, VERSIONS, Line
from odegrad.reports.trends import SHORT, TrendStep

STATUS = "status"
_BANDS = default_bands()


def value_of(line: Line, metric: str) -> object:
    """Return a metric of the exact gate, or ``status``."""
    return line.status if metric == STATUS else line.metrics[metric]


def has_moved(metric: str, old: Line, new: Line, same_class: bool = True) -> bool:
    """Return whether a metric moved by more than the gate allows: not at all on one machine class, else its band."""
    shaky = {*old.inexact, *new.inexact}
    if metric == STATUS:
        return old.status != new.status and STATUS not in shaky
    exact = same_class and old.device == "cpu" and metric not in shaky
    limit = limit_of(metric, _BANDS, exact)
    return limit is not None and moved(metric, old.metrics[metric], new.metrics[metric], limit)


def step_between(
    metric: str, lines: tuple[Line, Line], ends: tuple[int, int], values: tuple[object, object], machine: str,
    suite: str,
    why: str = "",
) -> TrendStep:  # fmt: skip
    """Return the step of a metric.

    Parameters
    ----------
    metric
        Of the exact gate, ``status`` or a time.
    lines
        The last before it and the first after it.
    ends
        Indices of their commits.
    values
        Before and after.
    machine
        Letter or number of the machines.
    suite
        What the command line calls the suite.
    why
        More in words; versions that changed are named besides.
    """
    old, new = values
    first, last = lines
    said = "; ".join(filter(None, (why, _versions(first, last))))
    return TrendStep(
        suite=last.suite, run=last.run, metric=metric, machine=machine, good=ends[0], bad=ends[1], before=old,
        after=new, change=GateFinding(last.run, metric, GateState.CHANGED, old, new, said).change(),
        verdict=_verdict(metric, old, new, last), command=_command(metric, first.commit, last.commit, suite), why=said,
    )  # fmt: skip


def _versions(first: Line, last: Line) -> str:
    """Return which versions of libraries changed between two lines."""
    names = ("torch", "python", "numpy", *VERSIONS)
    old, new = first.machine, last.machine
    return ", ".join(f"{name} {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name))


def _verdict(metric: str, old: object, new: Any, line: Line) -> str:
    if metric == STATUS:
        return str(GateState.IMPROVED if new == "ok" else GateState.REGRESSED)
    if metric in FOLLOWED_TIMES:
        return str(GateState.IMPROVED if new < old else GateState.REGRESSED)
    win = better(metric, old, new, line.higher_is_better if metric == "metric_value" else None)
    return str(GateState.CHANGED if win is None else GateState.IMPROVED if win else GateState.REGRESSED)


def _command(metric: str, good: str, bad: str, suite: str) -> str:
    """Return what repeats a step in a checkout: of times base and head beside each other, else the exact gate."""
    first, last = good[:SHORT], bad[:SHORT]
    if metric in FOLLOWED_TIMES:
        return f"git checkout {last} && {shlex.join(['odegrad', 'gate', suite, '--base', first])}"
    gate = ["odegrad", "gate", suite, "--baseline", f"{first}.json"]
    return (
        f"git checkout {first} && {shlex.join([*gate, '--update', '--reason', first])} && "
        f"git checkout {last} && {shlex.join(gate)}"
    )
