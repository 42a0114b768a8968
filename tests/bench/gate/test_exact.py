"""The exact gate as a pure function of records and a baseline: what fails it, what does not, and in which words."""

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from odegrad.errors import BaselineError, UsageError
from odegrad.gate import formats
from odegrad.gate.baseline import Reason, baseline_of, default_bands, read_baseline, run_name
from odegrad.gate.exact import judge
from odegrad.gate.measure import gated_runs
from odegrad.gate.metrics import CLASS, METRICS, limit_of, moved
from odegrad.gate.verdict import GateState
from odegrad.records.columns import COLUMNS, Compared
from odegrad.records.record import Record, Run, Status
from odegrad.suites.suite import load_suite

MACHINE = {name: name for name in CLASS}
REASON = Reason("2026-01-01", None, "first")
RUN = Run("mine", "linear", "tiny", "naive", "adam", "dopri5", 0, 1e-3, 1e-3, 5, method="naive", passes="count,memory")
MEASURED = {
    "nfe_forward": 32,
    "rejected_steps": 0,
    "saved_bytes": 4096,
    "gradient_relative_error": 2e-5,
    "gradient_digest": "00ff",
}


def record(run=RUN, status=Status.OK, machine=None, **measured):
    return Record(run, status, "" if status is Status.OK else "why", MEASURED | measured, machine or MACHINE)


def pair(**measured):
    return {run_name(RUN): (record(**measured), record(**measured))}


BASELINE = baseline_of("mine", pair(), None, REASON)


def the_finding(verdict):
    (finding,) = verdict.findings
    return finding


def test_every_metric_is_a_column():
    """What the gate compares is what a record documents."""
    assert set(METRICS) <= {column.name for column in COLUMNS if column.deterministic}


def test_same_figures_are_fine():
    """Nothing is found, and everything was compared: three counts, one order of magnitude, one digest."""
    verdict = judge(BASELINE, pair())
    assert (verdict.code, verdict.findings, verdict.exact, verdict.banded) == (0, (), 5, 0)


@pytest.mark.parametrize(
    ("measured", "state", "change"),
    [
        ({"nfe_forward": 33}, GateState.REGRESSED, "+1 (+3.1%)"),
        ({"nfe_forward": 31}, GateState.IMPROVED, "-1 (-3.1%)"),
        ({"rejected_steps": 1}, GateState.REGRESSED, "+1"),
        ({"saved_bytes": 4100}, GateState.REGRESSED, "+4 (+0.1%)"),
        ({"gradient_digest": "00fe"}, GateState.CHANGED, ""),
        ({"gradient_relative_error": 2e-4}, GateState.REGRESSED, "x 10"),
        ({"gradient_relative_error": math.nan}, GateState.CHANGED, ""),
        ({"saved_bytes": None}, GateState.CHANGED, ""),
    ],
)
def test_any_change_fails_on_the_same_machine_class(measured, state, change):
    """One call, byte or bit more or less is exit 1, in either direction."""
    verdict = judge(BASELINE, pair(**measured))
    finding = the_finding(verdict)
    assert (verdict.code, finding.state, finding.metric) == (1, state, next(iter(measured)))
    assert finding.change() == change


@pytest.mark.parametrize(
    ("measured", "code"),
    [
        ({"nfe_forward": 35}, 0),  # within 10 %
        ({"nfe_forward": 36}, 1),
        ({"nfe_forward": 28}, 1),
        ({"rejected_steps": 1}, 1),  # no share of zero is more than zero
        ({"gradient_digest": "00fe"}, 0),
        ({"gradient_relative_error": 1.9e-4}, 0),  # within a decade
        ({"gradient_relative_error": 2.1e-4}, 1),
    ],
)
@pytest.mark.parametrize("different", ["torch", "cpu", "instruction_set", "threads", "python"])
def test_bands_on_another_machine_class(measured, code, different):
    """Bits are not compared, counts and errors by their bands, and the verdict says what differs."""
    machine = MACHINE | {different: "other"}
    both = record(machine=machine, **measured)
    verdict = judge(BASELINE, {run_name(RUN): (both, both)})
    assert verdict.code == code
    assert any(f"{different} {different} -> other" in line for line in verdict.sentences())
    assert verdict.exact == 0


