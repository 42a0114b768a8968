"""Notebooks of ``docs/notebooks``: run in a fresh kernel, then turned into pages with what they put out."""

import base64
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

_LOOK_OF_PANDAS = re.compile(r"<table[^>]*>")
"""A table of the site has its look where it names none of its own."""
TIMEOUT_SECONDS = 600
"""Of one cell."""


def executed(path: Path) -> nbformat.NotebookNode:
    """Return the notebook with its outputs; its folder, and the examples beside it, are copied first.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(path.parents[1] / "examples", Path(folder) / "examples")
        here = Path(folder) / "notebooks"
        here.mkdir()
        place = {"metadata": {"path": str(here)}}
        NotebookClient(notebook, timeout=TIMEOUT_SECONDS, startup_timeout=TIMEOUT_SECONDS, resources=place).execute()
    return notebook


def as_markdown(notebook: nbformat.NotebookNode, name: str) -> tuple[str, dict[str, bytes]]:
    """Return the notebook as Markdown, and its images by file name."""
    parts, images = [], {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                file = f"{name}-{len(images)}.png"
                images[file] = base64.b64decode(data["image/png"])
                parts.append(f"![what the cell above draws]({file})")
            elif "text/html" in data:
                table = _LOOK_OF_PANDAS.sub("<table>", data["text/html"])
                parts.append(f'<div class="output" style="overflow-x: auto">{table}</div>')
            elif text := data.get("text/plain") or (output.get("text", "") if output.get("name") == "stdout" else ""):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", images
