"""Adding to a history and reading it: real git and files, through the command line."""

import datetime as dt
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from odegrad.errors import HistoryError
from odegrad.history.branch import BranchStore
from odegrad.history.commits import find_commit
from odegrad.history.folder import FolderStore
from odegrad.history.git import Repository
from odegrad.history.line import merged, parse
from odegrad.history.store import lines_of, read
from odegrad.records.record import Record, Run, Status

MACHINE = {"cpu": "Test CPU 3000", "cores": 2, "threads": 1, "torch": "2.13.0", "odegrad": "0.1.0"}


def record(status=Status.OK, method="mine", stage="", seed=0, machine=MACHINE, **measured):
    run = Run("mine", "linear", "tiny", "naive", "adam", "dopri5", seed, 1e-3, 1e-3, 80, method=method, stage=stage)
    return Record(run, status, "", measured, machine)


@pytest.fixture
def results(tmp_path):
    """Return a function that writes records into a results folder."""

    def write(*records):
        folder = tmp_path / "results"
        folder.mkdir(exist_ok=True)
        text = "".join(json.dumps(each.to_row()) + "\n" for each in records)
        (folder / "records.jsonl").write_text(text, encoding="utf-8")
        return str(folder)

    return write


@pytest.fixture
def inside(checkout, monkeypatch):
    """Return a repository with one commit, in which the test works."""
    checkout.commit(a__txt="a")
    monkeypatch.chdir(checkout.folder)
    return checkout


@pytest.fixture(params=["folder", "branch"])
def option(request, tmp_path):
    """Return the options of a history in a folder, or on a branch."""
    return ("--history", str(tmp_path / "history")) if request.param == "folder" else ("--branch", "odegrad-history")


def held(option):
    """Return the lines of a history."""
    kind, name = option
    return read(FolderStore(Path(name)) if kind == "--history" else BranchStore(Repository(Path()), name))


def test_line_holds_commit_run_machine_and_figures(run_main, inside, results, option):
    """Every part of a line, against the record and git's own words."""
    second = inside.commit(b__txt="b")
    where = results(record(nfe_forward=26, gradient_relative_error=1.2345e-4, backward_seconds=0.01,
                           metric_value=0.123456789, metric_higher_is_better=True, taints="load",
                           gradient_method_error=float("nan")))  # fmt: skip
    code, out, err = run_main("history", "add", where, *option, "--release", "v1")
    assert (code, err) == (0, "")
    assert f"1 runs of commit {second[:12]} added, 0 replaced" in out
    (line,) = held(option)
    assert (line.commit, line.order, line.parent) == (second, 2, inside("rev-parse", "HEAD~1"))
    assert dt.datetime.fromisoformat(line.date).timestamp() == int(inside("show", "-s", "--format=%ct", "HEAD"))
    assert (line.suite, line.status, line.release, line.taints) == ("mine", "ok", "v1", "load")
    assert line.run == ("linear/tiny mine (naive) adam dopri5 0.001/0.001 float32 cpu seed 0 80 iterations")
    assert line.metrics == {"nfe_forward": 26, "gradient_relative_error": 1.2e-4, "metric_value": 0.123457}
    assert line.times == {"backward_seconds": 0.01}
    assert line.higher_is_better is True
    assert line.machine["torch"] == "2.13.0"


def test_same_commit_and_run_again_replaces(run_main, inside, results, option):
    """One of two runs again, with another time: two lines, the new time, the release's name stays."""
    runs = (record(seed=0, nfe_forward=26, backward_seconds=0.01), record(seed=1, nfe_forward=26))
    run_main("history", "add", results(*runs), *option, "--release", "v1")
    code, out, _ = run_main("history", "add", results(record(nfe_forward=26, backward_seconds=0.02)), *option)
    assert code == 0
    assert "0 runs of" in out
    assert "1 replaced" in out
    lines = held(option)
    assert len(lines) == 2
    assert {line.times.get("backward_seconds") for line in lines} == {0.02, None}
    assert all(line.release == "v1" and not line.inexact for line in lines)