def test_bands_are_those_of_the_baseline():
    """A band that the file's author has widened counts."""
    wide = replace(BASELINE, bands={**BASELINE.bands, "nfe_forward": 0.5})
    both = record(machine=MACHINE | {"cpu": "other"}, nfe_forward=40)
    assert judge(wide, {run_name(RUN): (both, both)}).code == 0
    assert judge(BASELINE, {run_name(RUN): (both, both)}).code == 1


def test_metric_that_does_not_repeat_is_left_out_and_named():
    """Two measurements of the same code differ within the band: not exact, so undecided, which is not fine."""
    verdict = judge(BASELINE, {run_name(RUN): (record(nfe_forward=32), record(nfe_forward=33))})
    finding = the_finding(verdict)
    assert (verdict.code, finding.state, finding.metric) == (4, GateState.UNDECIDED, "nfe_forward")
    assert "left out of the exact figures, because two measurements differ: nfe_forward" in verdict.sentences()


def test_metric_that_does_not_repeat_can_still_regress():
    """Both measurements lie outside of the band: jitter is no hiding place."""
    verdict = judge(BASELINE, {run_name(RUN): (record(nfe_forward=64), record(nfe_forward=65))})
    assert verdict.code == 1
    assert {f.state for f in verdict.findings} == {GateState.REGRESSED, GateState.UNDECIDED}


def test_metric_that_the_baseline_calls_inexact_has_a_band():
    """It did not repeat when it was accepted."""
    jittery = baseline_of("mine", {run_name(RUN): (record(), record(nfe_forward=33))}, None, REASON)
    assert jittery.runs[run_name(RUN)]["inexact"] == ["nfe_forward"]
    assert judge(jittery, {run_name(RUN): (record(nfe_forward=33), record())}).code == 0, "accepted, so decided"
    assert judge(jittery, pair(nfe_forward=34)).code == 0
    assert judge(jittery, pair(nfe_forward=36)).code == 1


@pytest.mark.parametrize(
    ("old", "new", "state", "code"),
    [
        (Status.OK, Status.ERROR, GateState.REGRESSED, 1),
        (Status.UNSUPPORTED, Status.OK, GateState.IMPROVED, 1),
        (Status.OK, Status.INFRASTRUCTURE, GateState.MACHINE, 75),
    ],
)
def test_status(old, new, state, code):
    """A run that fails now, works now, or that the machine broke."""
    baseline = baseline_of("mine", {run_name(RUN): (record(status=old),) * 2}, None, REASON)
    verdict = judge(baseline, {run_name(RUN): (record(status=new),) * 2})
    assert (the_finding(verdict).state, verdict.code) == (state, code)


def test_change_outweighs_a_failed_machine():
    """What was found stays found: 1, not 75."""
    other = replace(RUN, seed=1)
    names = [run_name(RUN), run_name(other)]
    baseline = baseline_of("mine", dict.fromkeys(names, (record(), record())), None, REASON)
    failed = record(other, Status.INFRASTRUCTURE)
    verdict = judge(baseline, {names[0]: (record(nfe_forward=40),) * 2, names[1]: (failed, failed)})
    assert verdict.code == 1


def test_run_that_is_gone_fails_and_a_new_one_is_named():
    """A suite that shrinks is no silent pass; a run without a baseline is not judged."""
    other = replace(RUN, seed=1)
    both = {**pair(), run_name(other): (record(other), record(other))}
    wide = baseline_of("mine", both, None, REASON)
    gone = judge(wide, pair())
    assert (the_finding(gone).state, gone.code) == (GateState.GONE, 1)
    assert judge(wide, pair(), whole=False).code == 0
    new = judge(BASELINE, both)
    assert (the_finding(new).state, new.code) == (GateState.NEW, 0)


