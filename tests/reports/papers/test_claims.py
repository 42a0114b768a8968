"""Claims and their verdicts: hand-made records whose effects are known, and the objects of the two papers."""

import csv
import dataclasses
import io
import math
import shutil
import subprocess

import pytest

from odegrad.errors import UsageError
from odegrad.records.columns import COLUMNS
from odegrad.records.record import Status
from odegrad.reports.page.build import build_report
from odegrad.reports.page.render import page
from odegrad.reports.papers import irdm, snopt
from odegrad.reports.papers.claim import Arm, Claim, Direction, Statistic
from odegrad.reports.papers.decision import Answer
from odegrad.reports.papers.quantity import (
    BASELINE_TARGET_SECONDS,
    END_TIME_CHANGE,
    MEAN_END_TIME,
    METRIC_AS_LOSS,
    TARGET_SECONDS,
)
from odegrad.reports.papers.table import CLAIM_COLUMNS, claims_table, text_rows, to_csv, to_latex, to_markdown
from odegrad.reports.papers.verdict import decide

INF = math.inf
FASTER = Claim(
    identifier="faster", paper="test", sentence="It is <b>faster</b> | here.", tasks=("digits",),
    method=Arm("interpolation"), baseline=Arm("adjoint"), quantity="train_seconds", statistic=Statistic.RATIO,
    margin=1.0,
)  # fmt: skip


@pytest.fixture
def ratios(record, frame_of):
    """Return a function that makes a frame whose train_seconds have the given ratios, one a seed; None: it failed."""

    def make(values, task="digits"):
        runs = [record(task, "adjoint", s, train_seconds=10.0) for s in range(len(values))]
        for seed, value in enumerate(values):
            failed = {"status": Status.DIVERGED, "message": "x"} if value is None else {"train_seconds": 10.0 * value}
            runs.append(record(task, "interpolation", seed, **failed))
        return frame_of(runs)

    return make


SIX = [0.5, 0.6, 0.7, 0.8, 0.6, 0.65]


def test_claim_holds(ratios):
    """Six ratios below 1 of six: p is 2^-6, the interval ends at the least and the largest."""
    found = decide(FASTER, ratios(SIX)).tasks[0]
    assert (found.answer, found.words) == (Answer.HOLDS, "holds")
    assert (found.effect, found.low, found.high) == pytest.approx((0.625, 0.5, 0.8))
    assert (found.agreeing, found.seeds, found.reason) == (6, 6, "")
    assert found.p_value == pytest.approx(2.0**-6)


def test_claim_does_not_hold(ratios):
    """The same numbers turned round; a claim in the other direction holds on them."""
    frame = ratios([1.0 + value for value in SIX])
    assert decide(FASTER, frame).overall.answer is Answer.FAILS
    assert decide(FASTER, frame).tasks[0].agreeing == 6
    assert decide(dataclasses.replace(FASTER, direction=Direction.ABOVE), frame).overall.answer is Answer.HOLDS


def test_seeds_on_both_sides_decide_nothing(ratios):
    """Five of six have a p-value of 7/64; a seed on the margin is on neither side."""
    found = decide(FASTER, ratios([*SIX[:5], 1.5])).tasks[0]
    assert found.answer is Answer.OPEN
    assert found.reason == "5 seeds on its side of 1, 1 beyond"
    assert found.p_value == pytest.approx(7 / 64)
    found = decide(FASTER, ratios([*SIX[:4], 1.0, 1.5])).tasks[0]
    assert found.reason == "4 seeds on its side of 1, 1 beyond, 1 on it"


def test_ties_are_no_does_not_hold(ratios):
    """Equal costs in every seed are equal where the claim has such an answer, and otherwise undecided."""
    frame = ratios([1.0] * 6)
    assert decide(FASTER, frame).overall.answer is Answer.OPEN
    within = dataclasses.replace(FASTER, equal_within=0.05)
    assert decide(within, frame).overall.words == "equal within 5 %"


