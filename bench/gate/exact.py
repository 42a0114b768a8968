"""The exact gate: each run's figures, measured twice, against the baseline's; a pure function."""

from collections.abc import Iterable, Mapping

from odegrad.errors import BaselineError
from odegrad.gate.baseline import INEXACT, Baseline, BaselineEntry, differing_metrics
from odegrad.gate.metrics import METRICS, better, limit_of, machine_class, moved
from odegrad.gate.verdict import GateFinding, GateState, GateVerdict
from odegrad.records.columns import Compared
from odegrad.records.record import Record, Status

MeasuredTwice = Mapping[str, tuple[Record, Record]]
"""Name of a run -> its two measurements, in fresh processes each."""


def judge(baseline: Baseline, pairs: MeasuredTwice, whole: bool = True) -> GateVerdict:
    """Return how what was measured stands to the baseline.

    Parameters
    ----------
    baseline
        What was accepted.
    pairs
        What was measured now.
    whole
        Whether the whole suite was measured, so that a run of the baseline that is not there counts as gone.

    Raises
    ------
    BaselineError
        If the baseline and the measurement have no run or no figure in common.
    """
    common = in_common(baseline, pairs)
    now = machine_class(pairs[common[0]][0].machine)
    before = {key: baseline.machine.get(key) for key in now}
    differing = {key: (before[key], now[key]) for key in now if before[key] != now[key]}
    findings: list[GateFinding] = []
    exact = banded = 0
    for name in sorted(pairs):
        if name not in baseline.runs:
            findings.append(GateFinding(name, "run", GateState.NEW, None, "measured", "not in the baseline"))
            continue
        found, counts = _judge_run(name, baseline, pairs[name], not differing)
        findings += found
        exact, banded = exact + counts[0], banded + counts[1]
    if whole:
        gone = sorted(set(baseline.runs) - set(pairs))
        why = "no longer in the suite"
        findings += [GateFinding(name, "run", GateState.GONE, "measured", None, why) for name in gone]
    if not (exact or banded or any(finding.state is not GateState.NEW for finding in findings)):
        raise BaselineError(
            f"baseline of the suite {baseline.suite!r}: expected figures in common with the suite, got none in "
            f"{len(common)} runs; accept what is measured with --update --reason TEXT"
        )
    return GateVerdict(tuple(findings), tuple(sorted(common)), exact, banded, differing)


def in_common(baseline: Baseline, names: Iterable[str]) -> list[str]:
    """Return which of the runs ``names`` the baseline holds.

    Raises
    ------
    BaselineError
        If it holds none.
    """
    common = [name for name in names if name in baseline.runs]
    if not common:
        raise BaselineError(
            f"baseline of the suite {baseline.suite!r}: expected runs in common with the suite, got none of "
            f"{len(baseline.runs)}; the suite has changed throughout: accept it with --update --reason TEXT"
        )
    return common


def _judge_run(
    name: str, baseline: Baseline, both: tuple[Record, Record], same_class: bool
) -> tuple[list[GateFinding], tuple[int, int]]:
    """Return the findings of one run, and how many of its metrics were compared exactly and within bands."""
    entry, (first, second) = baseline.runs[name], both
    if Status.INFRASTRUCTURE in {first.status, second.status}:
        message = first.message or second.message
        return [GateFinding(name, "status", GateState.MACHINE, entry["status"], "infrastructure", message)], (0, 0)
    if "status" in (differing := differing_metrics(first, second)):
        statuses = f"{first.status}, then {second.status}"
        return [GateFinding(name, "status", GateState.UNDECIDED, entry["status"], statuses, _message(both))], (0, 0)
    if str(first.status) != entry["status"]:
        state = GateState.IMPROVED if first.status is Status.OK else GateState.REGRESSED
        return [GateFinding(name, "status", state, entry["status"], str(first.status), _message(both))], (1, 0)
    findings, exact, banded = [], 0, 0
    for metric in METRICS:
        loose = metric in entry.get(INEXACT, ()) or metric in differing
        limit = limit_of(metric, baseline.bands, same_class and not loose)
        finding = _judge_metric(name, metric, entry, both, limit)
        if finding is not None:
            findings.append(finding)
        if metric in differing and metric not in entry.get(INEXACT, ()):  # what is accepted as inexact is decided
            values = f"{first.measured.get(metric)}, then {second.measured.get(metric)}"
            why = "two measurements of the same code differ: not exact"
            findings.append(GateFinding(name, metric, GateState.UNDECIDED, entry.get(metric), values, why))
        if metric in entry and limit is not None:
            tight = same_class and not loose and METRICS[metric].compared is not Compared.BAND
            exact, banded = exact + tight, banded + (not tight)
    return findings, (exact, banded)


def _judge_metric(
    name: str, metric: str, entry: BaselineEntry, both: tuple[Record, Record], limit: float | None
) -> GateFinding | None:
    """Return the finding of one metric; None if it has not moved. Both measurements must have moved."""
    old, new = entry.get(metric), both[0].measured.get(metric)
    if old is None and new is None:
        return None
    if old is None:
        return GateFinding(name, metric, GateState.NEW, None, new, "not in the baseline")
    if new is None:
        return GateFinding(name, metric, GateState.CHANGED, old, None, "no longer measured")
    values: list[object] = [record.measured.get(metric) for record in both]
    if limit is None or not all(moved(metric, old, value, limit) for value in values):
        return None
    higher = both[0].measured.get("metric_higher_is_better") if metric == "metric_value" else None
    win = better(metric, old, new, higher)
    state = GateState.CHANGED if win is None else GateState.IMPROVED if win else GateState.REGRESSED
    return GateFinding(name, metric, state, old, new, _allowed(metric, limit))


def _allowed(metric: str, limit: float) -> str:
    if limit == 0.0:
        return "must be equal"
    return (
        f"within {limit:g} decades"
        if METRICS[metric].compared is Compared.DECADES
        else f"within {limit:.3g} of the baseline"
    )


def _message(both: tuple[Record, Record]) -> str:
    return both[0].message or both[1].message
