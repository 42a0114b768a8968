"""The interactive figures: their numbers, their switches, and a page that is still one file without a request."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from odegrad.reports.page import interactive
from odegrad.reports.page.interactive import interactive_figures, script
from odegrad.reports.page.render import page

PROBE = """
addEventListener("load", () => setTimeout(() => {
  const charts = [...document.querySelectorAll(".chart")];
  const boxes = charts[0].querySelectorAll("input[type=checkbox]");
  const marks = () => charts[0].querySelectorAll(".mark-symbol.role-mark path").length;
  const found = { charts: charts.length, switches: boxes.length, before: marks() };
  boxes[0].click();
  setTimeout(() => {
    found.after = marks();
    found.overflow = document.documentElement.scrollWidth - innerWidth;
    found.lines = charts[1].querySelectorAll(".mark-line path").length;
    document.body.dataset.found = JSON.stringify(found);
  }, 500);
}, 500));
"""


@pytest.fixture
def bundled(monkeypatch):
    """Stand in for the script, which only a browser needs."""
    monkeypatch.setattr(interactive, "script", lambda: "/* script */")


def figures(records, frame_of):
    return {figure.name: figure.spec for figure in interactive_figures(frame_of(records))}


def test_points_are_the_medians_of_the_table(bundled, record, frame_of):
    """Their numbers, and what is told of them; an error of zero has a floor to be drawn at."""
    records = [
        record("digits", method, seed, gradient_relative_error=error * (1 + seed), forward_seconds=1e-3 * (seed + 1))
        for method, error in (("naive", 0.0), ("adjoint", 2e-4))
        for seed in range(3)
    ]
    spec = figures(records, frame_of)["interactive-work-precision"]
    naive, adjoint = spec["data"]["values"]
    assert adjoint["height"] == pytest.approx(4e-4)
    assert adjoint["error"] == "4.0e-04"
    backward = records[-1].measured["backward_seconds"]
    assert adjoint["seconds"] == pytest.approx(2e-3 + backward)
    assert (adjoint["nfe"], adjoint["calls"]) == (56.0, "56")
    assert (naive["error"], naive["height"]) == ("0", 1e-5)


def test_lines_are_the_medians_of_the_training(bundled, record, frame_of):
    """At each evaluation but the first, by iterations, seconds and f calls."""
    traces = np.array([[0.1, 0.5, 0.7], [0.1, 0.6, 0.9], [0.1, 0.4, 0.8]])
    records = [
        record("digits", "naive", seed, trace_iteration=[0, 10, 20], trace_metric=list(trace),
               trace_seconds=[0.0, 1.0 + seed, 2.0 + seed], trace_nfe_forward=[2, 2, 2], trace_nfe_backward=[1, 1, 1])
        for seed, trace in enumerate(traces)
    ]  # fmt: skip
    values = figures(records, frame_of)["interactive-training"]["data"]["values"]
    assert [value["metric"] for value in values] == [0.5, 0.8]
    assert [(v["iterations"], v["seconds"], v["nfe"]) for v in values] == [(10.0, 2.0, 30.0), (20.0, 3.0, 60.0)]


def test_every_method_has_a_switch_and_its_own_colour(bundled, quick, frame_of):
    """As many as methods; the filter names each of them; colours are those of the printed figures."""
    spec = figures(quick, frame_of)["interactive-work-precision"]
    switches = [each for each in spec["params"] if each["bind"]["input"] == "checkbox"]
    methods = spec["encoding"]["color"]["scale"]["domain"]
    assert [each["bind"]["name"].strip() for each in switches] == methods
    assert len(methods) == 7
    for number, each in enumerate(switches):
        assert f"(datum.number === {number} && {each['name']})" in spec["transform"][1]["filter"]
    assert {value["number"] for value in spec["data"]["values"]} == set(range(7))
    assert spec["encoding"]["color"]["scale"]["range"][0] == "#000000"


def test_names_of_users_end_no_script(bundled, mixed, frame_of):
    """Markup in a name is text of the data, and the data are JSON without NaN."""
    for figure in interactive_figures(frame_of(mixed)):
        assert "<" not in figure.json
        assert json.loads(figure.json) == figure.spec


def test_page_without_the_package_is_as_it_was(monkeypatch, quick, frame_of):
    """No chart, no note, no script."""
    monkeypatch.setattr(interactive, "script", lambda: "")
    html = page(frame_of(quick), figures=[])
    assert "vegaEmbed" not in html
    assert 'class="chart"' not in html


def test_page_grows_by_less_than_a_megabyte(quick, frame_of):
    """By the script and the data of two figures; still nothing is asked for."""
    pytest.importorskip("vl_convert")
    html = page(frame_of(quick), figures=[])
    assert 500_000 < len(script()) < 1_000_000
    assert len(html) - len(script()) < 200_000
    assert "unsafe-eval" not in html
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?!data:)", html.replace(script(), ""))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_charts_in_a_browser(mixed, frame_of, tmp_path, width):
    """They are drawn under the page's own policy; a switch takes its method away; nothing sticks out sideways."""
    pytest.importorskip("vl_convert")
    path = tmp_path / "report.html"
    html, end, _ = page(frame_of(mixed), figures=[]).rpartition("</body>")
    path.write_text(f"{html}<script>{PROBE}</script>{end}</html>", encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        f"--disable-component-update --disable-sync --enable-logging=stderr --window-size={width},900 --dump-dom "
        "--virtual-time-budget=5000"
    )
    done = subprocess.run(
        ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    found = json.loads(re.search(r'data-found="([^"]*)"', done.stdout).group(1).replace("&quot;", '"'))
    assert found["charts"] == 2
    assert found["switches"] == 8
    assert found["before"] - found["after"] == 1
    assert found["lines"] >= 7
    assert found["overflow"] <= 0