@pytest.mark.parametrize(("value", "answer"), [
    (0.94, Answer.HOLDS), (0.96, Answer.EQUAL), (1.04, Answer.EQUAL), (1.06, Answer.FAILS),
])  # fmt: skip
def test_a_small_effect_is_equal_whichever_side_it_lies_on(value, answer, ratios):
    """5 % reach from 1 / 1.05 = 0.952 to 1.05."""
    assert decide(dataclasses.replace(FASTER, equal_within=0.05), ratios([value] * 6)).tasks[0].answer is answer


def test_too_few_seeds_decide_nothing(ratios, frame_of, record):
    """Five clear seeds are not six, even where a tolerance sweep makes more pairs of them."""
    found = decide(FASTER, ratios([0.1] * 5)).tasks[0]
    assert (found.answer, found.words) == (Answer.SEEN, "seen in 5 of 5")
    assert found.reason == "too few seeds: 5 of at least 6"
    assert math.isnan(found.p_value)
    swept = [
        record(method=m, seed=s, settings={"rtol": tol}, train_seconds=v)
        for m, v in (("adjoint", 10.0), ("interpolation", 1.0))
        for s in (0, 1, 2)
        for tol in (1e-3, 1e-5)
    ]
    found = decide(FASTER, frame_of(swept)).tasks[0]
    assert (found.answer, found.agreeing, found.seeds) == (Answer.SEEN, 3, 3)


def test_failed_runs_cost_infinity(ratios):
    """Where every run of the method failed the claim does not hold; one failure of six leaves it open."""
    found = decide(FASTER, ratios([None] * 6)).tasks[0]
    assert (found.answer, found.effect, found.low, found.high) == (Answer.FAILS, INF, INF, INF)
    found = decide(FASTER, ratios([*SIX[:5], None])).tasks[0]
    assert (found.answer, found.high) == (Answer.OPEN, INF)


def test_failures_on_both_sides_say_nothing(record, frame_of):
    """Three pairs in which both failed are no measurement."""
    runs = [record("digits", m, s, Status.ERROR, "x") for m in ("adjoint", "interpolation") for s in range(3)]
    found = decide(FASTER, frame_of(runs)).tasks[0]
    assert found.answer is Answer.OPEN
    assert found.reason == "nothing measured: both failed in every pair, or never got there"


def test_seeds_that_say_nothing_are_told(record, frame_of):
    """Of six seeds both failed in one: five are too few, and the sixth is not passed over."""
    runs = [
        record("digits", m, s, train_seconds=v) for m, v in (("adjoint", 2.0), ("interpolation", 1.0)) for s in range(5)
    ]
    runs += [record("digits", m, 5, Status.ERROR, "x") for m in ("adjoint", "interpolation")]
    found = decide(FASTER, frame_of(runs)).tasks[0]
    assert (found.words, found.reason) == ("seen in 5 of 5", "too few seeds: 5 of at least 6; 1 more say nothing")


def test_nothing_measured(record, frame_of):
    """Without the baseline, without any record, or with None in the column, there is no number and a reason."""
    alone = [record("digits", "interpolation", s) for s in range(3)]
    blank = [record("digits", m, s, train_seconds=None) for m in ("adjoint", "interpolation") for s in range(3)]
    for runs in (alone, blank, []):
        found = decide(FASTER, frame_of(runs)).tasks[0]
        assert found.answer is Answer.OPEN
        assert found.reason.startswith("nothing measured: no run of the method")
        assert math.isnan(found.effect)


def test_missing_column_decides_nothing(ratios):
    """The column is named."""
    verdict = decide(FASTER, ratios([0.5, 0.6, 0.7]).drop(columns="train_seconds"))
    assert {verdict.overall.answer, verdict.tasks[0].answer} == {Answer.OPEN}
    assert verdict.overall.reason == "the records lack train_seconds"


