"""The site names every page once; its notebooks are clean, and run where that is asked for."""

import ast
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads the settings of the site, and leaves calls of Python alone."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def settings():
    return yaml.load((ROOT / "site" / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Loader)


def pages(nav):
    """Yield the pages of a part of the navigation."""
    for entry in nav:
        for each in entry.values() if isinstance(entry, dict) else [entry]:
            yield from pages(each) if isinstance(each, list) else [each]


def constants(name):
    """Return the tables of a module of the site, which imports what the tests do not have."""
    tree = ast.parse((ROOT / "site" / "hooks.py").read_text(encoding="utf-8"))
    return next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name
    )


def test_navigation_names_every_page_once():
    """Those of docs, of the root, of the API, each notebook, and the gallery; none that does not exist."""
    named = list(pages(settings()["nav"]))
    made = {
        *constants("PAGES").values(),
        *constants("API"),
        *(f"notebooks/{n.stem}.md" for n in NOTEBOOKS),
        "gallery.md",
    }
    written = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert len(named) == len(set(named))
    assert set(named) == made | written
    assert {path.name for path in ROOT.glob("*.md")} == set(constants("PAGES"))


def test_api_shows_what_is_there():
    """Every name is one of the package's, and the whole face is among them."""
    names = [name for _, _, names in constants("API").values() for name in names]
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert importlib.util.find_spec(module) is not None
        assert attribute in _defined(module), f"{name} is not defined there"
    face = _literal(ROOT / "bench" / "__init__.py", "__all__")
    assert set(face) <= {name.rpartition(".")[2] for name in names}


def _defined(module):
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
    return {getattr(node, "name", "") for node in tree.body}


def _literal(path, name):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == name)


def test_site_fetches_nothing():
    """No fonts of others, no address of another host in its settings."""
    found = settings()
    assert found["theme"]["font"] is False
    assert "://" not in json.dumps(found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean(path):
    """It begins with its title; its code is Python; nothing that it once put out is kept."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert "".join(cells[0]["source"]).startswith("# ")
    for cell in cells:
        if cell["cell_type"] == "code":
            ast.parse("".join(cell["source"]))
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.minutes
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    """Every cell, in a fresh kernel; the site builds its pages of the same outputs."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setitem(sys.modules, "notebooks", None)
    spec = importlib.util.spec_from_file_location("site_notebooks", ROOT / "site" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text, images = module.as_markdown(module.executed(path), path.stem)
    assert text.startswith("# ")
    assert all(data.startswith(b"\x89PNG") for data in images.values())
    assert '<div class="output"' in text
