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
    """Public names are unique over the package."""
    shared = {
        name: sorted(modules)
        for name, modules in places.items()
        if len(modules) > 1 and not name.startswith("_") and name not in OF_EVERY_FIGURE and len(name) > 1
    }
    assert not shared, f"call them what they are: {shared}"


def test_limits_are_min_and_max(places):
    """A limit is called ``MIN_`` or ``MAX_``, nowhere ``LEAST_`` or ``MOST_``."""
    assert not [name for name in places if re.match(r"_?(LEAST|MOST)(_|$)", name)]