def test_overall_needs_every_task(record, frame_of):
    """Holds on digits and circles: holds. The weakest answer counts; a task without runs leaves it open."""
    claim = dataclasses.replace(FASTER, tasks=("digits", "circles"), equal_within=0.05)

    def frame(of_circles):
        return frame_of(
            record(task, m, s, train_seconds=v)
            for task, mine in (("digits", 5.0), ("circles", of_circles))
            for m, v in (("adjoint", 10.0), ("interpolation", mine))
            for s in range(6)
            if v
        )

    verdict = decide(claim, frame(8.0))
    assert verdict.overall.answer is Answer.HOLDS
    assert (verdict.overall.effect, verdict.overall.seeds) == (pytest.approx(0.65), 12)
    assert verdict.tasks[0].p_value == pytest.approx(2 * 2.0**-6)  # Holm, two tasks
    assert decide(claim, frame(10.2)).overall.answer is Answer.EQUAL
    assert decide(claim, frame(10.2)).wording == (
        "equal within 5 % (holds, 6 of 6 seeds on digits; equal within 5 %, 6 of 6 seeds on circles; p at most 0.031)"
    )
    assert decide(claim, frame(12.0)).overall.reason == "not on circles"
    assert decide(claim, frame(12.0)).overall.answer is Answer.FAILS
    assert decide(claim, frame(None)).overall.answer is Answer.OPEN
    assert decide(claim, frame(None)).overall.reason == "not decided on circles"
    assert decide(claim, frame(None)).wording == "not decided (holds, 6 of 6 seeds on digits; p = 0.031)"


def test_sizes_are_not_paired(record, frame_of):
    """A tiny run of one method and a default run of the other are no pair."""
    runs = [record(method="interpolation", seed=s, settings={"size": "tiny"}) for s in range(3)]
    runs += [record(method="adjoint", seed=s, settings={"size": "default"}) for s in range(3)]
    assert decide(FASTER, frame_of(runs)).tasks[0].seeds == 0


def test_time_to_target(record, frame_of):
    """The target 0.9 is reached at 2 s and at 4 s: ratio 0.5; a run that never reaches it is infinitely slow."""
    claim = dataclasses.replace(FASTER, quantity=TARGET_SECONDS)

    def frame(metric):
        traced = {"metric_target": 0.9, "trace_iteration": [0, 1, 2], "trace_metric": metric}
        times = {"adjoint": [0.0, 2.0, 4.0], "interpolation": [0.0, 1.0, 2.0]}
        mine = {"adjoint": traced | {"trace_metric": [0.1, 0.5, 0.95]}, "interpolation": traced}
        return frame_of(record("digits", m, s, trace_seconds=times[m], **mine[m]) for m in times for s in range(3))

    assert decide(claim, frame([0.1, 0.5, 0.95])).tasks[0].effect == pytest.approx(0.5)
    assert decide(claim, frame([0.1, 0.5, 0.8])).tasks[0].effect == INF


RACE = dataclasses.replace(FASTER, quantity=BASELINE_TARGET_SECONDS)


@pytest.fixture
def race(record, frame_of):
    """Return a function that makes three seeds of both methods from their metrics after 0, 1 and 2 units of time."""

    def make(base, mine, task="digits"):
        units = {"adjoint": 2.0, "interpolation": 1.0}
        runs = [
            record(
                task, m, s, metric_value=metric[-1], metric_target=0.5, trace_iteration=[0, 1, 2], trace_metric=metric,
                trace_seconds=[0.0, units[m], 2.0 * units[m]],
            ) if metric else record(task, m, s, Status.DIVERGED, "x")
            for m, metric in (("adjoint", base), ("interpolation", mine)) for s in range(3)
        ]  # fmt: skip
        return frame_of(runs)

    return make