def test_no_runs_in_common_cannot_be_judged():
    """Nothing compared is no pass."""
    with pytest.raises(BaselineError, match="expected runs in common with the suite, got none of 1"):
        judge(BASELINE, {"another": (record(), record())})


def test_no_figures_in_common_cannot_be_judged():
    """A baseline whose runs hold no metric compares nothing."""
    empty = replace(BASELINE, runs={run_name(RUN): {"status": "ok"}})
    with pytest.raises(BaselineError, match="expected figures in common with the suite, got none in 1 runs"):
        judge(empty, pair())


def test_fingerprint_of_a_users_file_does_not_name_a_run():
    """A changed method file is the same run, so that it is compared; every option is part of the name."""
    assert run_name(replace(RUN, code="abc")) == run_name(RUN)
    named = replace(RUN, gradient="my_method.py:Mine", method="mine", gradient_options=(("nodes", 4),))
    assert "mine[nodes=4] (my_method.py:Mine)" in run_name(named)
    changes = {"seed": 1, "rtol": 1e-4, "atol": 1e-4, "dtype": "float64", "size": "paper", "solver": "rk4"}
    names = {run_name(replace(RUN, **{key: value})) for key, value in changes.items()}
    assert len({*names, run_name(RUN)}) == len(changes) + 1


def test_trained_figures_always_have_a_band():
    """Training magnifies rounding, also on one machine; which way is better the task says."""
    assert limit_of("metric_value", default_bands(), exact=True) == METRICS["metric_value"].band
    baseline = baseline_of("mine", pair(metric_value=0.9), None, REASON)
    assert judge(baseline, pair(metric_value=0.88)).code == 0
    low = the_finding(judge(baseline, pair(metric_value=0.8, metric_higher_is_better=True)))
    assert low.state is GateState.REGRESSED
    other = the_finding(judge(baseline, pair(metric_value=0.8, metric_higher_is_better=False)))
    assert other.state is GateState.IMPROVED


def test_errors_at_rounding_are_alike():
    """1e-16 and 0 and 3e-13 are one order of magnitude: that of float64 rounding."""
    for old, new in [(1e-16, 3e-13), (0.0, 1e-15), (9e-13, 0.0)]:
        assert not moved("gradient_relative_error", old, new, 0.5)
    assert moved("gradient_relative_error", 1e-16, 1e-11, 0.5)
    assert METRICS["gradient_relative_error"].compared is Compared.DECADES


def test_baseline_is_one_sorted_line_a_run_and_reads_back(tmp_path):
    """What is written is read, a change of one run is a change of one line, and reasons are kept."""
    other = replace(RUN, seed=1)
    both = {run_name(other): (record(other),) * 2, **pair()}
    old = baseline_of("mine", both, None, REASON)
    file = tmp_path / "gate.json"
    old.write(file)
    assert read_baseline(file, "mine") == old
    changed = both | pair(nfe_forward=40)
    new = baseline_of("mine", changed, replace(old, bands={"vjps": 0.5}), Reason("2026-02-02", "abc", 'a "reason"'))
    assert [r.reason for r in new.reasons] == ["first", 'a "reason"']
    assert new.bands == {"vjps": 0.5}
    lines, later = old.text().splitlines(), new.text().splitlines()
    runs = [i for i, line in enumerate(later) if '"status"' in line]
    assert [line for line in lines if '"status"' in line] == sorted(line for line in lines if '"status"' in line)
    assert sum(later[i] not in lines and later[i] + "," not in lines for i in runs) == 1
    assert json.loads(new.text())["schema"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"gate\.json: expected a file, got none; write it with odegrad gate"),
        ("{", "expected JSON: Expecting"),
        ("[]", "expected a baseline of schema 1, got 'list'"),
        ('{"schema": 9}', "expected a baseline of schema 1, got 9; delete the file and write it"),
        ('{"schema": 1, "suite": "other"}', "expected a baseline of the suite 'mine', got one of 'other'"),
        ('{"schema": 1, "suite": "mine"}', "expected a baseline as odegrad writes it: 'bands'"),
        ('{"schema": 1, "suite": "mine", "bands": {"vjps": -1}}', "bands: vjps: expected a metric of the gate"),
        (
            '{"schema": 1, "suite": "mine", "bands": {}, "machine": {}, "reasons": [], '
            '"runs": {"a": {"status": "ok", "vjps": "3"}}}',
            "runs: a: vjps: expected a number, got '3'",
        ),
    ],
)
def test_unusable_baseline_is_wrong_use(tmp_path, text, message):
    """Missing, broken, of another form or suite: each says what to do."""
    file = tmp_path / "gate.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(BaselineError, match=message):
        read_baseline(file, "mine")