def test_other_machine_or_suite_of_the_same_commit_stays(run_main, inside, results, option):
    """Two kinds of runners measure one commit."""
    for cpu in ("A", "B", "A"):
        run_main("history", "add", results(record(machine=MACHINE | {"cpu": cpu}, nfe_forward=26)), *option)
    assert sorted(line.machine["cpu"] for line in held(option)) == ["A", "B"]


def test_figure_that_two_measurements_disagree_on_is_inexact(make_line):
    """Replacing a line by one of the same odegrad is an A/A check; another odegrad is a change."""
    old, new = make_line(0, nfe_forward=26, vjps=7), make_line(0, nfe_forward=27, vjps=7)
    (line,), replaced = merged([old], [new])
    assert (replaced, line.metrics["nfe_forward"], line.inexact) == (1, 27, ("nfe_forward",))
    (again,), _ = merged([line], [new])
    assert again.inexact == ("nfe_forward",)
    (line,), _ = merged([old], [make_line(0, machine={"odegrad": "0.2.0"}, nfe_forward=27)])
    assert line.inexact == ()


def test_trials_and_failures_of_the_machine_are_left_out(run_main, inside, results, tmp_path):
    """A method's own failure is kept."""
    option = ("--history", str(tmp_path / "history"))
    kept = record(Status.DIVERGED, method="bad")
    out = (record(Status.INFRASTRUCTURE, method="m"), record(method="t", stage="tuning", nfe_forward=1))
    assert run_main("history", "add", results(kept, *out), *option)[0] == 0
    assert [line.status for line in held(option)] == ["diverged"]
    code, _, err = run_main("history", "add", results(*out), *option)
    assert code == 2
    assert "got only trials of a tuning and runs that failed because of the machine" in err


def test_branch_touches_neither_working_tree_nor_index_nor_head(run_main, inside, results):
    """A staged and a changed file stay as they are; the branch grows by one commit an addition, none if equal."""
    first = inside("rev-parse", "HEAD")
    (inside.folder / "staged.txt").write_text("s")
    inside("add", "staged.txt")
    (inside.folder / "a.txt").write_text("changed")
    before = inside("status", "--porcelain")
    add = ("history", "add", results(record(nfe_forward=26)), "--branch", "odegrad-history", "--commit", "HEAD")
    for _ in range(2):
        assert run_main(*add)[0] == 0
    assert inside("status", "--porcelain") == before
    assert inside("rev-parse", "HEAD") == first
    assert inside("symbolic-ref", "HEAD") == "refs/heads/main"
    assert inside("rev-list", "--count", "odegrad-history") == "1"
    assert inside("ls-tree", "--name-only", "odegrad-history") == f"{first}.jsonl"
    assert inside("log", "-1", "--format=%s", "odegrad-history") == f"Add results of {first[:12]}"
    assert inside("fsck", "--strict") == ""


def test_branch_goes_on_from_origins_and_can_be_pushed(run_main, inside, results, tmp_path, monkeypatch):
    """Two clones in turn, as two jobs of a CI: fetch, add, push."""
    server = tmp_path / "server.git"
    inside("clone", "-q", "--bare", ".", str(server))
    for number in range(2):
        job = tmp_path / f"job{number}"
        inside("clone", "-q", str(server), str(job))
        monkeypatch.chdir(job)
        where = results(record(seed=number, nfe_forward=26))
        assert run_main("history", "add", where, "--branch", "odegrad-history")[0] == 0
        subprocess.run(["git", "push", "-q", "origin", "odegrad-history"], check=True, cwd=job)
    assert len(held(("--branch", "odegrad-history"))) == 2
    log = subprocess.run(["git", "--git-dir", str(server), "rev-list", "--count", "odegrad-history"],
                         check=True, capture_output=True, text=True)  # fmt: skip
    assert log.stdout.strip() == "2"