@pytest.mark.parametrize(("task", "base", "mine", "tolerance", "ratio"), [
    ("digits", [0.1, 0.7, 0.9], [0.1, 0.8, 0.95], 0.0, 0.5),  # 0.9 at 4 s, and at 2 s
    ("digits", [0.1, 0.95, 0.9], [0.1, 0.8, 0.95], 0.0, 1.0),  # the baseline was there at 2 s already
    ("digits", [0.1, 0.7, 0.9], [0.1, 0.8, 0.89], 0.0, INF),  # never
    ("digits", [0.1, 0.7, 0.9], [0.1, 0.8, 0.89], 0.02, 0.5),  # 0.882 will do
    ("circles", [5.0, 4.0, 3.0], [5.0, 3.0, 2.5], 0.0, 0.25),  # less is better
    ("circles", [5.0, 4.0, -3.0], [5.0, -2.95, -2.9], 0.02, 0.25),  # -2.94 will do
    ("digits", None, [0.1, 0.2, 0.3], 0.0, 0.0),  # the baseline failed: infinitely dear
    ("digits", [0.1, 0.7, 0.9], None, 0.0, INF),
])  # fmt: skip
def test_time_to_the_baselines_final_metric(task, base, mine, tolerance, ratio, race):
    """Both are timed to the metric that the baseline ends at, each block by itself; never and failed are infinite."""
    claim = dataclasses.replace(RACE, tasks=(task,), tolerance=tolerance)
    found = decide(claim, race(base, mine, task)).tasks[0]
    assert found.effect == pytest.approx(ratio)
    assert found.seeds == 3


def test_the_table_says_which_target(race):
    """Whose metric it is, how much worse still counts, and its number on the task; a fixed target says so."""
    verdict = decide(dataclasses.replace(RACE, tolerance=0.02), race([0.1, 0.7, 0.9], [0.1, 0.8, 0.95]))
    overall, digits = text_rows([verdict])
    assert overall["target"] == "final metric of adjoint, up to 2 % worse"
    assert digits["target"] == "final metric of adjoint, up to 2 % worse: 0.8820"
    assert dataclasses.replace(FASTER, quantity=TARGET_SECONDS).target == "the task's own target"
    assert FASTER.target == ""


def test_races_of_the_papers_are_to_the_baselines_metric():
    """The first claim of both papers takes what the baseline ends at, not the task's fixed target."""
    races = [c for c in (*irdm.IRDM_CLAIMS, *snopt.SNOPT_CLAIMS) if "-1" in c.identifier]
    assert [c.quantity for c in races] == [BASELINE_TARGET_SECONDS] * 6


@pytest.mark.parametrize(("number", "spread", "wording"), [
    (1, "value of one seed", "seen in 1 of 1 (1 of 1 seeds on digits)"),
    (3, "range of 3 seeds", "seen in 3 of 3 (3 of 3 seeds on digits)"),
    (8, "99 % interval of 8 seeds", "holds (8 of 8 seeds on digits; p = 0.0039)"),
])  # fmt: skip
def test_few_seeds_are_said_to_be_few(number, spread, wording, ratios):
    """Below six there is a range and no verdict; from six on an interval with its coverage."""
    verdict = decide(FASTER, ratios([0.5 + 0.01 * i for i in range(number)]))
    assert verdict.tasks[0].spread == spread
    assert verdict.wording == wording


def test_wording_names_the_tasks_that_decide(record, frame_of):
    """Where it fails on one task of two, that task is named, with the seeds and the chance that it rests on."""
    frame = frame_of(
        record(task, m, s, train_seconds=v)
        for task, mine in (("digits", 5.0), ("circles", 12.0))
        for m, v in (("adjoint", 10.0), ("interpolation", mine))
        for s in range(6)
    )
    verdict = decide(dataclasses.replace(FASTER, tasks=("digits", "circles")), frame)
    assert verdict.wording == "does not hold (6 of 6 seeds on circles; p = 0.031)"
    assert decide(FASTER, frame_of([])).wording == "not decided"


@pytest.mark.parametrize(("task", "mine", "base", "change"), [
    ("digits", 0.9, 0.8, -0.125), ("circles", 4.4, 4.0, 0.1), ("circles", 3.0, -2.0, 2.5), ("circles", 0.0, 0.0, 0.0),
])  # fmt: skip
def test_relative_change_of_the_metric(task, mine, base, change, record, frame_of):
    """Accuracy is turned round (better is below 0), nll is not; relative to the size of the baseline's."""
    claim = dataclasses.replace(FASTER, tasks=(task,), quantity=METRIC_AS_LOSS, statistic=Statistic.CHANGE, margin=0.0)
    runs = [record(task, m, s, metric_value=v) for m, v in (("adjoint", base), ("interpolation", mine)) for s in "012"]
    frame = frame_of(dataclasses.replace(r, run=dataclasses.replace(r.run, seed=int(r.run.seed))) for r in runs)
    assert decide(claim, frame).tasks[0].effect == pytest.approx(change)


