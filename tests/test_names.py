"""Outside of the methods no code asks for a name: what differs between methods is what they state about themselves."""

import ast
from pathlib import Path

import pytest

from odegrad import catalogue

ROOT = Path(__file__).parent.parent
NAMES = {entry.name for kind, entries in catalogue.KINDS.items() if kind != "regularisers" for entry in entries}
"""Those of the regularisers are words of every day (``error``, ``local``), and no code compares them."""

OF_PAPERS = ("reports/papers/", "reports/figures/sweeps/nodes.py")
"""Claims and figures of one paper: their subject is its methods."""

PHASES = {"backward_phase"}
"""Attributes that hold something else under the same word."""


def _words(node, constants):
    """Return the texts that a side of a comparison holds: written out, in a collection, or by a constant's name."""
    if isinstance(node, ast.Name):
        return constants.get(node.id, set())
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return set().union(*(_words(each, constants) for each in node.elts))
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def _constants(tree):
    """Return the texts of each name that the top of a module assigns."""
    found = {}
    for node in tree.body:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=True)
            found |= {name.id: _words(value, {}) for name, value in pairs if isinstance(name, ast.Name)}
    return found


def compared_names(source):
    """Return (line, names) of every comparison with a name of the catalogue, ``match`` and ``startswith`` included."""
    tree = ast.parse(source)
    constants, found = _constants(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Attribute) and side.attr in PHASES for side in sides):
                continue
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "startswith":
            sides = node.args
        else:
            continue
        names = NAMES & set().union(*(_words(side, constants) for side in sides))
        if names:
            found.append((getattr(node, "lineno", 0), sorted(names)))
    return found


@pytest.mark.parametrize("folder", ["bench", "reports", "datasets"])
def test_no_name_is_compared(folder):
    """A method's name, a solver's, an optimizer's or a task's decides nothing outside of ``methods``."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        if not place.startswith(OF_PAPERS) and (names := compared_names(path.read_text(encoding="utf-8"))):
            found[place] = names
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        'name == "adjoint"',
        '"adjoint" != name',
        'name in ("mali", "reversible_rk")',
        'frame["gradient"] == ADJOINT',
        "name in THEM",
        'name.startswith("adjoint")',
        'match name:\n    case "adjoint":\n        pass',
    ],
)
def test_a_comparison_is_found(line):
    """However it is written."""
    assert compared_names(f'ADJOINT, OTHER = "adjoint", 1\nTHEM = ("adjoint", "x")\n{line}\n')


@pytest.mark.parametrize("line", ['row.backward_phase == "adjoint"', 'build("adjoint")', 'name == "x"'])
def test_what_is_no_comparison_is_left_alone(line):
    """A phase of the same word, a method that is built, and other texts."""
    assert not compared_names(line)