def test_writers_at_the_same_time_lose_nothing(inside, tmp_path, make_line):
    """Eight additions to each kind of store from four threads."""
    for store in (FolderStore(tmp_path / "h"), BranchStore(Repository(inside.folder), "odegrad-history")):

        def add(number, store=store):
            for _ in range(20):
                try:
                    return store.update(make_line(number).commit, lambda _: make_line(number).text().encode() + b"\n")
                except HistoryError as error:
                    if "other processes moved it" not in str(error):
                        raise
            return None

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(add, range(8)))
        assert len(read(store)) == 8


def test_broken_line_is_left_out_and_said(run_main, inside, results, tmp_path, caplog):
    """Half a line, no object, a text as a number: the others count; adding the commit again repairs the file."""
    option = ("--history", str(tmp_path / "history"))
    add = ("history", "add", results(record(nfe_forward=26)), *option)
    run_main(*add)
    (file,) = (tmp_path / "history").glob("*.jsonl")
    whole = file.read_text(encoding="utf-8")
    wrong = json.dumps(json.loads(whole) | {"metrics": {"nfe_forward": "many"}})
    file.write_text(whole + whole[:40] + "\n[1]\n" + wrong + "\n", encoding="utf-8")
    with caplog.at_level("WARNING"):
        assert len(held(option)) == 1
    assert [f"left out line {n}, which is broken" in r.getMessage() for n, r in enumerate(caplog.records, 2)] == [
        True
    ] * 3
    code, out, err = run_main("history", "report", *option, "--out", str(tmp_path / "out"))
    assert code == 0
    assert "1 commit, 1 run" in out
    assert "left out line 2, which is broken" in err
    run_main(*add)
    assert file.read_text(encoding="utf-8") == whole


def test_line_of_a_newer_odegrad_is_refused(make_line):
    """Otherwise what it means would be guessed."""
    text = json.dumps(json.loads(make_line(0).text()) | {"schema": 9})
    with pytest.raises(
        HistoryError, match="line 1 has schema 9, this odegrad reads up to 1; install the newer odegrad"
    ):
        lines_of(text.encode(), "x")
    assert parse(make_line(0).text(), "x") == make_line(0)


def test_changed_files_are_refused_unless_the_commit_is_named(run_main, inside, results):
    """Untracked files and a committed history do not count as changes."""
    inside("branch", "-q", "x")
    (inside.folder / "history").mkdir()
    option = ("--history", "history")
    add = ("history", "add", results(record(nfe_forward=26)), *option)
    (inside.folder / "untracked.txt").write_text("u")
    assert run_main(*add)[0] == 0
    inside.commit("the history too")
    assert run_main(*add)[0] == 0
    inside.commit("the history too")
    file = next((inside.folder / "history").glob("*.jsonl"))
    file.write_text(file.read_text() + "\n")
    assert run_main(*add)[0] == 0
    (inside.folder / "a.txt").write_text("changed")
    code, out, err = run_main(*add)
    assert (code, out) == (2, "")
    assert "expected the files of HEAD, got 1 changed ones, among them a.txt; commit them and measure" in err
    assert run_main(*add, "--commit", "HEAD")[0] == 0


def test_without_a_repository_commit_and_date_are_enough(run_main, tmp_path, results, monkeypatch):
    """Results from elsewhere, ordered by date."""
    monkeypatch.chdir(tmp_path)
    option = ("--history", "history")
    for number, date in enumerate(("2026-01-03", "2026-01-01T12:00:00+02:00")):
        where = results(record(nfe_forward=26))
        assert run_main("history", "add", where, *option, "--commit", f"{number}" * 8, "--date", date)[0] == 0
    assert [(line.commit, line.date, line.order) for line in held(option)] == [
        ("0" * 8, "2026-01-03T00:00:00+00:00", None),
        ("1" * 8, "2026-01-01T10:00:00+00:00", None),
    ]
    data = json.loads(run_main("history", "report", *option, "--json", "--out", "out")[1])
    assert [mark["sha"] for mark in data["commits"]] == ["1" * 8, "0" * 8]