def test_failed_baseline_is_infinitely_worse(record, frame_of):
    """The method's metric against a baseline that diverged: minus infinity, so it is better."""
    claim = dataclasses.replace(FASTER, quantity=METRIC_AS_LOSS, statistic=Statistic.CHANGE, margin=0.0)
    runs = [record("digits", "interpolation", s) for s in range(6)]
    runs += [record("digits", "adjoint", s, Status.DIVERGED, "x") for s in range(6)]
    found = decide(claim, frame_of(runs)).tasks[0]
    assert (found.answer, found.effect) == (Answer.HOLDS, -INF)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_exponent_of_memory_in_steps(power, record, frame_of):
    """Bytes that grow like a power of the steps give that power, on fixed grids of one seed."""
    frame = frame_of(_grids(record, lambda steps: int(1e6 * steps**power)))
    found = decide(_MEMORY, frame).tasks[0]
    assert found.effect == pytest.approx(power, abs=1e-5)
    assert found.answer is (Answer.HOLDS if power < 0.1 else Answer.FAILS)


def test_exponent_needs_unlike_steps_and_finished_runs(record, frame_of):
    """One step count shows nothing; where the larger grid did not fit into memory the growth is infinite."""
    runs = _grids(record, lambda _: 1000)
    assert decide(_MEMORY, frame_of(runs[:1])).tasks[0].answer is Answer.OPEN
    dead = dataclasses.replace(runs[-1], status=Status.OUT_OF_MEMORY, message="x", measured={})
    assert decide(_MEMORY, frame_of([*runs[:-1], dead])).tasks[0].effect == INF


_MEMORY = dataclasses.replace(
    next(c for c in snopt.SNOPT_CLAIMS if c.identifier == "snopt-2-memory"), tasks=("digits",)
)  # fmt: skip


def _grids(record, size):
    settings = [{"solver": "rk4", "solver_options": (("num_steps", n),)} for n in (2, 8, 32)]
    return [
        record("digits", "snopt", 0, settings=s, accepted_steps=n, peak_bytes=size(n))
        for s, n in zip(settings, (2, 8, 32), strict=True)
    ]


def test_policies_of_the_end_time_are_told_apart(record, frame_of):
    """Feedback ends at 0.5 of 1.0 with mean 0.75; the first-order policy has the mean 0.9; plain SNOpt is neither."""
    times = {"feedback": [1.0, 0.75, 0.5], "baseline": [1.0, 0.9, 0.8], "": None}
    runs = [
        record(
            "digits", "snopt", s, settings={"optimizer_options": (("t1_policy", p),) if p else ()}, train_end_time=t,
            metric_value={"feedback": 0.9, "baseline": 0.1, "": 0.9}[p],
        )
        for p, t in times.items() for s in range(3)
    ]  # fmt: skip
    effects = {c.identifier: decide(c, frame_of(runs)).tasks[0].effect for c in snopt.SNOPT_CLAIMS}
    assert effects["snopt-4-shorter"] == pytest.approx(0.5)
    assert effects["snopt-4-sooner"] == pytest.approx(0.75 / 0.9)
    assert effects["snopt-4-accuracy"] == 0.0
    assert {END_TIME_CHANGE, MEAN_END_TIME} <= {c.quantity for c in snopt.SNOPT_CLAIMS}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_of_claims_compiles(ratios, tmp_path):
    """A booktabs table with the verdict, its percent sign escaped."""
    verdict = decide(FASTER, ratios([0.5 + 0.01 * i for i in range(8)]))
    head, end = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n", "\\end{document}"
    (tmp_path / "t.tex").write_text(head + to_latex([verdict]) + end)
    subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )


