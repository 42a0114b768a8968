"""The package holds what the tree holds, and nothing installs as a top-level name of somebody else."""

import importlib.metadata
import importlib.util
import tomllib
from pathlib import Path

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


def test_constraints_pin_every_requirement():
    """Every run-time and test requirement has its exact version in the constraints."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *(line for extra in extras.values() for line in extra)]
    names = {w.split(">=")[0].split("[")[0].lower() for w in wanted}
    assert names - {"odegrad"} <= pinned  # an extra may name another one
