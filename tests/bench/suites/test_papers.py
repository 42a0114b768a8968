"""Papers: their suites load and hold the runs that their claims need; the command on results that are there."""

import json
import shutil

import pytest

from odegrad.commands.running import PaperName, Size
from odegrad.errors import SuiteError
from odegrad.records.record import Record, Status
from odegrad.records.shard import RECORDS
from odegrad.records.store import Store, SuiteIdentity
from odegrad.registry import build_task
from odegrad.reports.frame import from_rows
from odegrad.reports.papers.effects import matches
from odegrad.reports.papers.reading import CLAIMS
from odegrad.reports.papers.snopt import NINE
from odegrad.reports.statistics import least_seeds
from odegrad.reports.summary import cells
from odegrad.suites.papers import load_paper
from odegrad.suites.suite import load_suite


def test_the_command_knows_every_paper():
    """The names on the command line are those with claims."""
    assert {str(name) for name in PaperName} == set(CLAIMS)


@pytest.mark.parametrize("size", list(Size))
@pytest.mark.parametrize("name", list(CLAIMS))
def test_suite_is_at_the_size(name, size):
    """Every task of every suite is at the size asked for; the folder's name says it."""
    paper = load_paper(name, str(size))
    assert {run.size for suite in paper.suites for run in suite.runs()} == {str(size)}
    assert paper.folder == f"paper-{name}-{size}"


@pytest.mark.parametrize("name", list(CLAIMS))
def test_suite_has_the_runs_of_every_claim(name):
    """Each arm of each claim has runs on each of its tasks with as many seeds as can decide it, or is deterministic."""
    paper = load_paper(name, "tiny")
    by = {s.name: cells(from_rows(Record(run, Status.OK).to_row() for run in s.runs())) for s in paper.suites}
    for claim in paper.claims:
        every = by[claim.suite or paper.suites[0].name]
        for arm in filter(None, (claim.method, claim.baseline)):
            mine = every[matches(every, arm)]
            for task in claim.tasks:
                seeds = mine[mine["task"] == task]["seed"].nunique()
                needed = 1 if claim.deterministic else least_seeds(len(claim.tasks))
                assert seeds >= needed, f"{claim.identifier} on {task}: {arm}"


@pytest.mark.parametrize("name", list(CLAIMS))
def test_sweeps_are_in_folders_of_their_own(name, tmp_path):
    """The claims' records lie in the paper's folder itself, each sweep's in one of its name; every exhibit has one."""
    paper = load_paper(name, "tiny")
    folders = [paper.folder_of(suite, tmp_path) for suite in paper.suites]
    assert folders[0] == tmp_path
    assert folders[1:] == [tmp_path / suite.name for suite in paper.suites[1:]]
    assert {exhibit.suite for exhibit in paper.exhibits} == {suite.name for suite in paper.suites}
    assert {claim.suite for claim in paper.claims} - {""} <= {suite.name for suite in paper.suites}


def test_more_seeds_are_added_by_the_suite(tmp_path):
    """Records of further seeds in the same folder count."""
    paper = load_paper("irdm", "tiny")
    for suite in (load_suite("paper-irdm", ['size="tiny"', "seeds=[0,1,2,3,4,5,6,7]"]), *paper.suites[1:]):
        _write(paper.folder_of(suite, tmp_path), suite, lambda run: 20 + run.seed % 5)
    verdict = next(v for v in paper.decide(paper.load(tmp_path)) if v.claim.identifier == "irdm-3")
    assert verdict.wording == "holds (8 of 8 seeds on digits, circles and vae_digits; p at most 0.012)"


def test_snopts_own_nine_tasks_are_those_of_its_own_size():
    """Three images, three series, three flows, each once at its tolerance; claims and figures are of that suite."""
    paper = load_paper("snopt", "paper")
    runs = paper.suites[0].runs()
    assert len(runs) == 9 * 3 * 3
    rtol = {run.task: run.rtol for run in runs}
    assert set(rtol) == set(NINE)
    assert {task for task, value in rtol.items() if value == 1e-6} == {"circles", "gas", "miniboone"}
    assert {run.atol for run in runs if run.rtol == 1e-6} == {1e-8}
    assert {claim.tasks for claim in paper.claims if not claim.suite} == {NINE}
    assert {exhibit.suite for exhibit in paper.exhibits} == {suite.name for suite in paper.suites}
    assert "paper-snopt" not in {suite.name for suite in paper.suites}
    series = {dict(r.optimizer_options).get("outside_lr") for r in runs if r.task == "spoken_arabic_digits"}
    assert series == {None}  # the run leaves it to the task
    assert build_task("spoken_arabic_digits").training("paper").optimizers["snopt"]["outside_lr"] == 3e-3


