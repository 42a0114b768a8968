"""Types are real ones: how often the package says ``Any``, which tells nothing."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("bench", "methods", "datasets", "reports")
MAX_PER_THOUSAND = 6.0


def count_of_any(source):
    """Return how many times ``Any`` stands in the code, import lines left out."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(ast.parse(source)))


def test_each_one_is_counted():
    """Every place where it stands, also several of a line; an import, a text or another word are none."""
    source = "from typing import Any\nx: dict[str, Any]\ndef f(a: Any, b: 'x') -> Any:\n    '''Any'''\nAnything = 1\n"
    assert count_of_any(source) == 3


def test_any_is_rare():
    """At most six in a thousand lines of the package, and none in a signature of the contracts."""
    sources = [path.read_text(encoding="utf-8") for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    found, lines = sum(map(count_of_any, sources)), sum(len(source.splitlines()) for source in sources)
    assert 1000 * found / lines <= MAX_PER_THOUSAND, f"{found} in {lines} lines"


def test_contracts_say_what_they_want():
    """The one place where the contracts say ``Any`` is the default of a type that a task chooses for its batches."""
    for path in (ROOT / "bench" / "contracts").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        signatures = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AnnAssign)]
        assert not [node.lineno for node in signatures if count_of_any(ast.unparse(node))], path.name