def hostile_verdict():
    """Return a verdict whose message holds what XML, GitHub and Markdown treat as their own."""
    baseline = baseline_of("mine", pair(), None, REASON)
    broken = Record(RUN, Status.ERROR, 'a <b> & "c" | ]]>\n%0A::error::\x00\x1b[31m *d* ,:', {}, MACHINE)
    verdict = judge(baseline, {run_name(RUN): (broken, broken)})
    return replace(verdict, command="odegrad gate mine", since="2026: first")


def test_junit_is_xml_that_reads_back_whole():
    """One failing case; the message comes back but for what XML cannot hold."""
    root = ET.fromstring(formats.junit(hostile_verdict(), "mine"))
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "1", "failures": "1", "errors": "0", "skipped": "0",
    }  # fmt: skip
    failure = root.find("testsuite/testcase/failure")
    assert 'a <b> & "c" | ]]>\n%0A::error::[31m *d* ,:' in failure.text
    assert root.find("testsuite/testcase").get("name") == run_name(RUN)


def test_junit_skips_what_was_not_judged():
    """Undecided is neither passed nor failed; a failed machine is an error."""
    undecided = judge(BASELINE, {run_name(RUN): (record(nfe_forward=32), record(nfe_forward=33))})
    assert ET.fromstring(formats.junit(undecided, "mine")).get("skipped") == "1"
    broken = judge(BASELINE, {run_name(RUN): (record(status=Status.INFRASTRUCTURE),) * 2})
    assert ET.fromstring(formats.junit(broken, "mine")).get("errors") == "1"


def test_github_annotations_are_one_line_each():
    """Nothing that a message holds starts a command of its own or ends a property."""
    lines = formats.github(hostile_verdict(), "tests/a,b:c.json")
    assert all("\n" not in line for line in lines)
    assert lines[0].startswith("::error file=tests/a%2Cb%3Ac.json,title=gate%3A linear/tiny naive")
    assert "%250A" in lines[0]
    assert lines[-1].startswith("::error title=gate::1 runs compared")
    assert formats.github(judge(BASELINE, pair()), "f")[-1].startswith("::notice ")


def test_markdown_is_one_table_row_a_finding():
    """A cell holds no bar, tag or line break of the message's own."""
    text = formats.markdown(hostile_verdict(), "mine")
    (row,) = [line for line in text.splitlines() if line.startswith("| regressed")]
    assert row.replace("\\|", "").count("|") == 8
    assert "<b>" not in text
    assert "repeat: odegrad gate mine" in text


def test_gate_takes_the_passes_that_repeat():
    """Times are dropped; a suite that names no passes is gated at frozen parameters; one of times alone is refused."""
    assert {run.passes for run in gated_runs(load_suite("quick"), "cpu")} == {"count,memory"}
    assert {run.passes for run in gated_runs(load_suite("quick", ["passes=['time', 'train']"]), "cpu")} == {"train"}
    with pytest.raises(UsageError, match="expected one of the passes count, memory, train, got time"):
        gated_runs(load_suite("quick", ["passes=['time']"]), "cpu")
    with pytest.raises(UsageError, match="expected runs, got none"):
        gated_runs(load_suite("quick", ["include=[{seed=7}]"]), "cpu")