def test_sweep_of_settings_varies_one_at_a_time():
    """Six settings: four dampings at the usual period and three periods at the usual damping, which share one."""
    suite = next(s for s in load_paper("snopt", "tiny").suites if s.name == "paper-snopt-sensitivity")
    settings = {tuple(dict(run.optimizer_options).values()) for run in suite.runs()}
    assert len(settings) == 6
    assert {period for eps, period in settings if eps != 0.1} == {20}


def test_unknown_size_is_refused():
    """A size that no task has ends with the sizes there are."""
    with pytest.raises(SuiteError, match="huge"):
        load_paper("irdm", "huge")


def _results(folder, backward):
    paper = load_paper("irdm", "tiny")
    for suite in paper.suites:
        _write(paper.folder_of(suite, folder), suite, lambda _: backward)


def _write(folder, suite, backward):
    with Store(folder, SuiteIdentity(suite.name, suite.digest)):
        lines = []
    for run in suite.runs():
        seconds = {"adjoint": 2.0, "torchdiffeq_adjoint": 3.0}.get(run.gradient, 1.0)
        upwards = run.task == "digits"
        measured = {
            "metric_name": "accuracy" if upwards else "nll", "metric_value": 0.95 if upwards else 3.0,
            "metric_higher_is_better": upwards, "metric_target": 0.9 if upwards else 3.5, "train_seconds": seconds,
            "trace_iteration": [0, 1], "trace_metric": [0.1, 0.95] if upwards else [9.0, 3.0],
            "trace_seconds": [0.0, seconds], "train_loss": [1.0, 0.5],
            "trace_nfe_backward": [{"adjoint": 30, "torchdiffeq_adjoint": 50}.get(run.gradient, backward(run))] * 2,
            "trace_nfe_forward": [20, 20], "nfe_backward": 30, "nfe_forward": 20, "gradient_relative_error": 1e-3,
            "trained_gradient_relative_error": 3.0 * run.rtol, "trace_log_norm_minus_max": [1.0, 2.0],
        }  # fmt: skip
        lines.append(json.dumps(Record(run, Status.OK, "", measured, {"cpu": "x"}).to_row()))
    (folder / RECORDS).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("backward", "wording"),
    [
        (30, "equal within 5 % (6 of 6 seeds on digits, circles and vae_digits; p at most 0.047)"),
        (40, "does not hold (6 of 6 seeds on digits, circles and vae_digits; p at most 0.047)"),
    ],
)
def test_results_decide(backward, wording, tmp_path):
    """As many backward evaluations as the adjoint, or more; with fewer the claim holds, as the command says below."""
    _results(tmp_path, backward)
    paper = load_paper("irdm", "tiny")
    verdict = next(v for v in paper.decide(paper.load(tmp_path)) if v.claim.identifier == "irdm-2-adjoint")
    assert verdict.wording == wording


def test_command_decides_and_the_report_of_its_folder_keeps_the_claims(tmp_path, run_main):
    """Complete results are not measured again; a report has the same page, and one without a sweep what is left."""
    out = tmp_path / "out"
    _results(out, 20)
    before = {path: path.read_bytes() for path in out.rglob(RECORDS)}
    assert len(before) == 4
    code, printed, err = run_main("paper", "irdm", "--results", str(out), "--device", "cpu")
    assert code == 0, err
    assert {path: path.read_bytes() for path in out.rglob(RECORDS)} == before
    for name in ("irdm-1-adjoint", "irdm-1-torchdiffeq", "irdm-2-adjoint", "irdm-2-torchdiffeq"):
        assert f"{name}: holds (6 of 6 seeds on digits, circles and vae_digits; p at most 0.047)." in printed
    table = (out / "tables" / "claims.csv").read_text(encoding="utf-8")
    assert table.count("irdm-1-adjoint") == table.count("irdm-1-torchdiffeq") == 4  # overall and three tasks
    wanted = (out / "report.html").read_text(encoding="utf-8")
    assert "Claims</h2>" in wanted
    assert all(f'id="figure-irdm_{name}"' in wanted for name in ("training", "nodes", "tolerance", "log_norm"))
    assert len(list((out / "tables").glob("irdm_*.tex"))) == 3
    assert run_main("report", str(out))[0] == 0
    assert (out / "report.html").read_text(encoding="utf-8") == wanted
    shutil.rmtree(out / "paper-irdm-nodes")
    assert run_main("report", str(out))[0] == 0
    less = (out / "report.html").read_text(encoding="utf-8")
    assert "Claims</h2>" in less
    assert 'id="figure-irdm_training"' in less
    assert 'id="figure-irdm_nodes"' not in less
    assert run_main("report", str(out / "paper-irdm-norms"))[0] == 0
    assert "Claims</h2>" not in (out / "paper-irdm-norms" / "report.html").read_text(encoding="utf-8")
