"""Exit codes: every command ends with each code that ``odegrad.exits`` says of it, and with no other."""

import signal
from collections import namedtuple
from types import SimpleNamespace

import pandas as pd
import pytest

from odegrad.advice.advised import ModelAdvice
from odegrad.advice.comparison import COMPARISON_COLUMNS, Comparison
from odegrad.checks.result import CheckResult
from odegrad.commands.exits import end_politely
from odegrad.errors import DataError, InfrastructureError, ResultsError
from odegrad.exits import EXIT_MEANINGS, EXITS_OF, ExitCode, exit_table
from odegrad.gate.verdict import GateFinding, GateState, GateVerdict
from odegrad.records.record import Status
from odegrad.records.repair import FolderFault
from odegrad.running.runner import SweepOutcome

Case = namedtuple("Case", "arguments target returns others", defaults=({},))
"""A command, what it calls, results of that by the code they lead to, and what else is replaced."""

RAISED = {
    ExitCode.USAGE: ResultsError("results: none"),
    ExitCode.FAILED_CHECK: DataError("no data"),
    ExitCode.TRY_AGAIN: InfrastructureError("no process"),
    ExitCode.INTERRUPTED: KeyboardInterrupt(),
}
"""Errors by the code they lead to, in every command that may raise them."""


def outcome(*statuses, infrastructure=0):
    return SweepOutcome({s: statuses.count(s) for s in statuses}, len(statuses), len(statuses), infrastructure)


def verdict(state):
    return GateVerdict((GateFinding("run", "vjps", state, 1, 2, "why"),), ("run",), 1, 0, {})


SPENT = "The budget of 1 s was spent: naive was not measured. A larger budget measures them."


def comparison(word, *notes):
    table = Comparison([{"gradient": "naive", "exact": True, "verdict": word}], columns=list(COMPARISON_COLUMNS))
    table.advice, table.notes = "Take naive.", list(notes)
    return table


def examination(notes, word):
    return {"plain": {"notes": notes, "methods": [{"verdict": word}]}, "tables": [], "sentences": []}


OUTCOMES = {
    ExitCode.FINE: [outcome(Status.OK, Status.UNSUPPORTED)],
    ExitCode.FAILED_RUNS: [outcome(Status.OK, Status.ERROR), outcome(Status.DIVERGED)],
    ExitCode.TRY_AGAIN: [
        outcome(Status.INFRASTRUCTURE, infrastructure=1),
        outcome(Status.OK, Status.OK, Status.INFRASTRUCTURE, infrastructure=1),
        outcome(Status.ERROR, Status.ERROR, Status.INFRASTRUCTURE),
    ],
}
SUITE = SimpleNamespace(name="mine", folder=".", content=SimpleNamespace(workers=1), trials=lambda d: [],
                        runs=lambda d: [])  # fmt: skip
PAPER = SimpleNamespace(suites=[SUITE], folder="paper", folder_of=lambda s, f: f, load=lambda f: {},
                        decide=lambda s: [], exhibits=())  # fmt: skip
CHANGES = SimpleNamespace(table=pd.DataFrame({"a": [1]}), sentences=list, common=1)
TRENDS = SimpleNamespace(steps=[], drifts=[], sentences=list)
RUNS = {"odegrad.suites.suite.load_suite": lambda *a: SUITE, "odegrad.commands.running.write_report": lambda *a, **k: 0}