def test_latex_of_claims_holds_the_verdicts(ratios):
    """A row overall and one a task, with the interval's kind; percent signs are escaped."""
    lines = to_latex([decide(FASTER, ratios([0.5 + 0.01 * i for i in range(8)]))]).splitlines()
    assert [line.split(" & ")[:3] for line in lines[4:6]] == [
        ["faster", "all tasks", "holds"], ["faster", "digits", "holds"],
    ]  # fmt: skip
    assert r"(99 \% interval of 8 seeds) \\" in lines[5]


@pytest.mark.parametrize("claim", [*irdm.IRDM_CLAIMS, *snopt.SNOPT_CLAIMS], ids=lambda c: c.identifier)
def test_claims_of_papers_read_columns_that_exist(claim):
    """Every column of a claim is one of a record."""
    assert set(claim.columns) <= {c.name for c in COLUMNS}


def test_claims_of_papers_have_names_of_their_own():
    """No two share an identifier, and each begins with its paper's name."""
    claims = [*irdm.IRDM_CLAIMS, *snopt.SNOPT_CLAIMS]
    assert len({c.identifier for c in claims}) == len(claims)
    assert all(c.identifier.startswith(f"{c.paper}-") for c in claims)


@pytest.mark.parametrize(("change", "words"), [
    ({"tasks": ()}, "at least one task"), ({"margin": 1.5, "equal_within": 0.05}, "equal_within: expected 0"),
    ({"baseline": None}, "baseline: expected one"), ({"statistic": Statistic.VALUE}, "baseline: expected one"),
    ({"quantity": BASELINE_TARGET_SECONDS, "statistic": Statistic.CHANGE}, "expected a ratio to the baseline"),
])  # fmt: skip
def test_wrong_claims_are_refused(change, words):
    """A claim that could not be decided is not made."""
    with pytest.raises(UsageError, match=words):
        dataclasses.replace(FASTER, **change)


def test_tables_hold_the_verdicts(ratios):
    """Markdown escapes and names the answer; CSV reads back with full numbers; a row a task and one overall."""
    verdict = decide(FASTER, ratios(SIX))
    assert list(claims_table([verdict])["task"]) == ["all tasks", "digits"]
    said = "**faster: holds (6 of 6 seeds on digits; p = 0.016).** It is &lt;b&gt;faster&lt;/b&gt; \\| here."
    assert said in to_markdown([verdict])
    rows = list(csv.DictReader(io.StringIO(to_csv([verdict]))))
    assert list(rows[0]) == list(CLAIM_COLUMNS)
    assert float(rows[1]["effect"]) == pytest.approx(0.625)


def test_page_shows_claims_after_the_summary(ratios):
    """The section is there with verdicts and escaped, between summary and results; without verdicts it is not."""
    frame = ratios(SIX)
    text = page(frame, figures=[], verdicts=[decide(FASTER, frame)])
    places = [text.index(f'<section id="{name}"') for name in ("summary", "claims", "results")]
    assert places == sorted(places)
    assert "It is &lt;b&gt;faster&lt;/b&gt;" in text
    assert "0.500 to 0.800 (96 % interval of 6 seeds)" in text
    assert "<strong>holds (6 of 6 seeds on digits; p = 0.016)</strong>" in text
    assert "<code>odegrad paper test --size tiny\n" in text
    without = page(frame, figures=[])
    assert 'id="claims"' not in without
    assert "<code>odegrad run quick\n" in without


def test_report_writes_claims(ratios, record, write_results, tmp_path):
    """With verdicts the report has claims.md and claims.csv; the page stays last."""
    runs = [record("digits", m, s) for m in ("adjoint", "interpolation") for s in range(3)]
    verdict = decide(FASTER, ratios([1.0]))
    written = build_report(write_results(runs), out=tmp_path / "out", verdicts=[verdict])
    assert {"claims.md", "claims.csv"} <= {path.name for path in written}
    assert written[-1].name == "report.html"
