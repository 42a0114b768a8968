"""The page by what a browser reads from it."""

import html.parser
import io
import json
import math
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console

from odegrad.errors import ResultsError
from odegrad.records.columns import COLUMNS
from odegrad.records.record import Status
from odegrad.reports.figures.kinds import FIGURE_KINDS
from odegrad.reports.frame import load, read_parquet
from odegrad.reports.page.build import build_report
from odegrad.reports.page.findings import findings, outcome
from odegrad.reports.page.interactive import script
from odegrad.reports.page.render import LEAD, page
from odegrad.reports.tables.table import print_table

VOID = {"meta", "link", "img", "input", "source", "br"}


class Reader(html.parser.HTMLParser):
    """Reads tags, the text of each section and the rows of each table; refuses tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts, self.rows = [], [], {}, {}
        self.feed(text)
        self.close()
        assert self.open == [], "tags left open"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("id")))
        if tag == "tr":
            self.rows.setdefault(self.within("table"), []).append([])
        if tag in {"td", "th"}:
            self.rows[self.within("table")][-1].append("")

    def handle_endtag(self, tag):
        assert self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data):
        for tag, name in self.open:
            if tag == "section":
                self.texts[name] = self.texts.get(name, "") + data
        if any(tag in {"td", "th"} for tag, _ in self.open):
            self.rows[self.within("table")][-1][-1] += data

    def within(self, wanted):
        return next(name for tag, name in reversed(self.open) if tag == wanted)

    def text(self, section):
        return " ".join(self.texts[section].split())


@pytest.fixture(scope="module")
def quick_page(quick, frame_of):
    """Return the page of a whole suite without failures."""
    return page(frame_of(quick))


def test_summary_comes_first_and_says_the_numbers(quick_page):
    """The first section names the best of each task with its value."""
    reader = Reader(quick_page)
    assert next(a["id"] for t, a in reader.tags if t == "section") == "summary"
    text = reader.text("summary")
    assert "28 runs, all ended ok." in text
    undecided = "2 seeds; 7 methods take at least 8 that agree"
    assert (
        f"Fastest training: not decided, medians 3.39 s (naive) to 7.12 s (torchdiffeq_adjoint) ({undecided})" in text
    )
    assert "before training: not decided, medians 2.4e-04 (naive, anode and torchdiffeq_naive) to 8.7e-04 (adj" in text
    assert "rough" not in text


def test_disturbed_times_are_told_first(record, frame_of):
    """How many runs, and by what, on the page and under the table of the terminal."""
    frame = frame_of([record(taints="load"), record(seed=1, taints="load,steal"), record(seed=2, taints="")])
    said = "Times of 2 of 3 runs are rough (load, steal): take them"
    assert said in Reader(page(frame)).text("summary")
    console = Console(file=io.StringIO(), width=200)
    print_table(frame, console)
    assert said in console.file.getvalue().replace("\n", " ")


def test_wide_intervals_are_told_like_disturbances(record, frame_of):
    """A time that is not known to 10 % is rough, whatever the machine did."""
    frame = frame_of([record(time_relative_interval=0.25), record(seed=1, time_relative_interval=0.02)])
    assert "Times of 1 of 2 runs are rough (wide interval)" in Reader(page(frame)).text("summary")


def test_trainings_of_unlike_length_are_named_so(record, frame_of):
    """Two methods that were trained for 5 and for 20 iterations are not compared without a word."""
    frame = frame_of([
        record(method=m, seed=s, train_seconds=t, settings={"iterations": i})
        for m, i, t in (("naive", 5, 1.0), ("adjoint", 20, 4.0)) for s in range(6)
    ])  # fmt: skip
    found = {each.what: each for each in findings(frame)["digits"]}["Fastest training"]
    assert found.best == "naive (iterations 5)"
    assert "last: adjoint (iterations 20), 4.00 s" in found.rest


def test_one_value_has_no_interval(record, frame_of):
    """Of one seed nothing is shown, of two their range, of six their interval; each says what it is."""
    shown = {}
    for seeds in (1, 2, 6):
        frame = frame_of([record(seed=s, metric_value=0.5 + 0.1 * s) for s in range(seeds)])
        shown[seeds] = Reader(page(frame)).text("results")
    assert "0.5000" in shown[1]
    assert "0.5000 to" not in shown[1]
    assert "0.5000 to 0.6000 (range of 2)" in shown[2]
    assert "0.5000 to 1.000 (interval of 6)" in shown[6]


def test_own_suite_is_reproduced_by_its_file(record, frame_of):
    """A suite that comes with odegrad is named, another one by a file."""
    frame = frame_of([record(settings={"suite": "quick"}), record(seed=1, settings={"suite": "mine"})])
    told = Reader(page(frame)).text("reproduce")
    assert "odegrad run quick" in told
    assert "odegrad run mine.toml" in told


def seeds_of(record, method, values, task="digits", **more):
    return [record(task, method, seed, metric_value=v, **more) for seed, v in enumerate(values)]


def test_findings_by_hand(record, frame_of):
    """Accuracy upwards, nll downwards; what is equal in every seed shares the place; a failed method is the last."""
    spread = [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    runs = [
        r
        for m, v in (("naive", 0.85), ("adjoint", 0.9), ("anode", 0.9))
        for r in seeds_of(record, m, [v + d for d in spread])
    ]
    runs += seeds_of(record, "naive", [3.2 + d for d in spread], "circles")
    runs += seeds_of(record, "adjoint", [3.1 + d for d in spread], "circles")
    runs += seeds_of(record, "anode", [math.nan] * 7, "circles")
    found = {task: each[0] for task, each in findings(frame_of(runs)).items()}
    digits, circles = found["digits"], found["circles"]
    assert (digits.what, digits.best, digits.value) == ("Best accuracy", "adjoint and anode", "0.9300")
    assert digits.rest == "better than each other on at least 7 of 7 seeds; last: naive, 0.8800"
    assert (circles.best, circles.value) == ("adjoint", "3.130")
    assert findings(frame_of([record()]))["digits"][0].rest == "the only one measured"
    assert findings(frame_of([record(status=Status.ERROR, message="x")])) == {}


def test_two_seeds_crown_nobody(record, frame_of):
    """0.9500 against 0.9375 on two seeds is not decided, and it is said how many seeds three methods take."""
    runs = [
        r
        for m, v in (("naive", 0.94), ("adjoint", 0.9375), ("snopt", 0.95))
        for r in seeds_of(record, m, [v, v + 0.002])
    ]
    found = findings(frame_of(runs))["digits"][0]
    assert (found.best, found.value) == ("not decided", "medians 0.9385 (adjoint) to 0.9510 (snopt)")
    assert found.rest == "2 seeds; 3 methods take at least 6 that agree"


def test_what_is_left_undecided_is_named(record, frame_of):
    """Two that win by turns, and one that both beat on every seed."""
    turns = [0.95, 0.90] * 4
    runs = [
        *seeds_of(record, "naive", turns),
        *seeds_of(record, "adjoint", turns[::-1]),
        *seeds_of(record, "anode", [0.5] * 8),
    ]
    found = findings(frame_of(runs))["digits"][0]
    assert found.best == "not decided between naive and adjoint"
    assert found.rest == "the 8 seeds disagree, or too few are common"


def test_outcome(record, frame_of):
    """How many runs, how many failed."""
    bad = record(seed=1, status=Status.ERROR, message="x")
    said = [outcome(frame_of(runs)) for runs in ([], [record()], [bad], [record(), bad])]
    assert said[0] == "There is no run yet."
    assert said[1] == "1 run, all ended ok."
    assert said[2] == "1 run, none ended ok: 1 failed; the reasons are below."
    assert said[3] == "2 runs; 1 failed, with the reasons below, and in no median."


def test_tables_hold_rows_and_sort_values(quick_page):
    """A row a task and method, a row a run, and the full number behind each cell."""
    reader = Reader(quick_page)
    head, *rows = reader.rows["results-table"]
    assert len(rows) == 14
    assert len(reader.rows["runs-table"]) == 29
    digits = next(row for row in rows if row[:2] == ["digits", "naive"])
    assert digits[head.index("peak bytes")] == "58.2 MB"
    assert 'data-value="58200000.0">58.2 MB' in quick_page


def test_names_and_messages_are_escaped(mixed, frame_of):
    """HTML in a name or a message is text; no script of theirs is in the page."""
    text = page(frame_of(mixed))
    reader = Reader(text)
    assert "<script>alert(1)</script> needed 9 GB & had 8" in reader.text("failed")
    assert "<script>alert" not in text
    assert any("my_method.py:Größe<b>&_$x$" in row for row in reader.rows["results-table"])
    assert sum(tag == "script" and "type" not in attributes for tag, attributes in reader.tags) == 1


def test_nothing_is_fetched(quick_page):
    """Every image is inside the page, and no address of a network is in an attribute or the style."""
    for tag, attributes in Reader(quick_page).tags:
        for name in ("src", "srcset", "href"):
            value = attributes.get(name, "#")
            assert value.startswith(("data:", "#")), f"{tag} {name}={value[:60]}"
    assert "default-src 'none'" in quick_page
    own = quick_page.replace(script(), "")  # that of the interactive figures only names addresses
    assert not re.search(r"url\(|@import|https?://", own)


def test_figures_have_alternative_texts(quick_page, quick, frame_of):
    """Each figure is there, wide and narrow, with what it shows in words."""
    images = [a for t, a in Reader(quick_page).tags if t == "img"]
    frame = frame_of(quick)
    kinds = sorted(FIGURE_KINDS, key=lambda kind: kind.name != LEAD)
    said = [kind.describe(frame) for kind in kinds if kind.draw(frame, 2).axes]
    assert [i["alt"] for i in images] == said
    assert "figures have nothing to show" in Reader(quick_page).text("figures")
    assert all(urllib.request.urlopen(i["src"]).read().startswith(b"<?xml") for i in images)


def test_machine_glossary_and_command(quick_page):
    """Versions, every column's meaning, and the command that measures the same again."""
    reader = Reader(quick_page)
    assert "Test CPU 3000" in reader.text("machine")
    assert "8.00 GB" in reader.text("machine")
    assert "odegrad run quick" in reader.text("reproduce")
    for column in COLUMNS:
        assert column.meaning in reader.text("glossary")


