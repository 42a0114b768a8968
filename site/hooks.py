"""What the site holds beside ``docs``: the pages of the root, the API, notebooks as they ran, figures and a report.

``ODEGRAD_SITE_RESULTS`` names the results folder that gallery and report are made of; ``odegrad run quick`` makes one.
"""

import os
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(Path(__file__).parent))

from notebooks import as_markdown, executed  # noqa: E402

PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "SECURITY.md": "security.md",
}
"""Pages of the root -> their places on the site."""
FILES = ("LICENSE", "CITATION.cff")
API = {
    "api/face.md": ("Solve and compare", "import odegrad", [
        "odegrad.interface.solves.odeint", "odegrad.interface.solves.odeint_adjoint",
        "odegrad.interface.events.odeint_event", "odegrad.interface.penalties.regularised",
        "odegrad.advice.comparison.compare_gradients", "odegrad.advice.comparison.Comparison",
        "odegrad.methods.optimizers.snopt.optimizer.SNOpt", "odegrad.diagnosis.trajectory.log_norms",
    ]),
    "api/contracts.md": ("Contracts", "from odegrad.contracts import ...", [
        "odegrad.contracts.fields.VectorField", "odegrad.contracts.solvers.Solver",
        "odegrad.contracts.methods.GradientMethod", "odegrad.contracts.methods.Traits",
        "odegrad.contracts.taps.Tap", "odegrad.contracts.tasks.Task", "odegrad.contracts.tasks.Problem",
    ]),
    "api/results.md": ("Results", "from odegrad.reports import ...", [
        "odegrad.reports.frame.load", "odegrad.reports.frame.to_parquet", "odegrad.reports.frame.read_parquet",
        "odegrad.reports.figures.kinds.figure", "odegrad.reports.summary.summary",
        "odegrad.reports.comparing.paired_ratio", "odegrad.reports.statistics.median_interval",
        "odegrad.reports.leaderboard.ranking.contests",
    ]),
}  # fmt: skip
"""Pages of the API -> title, how to import, and what they show."""
_ELSEWHERE = r'=["\'](?:https?:)?//'
OUTSIDE = re.compile(
    rf"<(?:script|img|iframe|source)[^>]*\ssrc{_ELSEWHERE}"
    rf"|<link(?=[^>]*rel=[\"'](?:stylesheet|preload|icon))[^>]*\shref{_ELSEWHERE}"
    rf"|url\([\"']?(?:https?:)?//"
)
"""What a browser would fetch from elsewhere."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every page and file that is made, or lies outside of ``docs``."""
    for source, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text(encoding="utf-8")))
    for name in FILES:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    for place, (title, how, names) in API.items():
        blocks = "\n\n".join(f"::: {name}" for name in names)
        files.append(File.generated(config, place, content=f"# {title}\n\n`{how}`\n\n{blocks}\n"))
    for source in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        text, images = as_markdown(executed(source), source.stem)
        files.append(File.generated(config, f"notebooks/{source.stem}.md", content=text))
        for name, data in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=data))
    for place, content in _gallery().items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where the pages of the root are on the site."""
    markdown = markdown.replace("](docs/", "](")
    for source, place in PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(source)}(?=[)#])", f"]({place}", markdown)
    return re.sub(r"(\]\((?!\w+:)[^)]*)\.ipynb\)", r"\1.md)", markdown)  # a notebook stands there as it ran


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site of which a page fetches something from elsewhere."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        found = OUTSIDE.search(path.read_text(encoding="utf-8"))
        if found:
            raise PluginError(f"{path}: expected nothing from outside of the site, got {found.group()}")


def _gallery() -> dict[str, str | bytes]:
    """Return the gallery, its figures and the report of the results folder."""
    from odegrad.reports.figures.kinds import FIGURE_KINDS

    folder = Path(os.environ.get("ODEGRAD_SITE_RESULTS", ROOT / "results" / "quick"))
    if not (folder / "report.html").is_file():
        raise PluginError(
            f"ODEGRAD_SITE_RESULTS: expected a results folder with a report, got {folder}; make one with "
            f"`odegrad run quick --results {folder}`"
        )
    made: dict[str, str | bytes] = {"report.html": (folder / "report.html").read_text(encoding="utf-8")}
    lines = [
        "# Gallery of figures", "",
        "Every kind of figure that `odegrad run quick` draws, as PNG, PDF and SVG. The same results as one page: "
        "[report.html](report.html), self-contained and static.", "",
    ]  # fmt: skip
    for kind in FIGURE_KINDS:
        path = folder / "figures" / f"{kind.name}.svg"
        if path.is_file():
            made[f"figures/{path.name}"] = path.read_bytes()
            lines += [f"## {kind.title}", "", kind.reads, "", f"![{kind.title}](figures/{path.name})", ""]
            lines += [f'```python\nodegrad.figure(odegrad.load("results/quick"), "{kind.name}")\n```', ""]
    made["gallery.md"] = "\n".join(lines)
    return made
