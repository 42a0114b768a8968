"""The package holds what the tree holds, and nothing installs as a top-level name of somebody else."""

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = {"bench": "odegrad", "methods": "odegrad.methods", "datasets": "odegrad.datasets", "reports": "odegrad.reports"}


def test_every_folder_with_code_is_a_package_of_the_distribution():
    """The explicit list of packages is the tree."""
    found = set()
    for folder, package in ROOMS.items():
        for path in (ROOT / folder).rglob("*.py"):
            found.add(".".join((package, *path.relative_to(ROOT / folder).parent.parts)))
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_data_file_is_packaged():
    """Files beside the code that the package reads are matched by its package data."""
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for folder, package in ROOMS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".toml", ".j2", ".css", ".js"}:
                name = ".".join((package, *path.relative_to(ROOT / folder).parent.parts))
                assert any(path.match(pattern) for pattern in data.get(name, [])), f"{path} is not packaged"


def test_datasets_folder_is_no_regular_package():
    """Otherwise it would hide an installed package named datasets whenever the root is on sys.path."""
    assert not (ROOT / "datasets" / "__init__.py").exists()


def test_distribution_installs_only_odegrad():
    """No file is installed at the top level but odegrad's own."""
    files = importlib.metadata.files("odegrad")
    assert files
    top = {f.parts[0] for f in files if f.parts[0] not in {"..", "__editable__"}}
    assert {t for t in top if not t.startswith(("odegrad", "__editable__"))} == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return a wheel built from a copy of the tree, opened; skips where the build's own packages are missing."""
    for needed in PROJECT["build-system"]["requires"]:
        pytest.importorskip(needed.split(">=")[0].replace("-", "_"))
    folder = tmp_path_factory.mktemp("wheel")
    kept = ["bench", "methods", "datasets", "reports", "pyproject.toml", "README.md", "LICENSE"]
    for name in kept:
        source, target = ROOT / name, folder / "tree" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", build, str(folder)]
    done = subprocess.run(command, cwd=folder / "tree", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_built_wheel_carries_types_licence_and_data(wheel):
    """A type checker reads every package of it, its licence is inside, and so is what the code reads."""
    names = set(wheel.namelist())
    for package in ("", "/methods", "/reports", *(f"/datasets/{room}" for room in ("nets", "tasks"))):
        assert f"odegrad{package}/py.typed" in names
    (licence,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    assert "License-Expression: Apache-2.0" in wheel.read(metadata).decode()
    assert "odegrad/suites/quick.toml" in names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"odegrad"}


def test_licence_is_the_whole_one():
    """From its title to the end of its appendix."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text.splitlines()[1]
    assert all(f"\n   {number}. " in text for number in range(1, 10))
    assert text.rstrip().endswith("limitations under the License.")


def test_forms_and_workflows_are_what_the_service_reads():
    """Each form has its fields, each citation its authors; the release tries the wheel before it is published."""
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem == "config":
            continue
        assert {"name", "description", "body"} <= form.keys(), path
        identifiers = [field["id"] for field in form["body"]]
        assert len(identifiers) == len(set(identifiers)), path
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for step in release["jobs"]["build"]["steps"]]
    assert steps.index(".ci/smoke dist/*.whl") > steps.index("python -m build --no-isolation")
    assert release["jobs"]["publish"]["needs"] == "build"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["cff-version"], citation["license"]) == ("1.2.0", PROJECT["project"]["license"])
    assert {"message", "title", "authors"} <= citation.keys()


def test_constraints_pin_every_requirement():
    """Every run-time and test requirement has its exact version in the constraints."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *(line for extra in extras.values() for line in extra)]
    names = {w.split(">=")[0].split("[")[0].lower() for w in wanted}
    assert names - {"odegrad"} <= pinned  # an extra may name another one