@pytest.mark.parametrize("kind", ["empty", "one", "failed"])
def test_small_result_sets(kind, record, frame_of):
    """A page of nothing, of one run, of failures only is a page."""
    records = {"empty": [], "one": [record()], "failed": [record(status=Status.ERROR, message="")]}[kind]
    reader = Reader(page(frame_of(records)))
    assert reader.text("failed") == (
        "Runs that did not end ok naive on digits, seed 0: error no message"
        if kind == "failed"
        else "Runs that did not end ok None."
    )
    assert "nan" not in reader.text("summary").lower()


def test_unlike_machines_are_said(quick, frame_of):
    """Times from two machines are not passed off as one."""
    frame = frame_of(quick)
    frame.at[0, "machine"] = {"cpu": "Other CPU"}
    text = Reader(page(frame)).text("machine")
    assert "2 unlike machines" in text
    assert "Other CPU" in text


def test_report_is_built(mixed, write_results, tmp_path):
    """One call writes Parquet, figures, tables and the page, beside the records or elsewhere, and names every file."""
    folder = write_results(mixed)
    written = build_report(folder)
    names = {str(p.relative_to(folder)) for p in written}
    kinds = {k.name for k in FIGURE_KINDS if k.draw(load(folder), 2).axes}
    figures = {f"figures/{name}.{f}" for name in kinds for f in ("png", "pdf", "svg")}
    assert names == {
        "records.parquet",
        "trace.parquet",
        "report.html",
        *(f"tables/summary.{e}" for e in ("md", "csv", "tex")),
        *(f"tables/{name}.csv" for name in ("across", "optimizers", "tuning")),
        *figures,
    }
    assert all(p.stat().st_size > 0 for p in written)
    assert len(read_parquet(folder / "records.parquet")) == len(mixed)
    elsewhere = build_report(folder, out=tmp_path / "a" / "b")
    assert elsewhere[-1] == tmp_path / "a" / "b" / "report.html"


