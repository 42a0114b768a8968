"""The page and the figures of a history, on made-up trends."""

import csv
import re

import pytest

from odegrad.errors import ResultsError
from odegrad.reports.figures import trend
from odegrad.reports.page.history import page, repeats, rows, write
from odegrad.reports.trends import Mark, Trends, TrendSeries, TrendStep, shown

RUN = "linear/tiny my_method.py:<b>&Mine adam seed 0"
OPTION = ("--history", "my history")


def mark(number, release=""):
    return Mark(f"{number:040x}", f"2026-01-{number + 1:02d}T00:00:00+00:00", release, f"{number - 1:040x}")


def step(metric, good, bad, before, after, verdict="regressed", run=RUN):
    return TrendStep("mine", run, metric, "A", good, bad, before, after, "+1", verdict, f"git checkout {bad} && gate")


def series(metric, values, run=RUN, places=None):
    return TrendSeries("mine", run, metric, "A", places or range(len(values)), values)


@pytest.fixture
def moved():
    """Return a history of eight commits: f calls at 3, the gradient's bits at 3, times between 3 and 6, a drift."""
    return Trends(
        marks=[mark(i, "v1" if i == 1 else "") for i in range(8)],
        series=[
            series("nfe_forward", [26, 26, 26, 27, 27, 27, 27, 27]),
            series("gradient_digest", ["a"] * 3 + ["b"] * 5),
            series("backward_seconds", [0.01] * 5 + [0.02] * 3),
            series("vjps", [7] * 8),
        ],
        steps=[
            step("nfe_forward", 2, 3, 26, 27),
            step("gradient_digest", 2, 3, "a" * 16, "b" * 16, "changed"),
            step("backward_seconds", 3, 6, 0.01, 0.02),
        ],
        drifts=[step("nfe_forward", 1, 7, 26, 27)],
        machines={"A": "cpu <Test>"},
    )


def test_page_marks_commits_ranges_and_what_repeats_them(moved):
    """Headings are the ranges, the latest first; a range of one commit is that commit."""
    html = page(moved, OPTION)
    headings = re.findall(r"<h3>(.*?) <span", html)
    assert headings == [f"{moved.marks[3].sha[:12]}..{moved.marks[6].sha[:12]}", moved.marks[3].sha[:12]]
    assert html.count("git checkout 3 &amp;&amp; gate") == 1
    assert f"git log {moved.marks[3].sha}..{moved.marks[6].sha}" in html
    assert "odegrad history report --history &#39;my history&#39;" in html
    assert "10.0 ms" in html
    assert html.count('src="data:image/svg+xml') == 2  # the overview, and the one run that moved


def test_page_is_self_contained_and_escapes_everything(moved):
    """No address outside of the page, no markup of a user's names."""
    html = page(moved, OPTION)
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", html)
    assert "<b>" not in html
    assert "<Test>" not in html
    assert "my_method.py:&lt;b&gt;&amp;Mine" in html


def test_page_of_nothing_that_moved_says_so(moved):
    """One commit; no steps."""
    html = page(Trends(moved.marks[:1], [series("vjps", [7])], [], [], {}), OPTION)
    assert "Nowhere." in html
    assert "Nothing moved." in html


def test_rows_and_commands_are_the_latest_first(moved):
    """As the terminal shows them."""
    table = rows(moved, moved.steps)
    assert [row["metric"] for row in table] == ["backward_seconds", "nfe_forward", "gradient_digest"]
    assert (table[0]["before"], table[0]["after"]) == ("10.0 ms", "20.0 ms")
    assert (table[2]["before"], table[2]["after"]) == ("a" * 12, "b" * 12)
    assert [line.rpartition("repeat with ")[2] for line in repeats(moved)] == [
        "git checkout 6 && gate",
        "git checkout 3 && gate",
    ]


def test_files_are_written_into_a_folder_that_is_made(moved, tmp_path):
    """The table holds steps and drifts."""
    files = write(moved, OPTION, tmp_path / "a" / "b")
    assert [file.name for file in files] == ["steps.csv", "history.html"]
    with files[0].open(encoding="utf-8") as text:
        assert len(list(csv.DictReader(text))) == 4
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResultsError, match=r"--out .*file: expected a folder that can be written"):
        write(moved, OPTION, tmp_path / "file")


def test_overview_counts_the_series_that_moved_at_each_commit(moved):
    """Bars of each verdict; heights by hand."""
    (axes,) = trend.draw_overview(moved).axes
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert heights == {"regressed": [0, 0, 0, 1, 0, 0, 1, 0], "changed": [0, 0, 0, 1, 0, 0, 0, 0]}


def test_panels_are_the_moved_numbers_with_points_levels_and_ranges(moved):
    """What did not move, and bits, are not drawn."""
    figure = trend.draw_run(moved, "mine", RUN)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["backward_seconds [ms]", "nfe_forward [calls]"]
    axes = panels["backward_seconds [ms]"]
    points = next(line for line in axes.lines if line.get_marker() == "o")
    assert list(points.get_ydata()) == [10.0] * 5 + [20.0] * 3
    (span,) = [patch for patch in axes.patches if patch.get_alpha() == 0.18]
    assert (span.get_x(), span.get_width()) == (3, 3)
    levels = sorted(path.vertices[0][1] for lines in axes.collections for path in lines.get_paths())
    assert levels == [10.0, 20.0]
    assert trend.draw_run(moved, "mine", "another") is None


@pytest.mark.parametrize("values", [[1e-12, 1e-3, 0.5], [1.0, float("inf"), 2.0], [float("inf")] * 3, [0.0, 0.0, 0.0]])
def test_panel_of_any_values_is_drawn(values):
    """Decades, infinities, zeros."""
    name = "gradient_relative_error"
    found = Trends([mark(i) for i in range(3)], [series(name, values)], [step(name, 0, 1, 1.0, 2.0)], [], {"A": ""})
    figure = trend.draw_run(found, "mine", RUN)
    low, high = figure.axes[0].get_ylim()
    assert low < high < float("inf")
    assert all(low <= value <= high for value in values if value < float("inf"))


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [("nfe_forward", 26, "26"), ("saved_bytes", 12800, "12.8 kB"), ("backward_seconds", 0.0123, "12.3 ms"),
     ("gradient_relative_error", 1.2e-4, "1.2e-04"), ("gradient_digest", "0123456789abcdef", "0123456789ab"),
     ("status", "out_of_memory", "out_of_memory")],
)  # fmt: skip
def test_values_have_units(metric, value, text):
    """As everywhere in the reports."""
    assert shown(metric, value) == text
