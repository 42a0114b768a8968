"""The layers hold: every import inside the package points down, none is relative, none is hidden in a function."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"bench": "odegrad", "methods": "odegrad.methods", "datasets": "odegrad.datasets", "reports": "odegrad.reports"}

HOUSE = (
    "odegrad.errors",
    "odegrad.exits",
    "odegrad.catalogue",
    "odegrad.event",
    "odegrad.contracts",
    "odegrad.states",
    "odegrad.binding",
    "odegrad.records",
    "odegrad.methods.fields",
    "odegrad.methods.solvers",
    "odegrad.methods.events",
    "odegrad.methods.backward",
    "odegrad.methods.gradients",
    "odegrad.methods.peers",
    "odegrad.methods.regularisers",
    "odegrad.methods.optimizers",
    "odegrad.methods.optimizers.snopt",
    "odegrad.datasets.sources",
    "odegrad.datasets.nets",
    "odegrad.datasets.problems",
    "odegrad.datasets.tasks",
    "odegrad.user",
    "odegrad.registry",
    "odegrad.reference",
    "odegrad.reports",
    "odegrad.reports.tables",
    "odegrad.reports.canvas",
    "odegrad.reports.figures.sweeps",
    "odegrad.reports.figures",
    "odegrad.reports.papers",
    "odegrad.reports.page",
    "odegrad.reports.leaderboard",
    "odegrad.processes",
    "odegrad.machine",
    "odegrad.diagnosis",
    "odegrad.measuring",
    "odegrad.interface",
    "odegrad.suites",
    "odegrad.running",
    "odegrad.checks",
    "odegrad.advice",
    "odegrad.gate",
    "odegrad.history",
    "odegrad.testing",
    "odegrad.commands",
    "odegrad.cli",
)
"""The rooms from the bottom up. A room imports from itself and from rooms before it: no two rooms need each other."""

LAZY = ("odegrad.commands.", "odegrad.testing.plugin", "odegrad.advice.comparison")
"""May import inside of functions: --help is quick, a pytest run that does not use the plug-in pays nothing, and a
comparison that is not drawn does without matplotlib."""

FORBIDDEN = [
    ("odegrad.catalogue", ("odegrad.errors",), "a list of names needs nothing"),
    (
        "odegrad.reports",
        ("odegrad.records", "odegrad.errors", "odegrad.catalogue", "odegrad.reports"),
        "reports read records and the catalogue only",
    ),
    (
        "odegrad.methods",
        ("odegrad.contracts", "odegrad.event", "odegrad.states", "odegrad.errors", "odegrad.methods"),
        "methods know only the contracts",
    ),
    (
        "odegrad.datasets",
        ("odegrad.contracts", "odegrad.event", "odegrad.states", "odegrad.errors", "odegrad.datasets"),
        "tasks know only the contracts",
    ),
]
"""(room, what of odegrad it may import, why)."""


def _modules():
    for folder, package in ROOMS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            yield pytest.param(path, name, id=name)


def _imports(tree):
    """Yield (module, depth) of every import; depth 0 is the top of the file."""
    top = {id(node) for node in tree.body}
    for node in tree.body:
        if isinstance(node, ast.If | ast.Try):  # TYPE_CHECKING blocks; names that moved
            top |= {id(n) for n in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level, id(node) in top
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, 0, id(node) in top


def _floor(module):
    """Return the place in the house of the room that holds ``module``, None outside of it."""
    rooms = [room for room in HOUSE if module == room or module.startswith(room + ".")]
    return HOUSE.index(max(rooms, key=len)) if rooms else None


@pytest.mark.parametrize(("path", "name"), list(_modules()))
def test_imports_point_down(path, name):
    """No import reaches up, into a room that must not be known, or is relative; only ``LAZY`` and the face are lazy."""
    own = _floor(name)
    assert own is not None or path.name == "__init__.py", f"{name} has no room: add it to HOUSE"
    for module, level, at_top in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        assert level == 0, f"{name}: relative import"
        if not module.startswith("odegrad"):
            assert at_top or name == "odegrad" or name.startswith(LAZY), f"{name}: import of {module} inside a function"
            assert not (name.startswith("odegrad.reports") and module.split(".")[0] == "torch"), f"{name} imports torch"
            continue
        if name == "odegrad":
            continue
        assert at_top or name.startswith(LAZY), f"{name}: import of {module} inside a function"
        other = _floor(module)
        assert other is None or other <= own, f"{name} imports {module}, of a room above its own"
        for room, allowed, why in FORBIDDEN:
            if name.startswith(room):
                assert module.startswith(allowed), f"{name} imports {module}: {why}"


def test_rooms_are_small():
    """A reader sees a room at a glance: at most 16 files in it, and at most ten beside the rooms of ``bench``."""
    for folder in ROOMS:
        for room in {path.parent for path in (ROOT / folder).rglob("*.py")}:
            files = sorted(path.name for path in room.glob("*.py"))
            assert len(files) <= (10 if room.name == "bench" else 16), f"{room.relative_to(ROOT)} holds {files}"


def test_every_room_is_described():
    """The pages of the architecture name each room, with what it holds."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    tree = "\n".join(text.split("```")[1:4:2])
    words = set(re.findall(r"\w+", tree))
    missing = [room for room in HOUSE if room.rpartition(".")[2] not in words and room.count(".") < 3]
    assert not missing, f"ARCHITECTURE.md says nothing of {missing}"


def test_no_cycles():
    """The modules import each other without a cycle."""
    graph = {}
    for parameter in _modules():
        path, name = parameter.values
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[name] = {m for m, _, at_top in _imports(tree) if m.startswith("odegrad") and at_top and m != "odegrad"}
    done, open_path = set(), []

    def visit(name):
        assert name not in open_path, f"cycle: {' -> '.join([*open_path, name])}"
        if name in done or name not in graph:
            return
        open_path.append(name)
        for other in graph[name]:
            visit(other)
        open_path.pop()
        done.add(name)

    for name in graph:
        visit(name)