def test_report_that_cannot_be_written(quick, write_results, tmp_path):
    """A file where the folder should be is an error with the way out."""
    (tmp_path / "taken").touch()
    with pytest.raises(ResultsError, match="expected a folder that can be written"):
        build_report(write_results(quick), out=tmp_path / "taken")


PROBE = """
addEventListener("load", () => {
  const table = document.getElementById("results-table"), body = table.tBodies[0];
  const at = (name) => [...table.tHead.rows[0].cells].findIndex((c) => c.textContent === name);
  const column = (i) => [...body.rows].filter((r) => !r.hidden).map((r) => r.cells[i].dataset.value);
  const button = table.tHead.rows[0].cells[at("peak bytes")].querySelector("button");
  const found = {};
  button.focus();
  found.focused = document.activeElement === button;
  button.click();
  found.up = column(at("peak bytes"));
  button.click();
  found.down = column(at("peak bytes"));
  found.sorted = button.parentElement.getAttribute("aria-sort");
  const input = document.querySelector("input");
  input.value = "DIGITS adj";
  input.dispatchEvent(new Event("input"));
  found.shown = column(1);
  found.count = document.querySelector("output").textContent;
  found.overflow = document.documentElement.scrollWidth - innerWidth;
  document.body.dataset.found = JSON.stringify(found);
});
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_page_in_a_browser(mixed, frame_of, tmp_path, width):
    """No console message, no request; sorting and filtering work; nothing sticks out sideways."""
    path = tmp_path / "report.html"
    html, end, _ = page(frame_of(mixed)).rpartition("</body>")
    path.write_text(f"{html}<script>{PROBE}</script>{end}</html>", encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        f"--disable-component-update --disable-sync --enable-logging=stderr --window-size={width},900 --dump-dom"
    )
    done = subprocess.run(
        ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", Path(path).as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    body = next(a for t, a in Reader(done.stdout).tags if t == "body")
    found = json.loads(body["data-found"])
    numbers = [float(v) for v in found["up"]]
    assert numbers == sorted(numbers)
    assert [float(v) for v in found["down"]] == sorted(numbers, reverse=True)
    assert sorted(found["shown"]) == ["adjoint", "torchdiffeq_adjoint"]
    assert (found["focused"], found["sorted"], found["count"]) == (True, "descending", "2 of 15 rows")
    assert found["overflow"] <= 0