CASES = {
    "run": Case(["run", "mine"], "odegrad.running.runner.run_suite", OUTCOMES, RUNS),
    "paper": Case(
        ["paper", "irdm"], "odegrad.running.runner.run_suite", OUTCOMES,
        RUNS | {"odegrad.suites.papers.load_paper": lambda *a: PAPER},
    ),
    "plan": Case(["plan", "mine", "--device", "cpu"], "odegrad.running.planning.forecast", {0: [{}]}, RUNS),
    "report": Case(["report", "."], "odegrad.commands.results.write_report", {0: [None]}),
    "compare-results": Case(
        ["compare-results", ".", "."], "odegrad.reports.frame.load", {0: [None]},
        {"odegrad.reports.tables.changes.changes": lambda *a: CHANGES,
         "odegrad.reports.page.comparison.rows": lambda t: [], "odegrad.reports.page.comparison.write": lambda *a: [1]},
    ),
    "list": Case(
        ["list", "methods", "--details"], "odegrad.commands.details._rows",
        {0: [[{"name": "naive", "summary": "x"}]], 1: [[{"name": "theirs", "summary": "cannot be loaded: x"}]]},
        {"odegrad.commands.details.PAIRS": {}, "odegrad.commands.details.METHODS": (),
         "odegrad.commands.details.SHOWN": {"methods": ("name", "summary")}},
    ),
    "check": Case(
        ["check", "mine.py:Mine"], "odegrad.checks.conformance.check_guarded",
        {0: [[CheckResult("G1", True, 0.0, 1.0, "")]], 1: [[CheckResult("G1", False, 2.0, 1.0, "")]]},
    ),
    "advise": Case(
        ["advise", "mine.py:build"], "odegrad.advice.advised.advise_users",
        {0: [ModelAdvice(comparison("accurate"), (), ()), ModelAdvice(comparison("refused: no"), (), ())],
         3: [ModelAdvice(comparison("failed: x"), (), (SPENT,))],
         4: [ModelAdvice(comparison("not measured", SPENT), (), (SPENT,)),
             ModelAdvice(comparison("undecided: no reference"), (), ())]},
    ),
    "compare": Case(
        ["compare", "mine.py:build"], "odegrad.advice.of_users.compare_users",
        {0: [comparison("accurate"), comparison("refused: no"), comparison("accurate", "The reference is known to 1.")],
         3: [comparison("failed: x"), comparison("failed: x", SPENT)],
         4: [comparison("not measured", SPENT), comparison("undecided: off by 1, known to 1")]},
    ),
    "diagnose": Case(
        ["diagnose", "linear"], "odegrad.advice.of_users.examined",
        {code: [examination(*of) for of in found]
         for code, found in ((0, [([], "safe")]), (4, [([SPENT], "safe"), ([], "undecided: there is no reference")]))},
    ),
    "gate": Case(
        ["gate", "gate", "--baseline", "gate.json"], "odegrad.gate.command.run_gate",
        {0: [verdict(GateState.FINE), verdict(GateState.NEW)], 4: [verdict(GateState.UNDECIDED)],
         1: [verdict(s) for s in (GateState.REGRESSED, GateState.IMPROVED, GateState.GONE, GateState.CHANGED)],
         75: [verdict(GateState.MACHINE)]},
    ),
    "doctor": Case(
        ["doctor"], "odegrad.machine.doctor.examine_machine", {0: [SimpleNamespace(rows=list, to_dict=dict)]}
    ),
    "history add": Case(
        ["history", "add", ".", "--history", "h"], "odegrad.history.store.add",
        {0: [SimpleNamespace(sentence=lambda: "added")]}, {"odegrad.history.commits.find_commit": lambda *a: None},
    ),
    "history report": Case(
        ["history", "report", "--history", "h"], "odegrad.history.store.read", {0: [[]]},
        {"odegrad.history.trends.trends": lambda *a: TRENDS, "odegrad.reports.page.history.write": lambda *a: [1],
         "odegrad.reports.page.history.repeats": lambda t: []},
    ),
    "results check": Case(
        ["results", "check", "."], "odegrad.records.repair.examine_folder",
        {0: [[], [FolderFault("r", 1, "duplicate", "x")]], 1: [[FolderFault("r", 1, "broken", "x")]]},
    ),
    "results repair": Case(
        ["results", "repair", "."], "odegrad.records.repair.examine_folder",
        {0: [[]], 1: [[FolderFault("r", 1, "broken", "x")]]}, {"odegrad.records.repair.repair_folder": lambda f: []},
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", EXITS_OF)
def test_a_command_ends_with_the_codes_that_are_documented(run_main, monkeypatch, tmp_path, command):
    """What it may find and what it may raise lead to these codes and to no other."""
    monkeypatch.chdir(tmp_path)
    case, seen = CASES[command], set()
    for target, value in case.others.items():
        monkeypatch.setattr(target, value)
    for code, values in case.returns.items():
        for value in values:
            monkeypatch.setattr(case.target, lambda *a, value=value, **k: value)
            found, _, error = run_main(*case.arguments)
            assert found == code, error
            seen.add(found)
    for code, raised in RAISED.items():
        if code not in EXITS_OF[command]:
            continue

        def fail(*a, raised=raised, **k):
            raise raised

        monkeypatch.setattr(case.target, fail)
        found, out, error = run_main(*case.arguments)
        assert (found, out) == (code, "")
        assert "Traceback" not in error
        seen.add(found)
    assert seen == set(EXITS_OF[command])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", ["report", "gate"])
def test_a_polite_kill_and_a_terminal_that_closes_end_every_command(run_main, monkeypatch, tmp_path, command, number):
    """With 130, as documented, and whatever is open is closed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CASES[command].target, lambda *a, **k: signal.raise_signal(number))
    before = signal.signal(number, signal.SIG_DFL)  # these tests may run under nohup themselves
    try:
        code, out, error = run_main(*CASES[command].arguments)
    finally:
        signal.signal(number, before)
    assert (code, out) == (130, "")
    assert error.startswith("interrupted")


def test_signals_that_are_ignored_stay_so():
    """As under ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        end_politely()
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_table_tells_every_code():
    """Each code has a line with its meaning and its commands."""
    table = exit_table()
    assert set(EXIT_MEANINGS) == set(ExitCode) == {code for codes in EXITS_OF.values() for code in codes}
    assert all(f"| {code.value} | {meaning} |" in table for code, meaning in EXIT_MEANINGS.items())
