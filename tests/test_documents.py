"""The README and the docs say what is there, and their examples run through the real command line."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from odegrad import odeint
from odegrad.catalogue import PAIRS
from odegrad.registry import gradients, tasks

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def _blocks_of_python(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def _python(name):
    """Import a file by its path below the root."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _command(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "odegrad.cli", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize(
    ("page", "name"),
    [("your-own-method.md", "my_method.py"), ("your-own-method.md", "my_suite.toml"), ("snopt.md", "my_snopt.py")],
)
def test_page_shows_the_example_in_full(page, name):
    """The blocks of the pages are the files, letter for letter."""
    assert _page(f"examples/{name}").rstrip() in _page(page)


def test_readme_outlines_the_example():
    """Class, traits and calls of the README's outline are those of the example method."""
    example = _page("examples/my_method.py").splitlines()
    (outline,) = [block for block in _blocks_of_python(README) if "class " in block]
    lines = [line for line in outline.splitlines() if line.lstrip().startswith(("@", "class ", "def "))]
    assert len(lines) == 4
    assert set(lines) <= set(example)


def test_readme_solves_in_one_line():
    """The README's call of odeint runs on the example model, and its gradient reaches the parameters."""
    func, y0, t = _python("docs/examples/my_model.py").build()
    (block,) = [block for block in _blocks_of_python(README) if "odeint" in block]
    assert block in _page("your-own-code.md")
    names = {"func": func, "y0": y0, "t": t}
    exec(block, names)
    assert names["odeint"] is odeint
    assert names["ys"].shape == (len(t), *y0.shape)
    names["ys"].sum().backward()
    assert all(p.grad is not None for p in func.parameters())


def test_readme_quotes_the_comparison():
    """The README's advice ends the output that docs/your-own-code.md shows."""
    (advice,) = re.findall(r"```\n(Take .*?)\n```", README, flags=re.DOTALL)
    assert f"\n{advice}\n```" in _page("your-own-code.md")


def test_readme_counts_what_is_there():
    """Numbers of gradient methods, of tasks, and of tasks that work offline, each without what others install."""
    known = [tasks.get(name) for name in tasks.builtin]
    assert f"[{len(gradients.builtin) + len(PAIRS)} gradient methods]" in README
    assert f"[{len(known)} tasks]" in README
    assert f"Of these {sum(task.info.offline for task in known)} need no network" in README


def test_model_in_a_file_is_compared(tmp_path):
    """Odegrad compare on the example model, two methods, figure and sentence."""
    shutil.copy(ROOT / "docs" / "examples" / "my_model.py", tmp_path)
    arguments = ("compare", "my_model.py:build", "--gradients", "naive,aca", "--rounds", "1", "--figure", "out.svg")
    done = _command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accurate") >= 2
    assert "Take " in done.stdout
    assert (tmp_path / "out.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_snopt_on_a_model_of_ones_own(tmp_path):
    """The example trains to a fifth of the loss that it starts with, at least."""
    shutil.copy(ROOT / "docs" / "examples" / "my_snopt.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "my_snopt.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    first, *_, last = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert last < 0.2 * first


def test_readme_reaches_the_table_soon():
    """Runnable code and the table it prints begin within the first 25 lines; the whole has 140 at most."""
    lines = README.splitlines()
    assert len(lines) <= 140
    assert next(i for i, line in enumerate(lines) if "odegrad run quick" in line) < 25
    assert next(i for i, line in enumerate(lines) if "torchdiffeq_adjoint" in line or "nll" in line) < 25


def _slug(heading):
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _links(page):
    """Return the targets of a page's links to this repository, code left out."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    """Every relative link is a file, and what stands behind its # a heading there."""
    for target in _links(page):
        name, _, anchor = target.partition("#")
        to = page.parent / name if name else page
        assert to.exists(), f"{target}: no such file"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", to.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in map(_slug, headings), f"{target}: no such heading"


def test_readme_links_every_page():
    """Nobody has to search the folder."""
    linked = {ROOT / target.partition("#")[0] for target in _links(ROOT / "README.md")}
    assert set(PAGES) - {ROOT / "README.md"} <= linked


def test_columns_page_is_that_of_the_code():
    """docs/columns.md was written after the last change of the columns."""
    assert _page("columns.md") == _python("tests/make_columns.py").page()


@pytest.mark.parametrize("name", ["methods.md", "task-list.md", "peers.md"])
def test_page_is_that_of_the_code(name):
    """What methods, solvers, optimizers and tasks state was written down after its last change."""
    assert _page(name) == _python("tests/make_documents.py").PAGES[name]()


@pytest.mark.parametrize("name", ["my_method.py:TorchCheckpoint", "my_task.py:DampedOscillators"])
def test_method_or_task_in_a_file_passes_the_checks(tmp_path, name):
    """Odegrad check on a file outside of the repository."""
    shutil.copy(ROOT / "docs" / "examples" / name.partition(":")[0], tmp_path)
    done = _command("check", name, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) > 20
    assert all(r["passed"] for r in results)


@pytest.mark.slow
def test_suite_with_a_method_in_a_file(tmp_path):
    """Odegrad run on a suite outside of the repository: every row is ok, the method's gradient is naive's."""
    for name in ("my_method.py", "my_suite.toml"):
        shutil.copy(ROOT / "docs" / "examples" / name, tmp_path)
    done = _command("run", "my_suite.toml", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "torch_checkpoint" in done.stdout
    folder = tmp_path / "results" / "my_suite"
    rows = {r["method"]: r for r in map(json.loads, (folder / "records.jsonl").read_text("utf-8").splitlines())}
    assert {r["status"] for r in rows.values()} == {"ok"}
    ours, naive = rows["torch_checkpoint"], rows["naive"]
    assert ours["gradient_method_error"] <= 1e-12
    assert ours["metric_value"] == naive["metric_value"]
    assert ours["saved_bytes"] < naive["saved_bytes"]
    assert {"records.parquet", "report.html"} <= {p.name for p in folder.iterdir()}


def test_method_of_an_entry_point(tmp_path):
    """A distribution offers a method under a name of its own."""
    shutil.copy(ROOT / "docs" / "examples" / "my_method.py", tmp_path / "a_package.py")
    info = tmp_path / "a_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[odegrad.methods]\ntorch_checkpoint = a_package:TorchCheckpoint\n")
    done = _command("list", "methods", "--json", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "torch_checkpoint" in {row["name"] for row in json.loads(done.stdout)}


def test_wrong_names_exit_with_2_and_the_nearest():
    """An unknown method and an unknown suite."""
    done = _command("check", "adjiont", cwd=ROOT)
    assert done.returncode == 2
    assert "did you mean 'adjoint'" in done.stderr
    done = _command("run", "quik", cwd=ROOT)
    assert done.returncode == 2
    assert "did you mean 'quick'" in done.stderr


@pytest.mark.parametrize("word", ["import odegrad", "from odegrad.reports.frame import load"])
def test_reading_results_needs_no_torch(word):
    """The package's face and the reports do not import torch."""
    code = f"{word}; import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
