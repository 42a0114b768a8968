"""One word for one thing: a public class, constant or alias of a module is called so nowhere else in the package."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("bench", "methods", "datasets", "reports")

OF_EVERY_FIGURE = {"TITLE", "TITLES"}
"""What the module of every kind of figure has, beside ``draw`` and ``describe``: the same word for the same thing."""

NOT_YET = {
    "Array",
    "CLAIMS",
    "COLUMNS",
    "PAPER",
    "SNOPT",
    "SPLIT_SEED",
    "SWEEP",
    "TASKS",
    "Task",
}
"""Names that several modules still share; none may be added, and one that is unique by now must go from here."""

NOT_YET_IN = ("bench/advice", "bench/catalogue.py", "datasets", "reports/papers")
"""Where at least one of the modules lies that share a name."""


def _names(tree):
    """Yield the classes, constants and aliases that a module defines at its top."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(each, ast.Name) and re.fullmatch(r"_?[A-Z]\w*", each.id):
                    yield each.id


@pytest.fixture(scope="module")
def places():
    """Return name -> the modules that define it."""
    found = defaultdict(set)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in _names(ast.parse(path.read_text(encoding="utf-8"))):
                found[name].add(str(path.relative_to(ROOT)))
    return found


def test_a_name_means_one_thing(places):
    """Public names are unique over the package, but for those that ``NOT_YET`` tells."""
    shared = {
        name: sorted(modules)
        for name, modules in places.items()
        if len(modules) > 1 and not name.startswith("_") and name not in OF_EVERY_FIGURE and len(name) > 1
    }
    new = {name: modules for name, modules in shared.items() if name not in NOT_YET}
    assert not new, f"call them what they are: {new}"
    unique = sorted(NOT_YET - set(shared))
    assert not unique, f"unique by now: take {', '.join(unique)} from NOT_YET"
    inside = {name: found for name, found in shared.items() if not any(m.startswith(NOT_YET_IN) for m in found)}
    assert not inside, f"none of these modules may wait: {inside}"


def test_limits_are_min_and_max(places):
    """A limit is called ``MIN_`` or ``MAX_``, nowhere ``LEAST_`` or ``MOST_``."""
    assert not [name for name in places if re.match(r"_?(LEAST|MOST)(_|$)", name)]
