"""The layers hold: every import inside the package points down, none is relative, none is hidden in a function."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"bench": "odegrad", "methods": "odegrad.methods", "datasets": "odegrad.datasets", "reports": "odegrad.reports"}

LAYERS = [
    {"odegrad.errors"},
    {"odegrad.record", "odegrad.contracts"},
    {"odegrad.methods", "odegrad.datasets"}
    | {
        f"odegrad.{m}"
        for m in ("counting", "meters", "operators", "certificate", "sketch", "machine", "conditions", "gpu_state")
    }
    | {f"odegrad.{m}" for m in ("lognorm", "jacobian", "lanczos", "trajectory", "growth")},
    {"odegrad.user_files"},
    {"odegrad.registry"},
    {"odegrad.passes", "odegrad.building", "odegrad.training", "odegrad.timing", "odegrad.suite", "odegrad.suites"}
    | {"odegrad.check", "odegrad.checks", "odegrad.call_counts", "odegrad.cost"}
    | {"odegrad.interface", "odegrad.models"}
    | {f"odegrad.{m}" for m in ("costates", "bounds", "diagnosis", "verdict", "probe", "field_checks", "tuning")}
    | {"odegrad.shard", "odegrad.rounds", "odegrad.untouched"},
    {"odegrad.worker", "odegrad.store", "odegrad.executors", "odegrad.progress", "odegrad.printing"},
    {"odegrad.runner", "odegrad.listing", "odegrad.planning", "odegrad.reports", "odegrad.gate"},
    {f"odegrad.{m}" for m in ("comparison", "examine", "noise", "doctor", "papers", "testing", "history")},
    {"odegrad.commands"},
    {"odegrad.cli"},
]
"""From the bottom up; a package stands for all modules in it."""

LAZY = ("odegrad.commands.", "odegrad.testing.plugin")
"""May import inside of functions: --help is quick, and a pytest run that does not use the plug-in pays nothing."""

FORBIDDEN = [
    ("odegrad.reports", ("odegrad.record", "odegrad.errors", "odegrad.reports"), "reports read records only"),
    ("odegrad.methods", ("odegrad.contracts", "odegrad.errors", "odegrad.methods"), "methods know only the contracts"),
    ("odegrad.datasets", ("odegrad.contracts", "odegrad.errors", "odegrad.datasets"), "tasks know only the contracts"),
]
"""(room, what of odegrad it may import, why)."""

METHOD_LAYERS = ["odegrad.methods.solvers", "odegrad.methods.gradients"]


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
        if isinstance(node, ast.If):  # TYPE_CHECKING blocks
            top |= {id(n) for n in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level, id(node) in top
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, 0, id(node) in top


def _layer(module):
    best = None
    for level, names in enumerate(LAYERS):
        for name in names:
            if (module == name or module.startswith(name + ".")) and (best is None or len(name) > len(best[1])):
                best = (level, name)
    return None if best is None else best[0]


@pytest.mark.parametrize(("path", "name"), list(_modules()))
def test_imports_point_down(path, name):
    """No import reaches up, into a room that must not be known, or is relative; only ``LAZY`` and the face are lazy."""
    own = _layer(name)
    assert own is not None or name == "odegrad", f"{name} has no layer: add it to LAYERS"
    for module, level, at_top in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        assert level == 0, f"{name}: relative import"
        if not module.startswith("odegrad"):
            assert at_top or name == "odegrad" or name.startswith(LAZY), f"{name}: import of {module} inside a function"
            assert not (name.startswith("odegrad.reports") and module.split(".")[0] == "torch"), f"{name} imports torch"
            continue
        if name == "odegrad":
            continue
        assert at_top or name.startswith(LAZY), f"{name}: import of {module} inside a function"
        other = _layer(module)
        assert other is None or other <= own, f"{name} (layer {own}) imports {module} (layer {other})"
        for room, allowed, why in FORBIDDEN:
            if name.startswith(room):
                assert module.startswith(allowed), f"{name} imports {module}: {why}"
        if name.startswith(METHOD_LAYERS[0]):
            assert not module.startswith(METHOD_LAYERS[1]), f"{name} imports {module}: solvers stand below methods"


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