def test_merged_commits_follow_both_their_parents(inside):
    """A side branch: the merge's place is beyond those of all its ancestors."""
    base = inside("rev-parse", "HEAD")
    inside("switch", "-q", "-c", "side")
    side = inside.commit("side", s__txt="s")
    inside("switch", "-q", "main")
    main = inside.commit("main", m__txt="m")
    inside("merge", "-q", "--no-edit", "side")
    order = {name: find_commit(inside.folder, name, "", None).order for name in (base, side, main, "HEAD")}
    assert order == {base: 1, side: 2, main: 2, "HEAD": 4}
    assert find_commit(inside.folder, "", "", None).parent == main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "RESULTS"), "--history PATH, --branch NAME: expected one of them"),
        (("report", "--history", "h", "--branch", "b"), "--history PATH, --branch NAME: expected one of them"),
        (("report", "--history", "none"), "--history none: expected a folder, got nothing there; odegrad history add"),
        (("report", "--history", "a.txt"), "--history a.txt: expected a folder, got a file"),
        (("report", "--history", "."), "history .: expected results, got none; add some with odegrad history add"),
        (("report", "--branch", "none"), "--branch none: expected a branch, got none of that name here or of origin's"),
        (("report", "--branch", "main"), "expected a branch that holds a history and nothing else, got one with a.txt"),
        (("report", "--branch", "a b"), "--branch a b: expected a name that git takes for a branch"),
        (("add", "RESULTS", "--branch", "main"), "--branch main: expected a branch that is not checked out"),
        (("add", "RESULTS", "--history", "a.txt"), "--history a.txt: expected a folder that can be written"),
        (
            ("add", "RESULTS", "--history", "h", "--commit", "nowhere"),
            "--commit nowhere: expected a commit of the repo",
        ),
        (("add", "RESULTS", "--history", "h", "--date", "today"), "--date today: expected ISO 8601 such as"),
        (("add", "no/results", "--history", "h"), "results folder no/results: expected a folder, got nothing there"),
        (("add", ".", "--history", "h"), "expected at least one record in records.jsonl, got no such file"),
    ],
)
def test_wrong_use_is_exit_2(run_main, inside, results, arguments, message):
    """Said, and nothing is written."""
    where = results(record(nfe_forward=26))
    before = set(inside.folder.iterdir())
    code, out, err = run_main("history", *(where if word == "RESULTS" else word for word in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert set(inside.folder.iterdir()) == before


def test_no_repository_and_no_commit_are_exit_2(run_main, tmp_path, results, monkeypatch):
    """Outside of git, and in a repository without a commit."""
    monkeypatch.chdir(tmp_path)
    add = ("history", "add", results(record(nfe_forward=26)), "--history", "h")
    code, _, err = run_main(*add)
    assert code == 2
    assert "expected a git repository around" in err
    assert "got none (fatal: not a git repository" in err
    assert "--history PATH and both --commit SHA and --date" in err
    subprocess.run(["git", "init", "-q"], check=True, cwd=tmp_path)
    code, _, err = run_main(*add)
    assert code == 2
    assert "expected a repository with a commit, got an empty one" in err


def test_shallow_clone_is_exit_2(run_main, inside, tmp_path, results, monkeypatch):
    """Its commits have no order."""
    inside.commit(b__txt="b")
    inside("clone", "-q", "--depth", "1", inside.folder.as_uri(), str(tmp_path / "shallow"))
    monkeypatch.chdir(tmp_path / "shallow")
    code, _, err = run_main("history", "add", results(record(nfe_forward=26)), "--history", "h")
    assert code == 2
    assert "got a shallow clone, in which commits have no order; fetch it with git fetch --unshallow" in err


def test_report_without_ruptures_says_what_to_install(inside, tmp_path, results, run_main):
    """Adding needs no more than odegrad."""
    run_main("history", "add", results(record(nfe_forward=26)), "--history", str(tmp_path / "h"))
    code = (
        "import sys; sys.modules['ruptures'] = None; sys.argv[:1] = ['odegrad', 'history', 'report']\n"
        "from odegrad.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "--history", str(tmp_path / "h")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'odegrad[history]'" in done.stderr
