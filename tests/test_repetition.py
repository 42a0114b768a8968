"""What is written twice: pairs of places in the package that share six or more identical lines."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("bench", "methods", "datasets", "reports")
LINES = 6
MAX_PAIRS = 10


def code_lines(source):
    """Return (number, text) of the lines that count: no blank ones, comments, imports or lone punctuation."""
    imports = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= set(range(node.lineno, node.end_lineno + 1))
    numbered = enumerate((" ".join(line.split()) for line in source.splitlines()), start=1)
    return [(n, x) for n, x in numbered if n not in imports and re.search(r"\w", x) and not x.startswith("#")]


def repeated(sources):
    """Return the pairs (file, line, file, line) of the first run that two files, or one file twice, share."""
    places = defaultdict(list)
    for name, source in sources.items():
        lines = code_lines(source)
        for i in range(len(lines) - LINES + 1):
            places[tuple(text for _, text in lines[i : i + LINES])].append((name, lines[i][0], i))
    pairs = {}
    for found in places.values():
        for k, (name, line, i) in enumerate(found):
            for other, other_line, j in found[k + 1 :]:
                if name != other or j - i >= LINES:
                    pairs.setdefault((name, other), (name, line, other, other_line))
    return sorted(pairs.values())


def test_a_run_is_found():
    """Six lines, whatever stands between them that does not count; five are none, nor are imports."""
    six = "\n".join(f"a{i} = {i}" for i in range(6))
    assert repeated({"x": six, "y": "\n# why\n\n" + six.replace("a3 = 3", "a3  =  3")}) == [("x", 1, "y", 4)]
    assert repeated({"x": six + "\nb = 1\n" + six}) == [("x", 1, "x", 8)]
    assert not repeated({"x": six, "y": six.replace("a5", "b5")})
    assert not repeated(
        {name: "from q import (\n" + "\n".join(f"    a{i}," for i in range(9)) + "\n)" for name in "xy"}
    )


def test_little_is_written_twice():
    """At most ten pairs of places in the whole package."""
    files = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    found = repeated({str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files})
    assert len(found) <= MAX_PAIRS, "\n".join(f"{a}:{i} ~ {b}:{j}" for a, i, b, j in found)
