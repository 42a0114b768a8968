"""Tables as text: every row, every number whole, nothing read as markup."""

import io
import re
import shutil
import subprocess

import pandas as pd
import pytest
from rich.console import Console

from odegrad.records.record import Status
from odegrad.reports.summary import summary
from odegrad.reports.tables.table import (
    csv_text,
    latex_lines,
    markdown_lines,
    print_table,
    to_csv,
    to_latex,
    to_markdown,
)

NAIVE = {
    "metric_value": 0.95561, "nfe_forward": 20, "nfe_backward": 0, "gradient_relative_error": 2.41e-4,
    "trained_gradient_relative_error": 0.00349,
    "peak_bytes": 58_200_000, "forward_seconds": 0.0123, "backward_seconds": 0.0301, "update_seconds": 0.00041,
    "train_seconds": 12.34,
}  # fmt: skip
NUMBERS = ["0.9556", "20 / 0", "2.4e-04/3.5e-03", "58.2 MB", "12.3 / 30.1 / 0.410 ms", "12.3 s", "1/1"]


def printed(frame, width):
    console = Console(file=io.StringIO(), width=width)
    print_table(frame, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 100, 140])
def test_terminal_shows_every_number_whole(record, frame_of, width):
    """Whatever the width, no number is cut or wrapped."""
    text = printed(frame_of([record(**NAIVE)]), width)
    for number in NUMBERS:
        assert number in text
    assert "…" not in text


@pytest.mark.parametrize("width", [80, 100, 140])
def test_lines_fit_the_terminal(quick, frame_of, width):
    """From 80 columns on no line is longer than the terminal."""
    lines = printed(frame_of(quick), width).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width


def test_wide_terminal_has_a_line_a_row(quick, frame_of):
    """With room, task, method and all numbers stand in one line."""
    text = printed(frame_of(quick), 140)
    for row in summary(frame_of(quick)).itertuples():
        line = next(x for x in text.splitlines() if x.startswith(row.task) and f" {row.method} " in x)
        assert f"{row.metric_name} {row.metric_value:.4g}" in line
        assert line.endswith("2/2")


def test_metric_shows_its_distance_from_its_limit(record, frame_of):
    """Where the best possible value is known: behind it counts upwards in both directions of a metric."""
    low = record(task="circles", metric_name="nll", metric_value=3.5, metric_limit=3.264, metric_higher_is_better=False)
    high = record(metric_value=0.9, metric_limit=1.0, metric_higher_is_better=True)
    unknown = record(method="anode", metric_value=0.9, metric_limit=None)
    text = printed(frame_of([low, high, unknown]), 140)
    assert "nll 3.500 (+0.24)" in text
    assert "accuracy 0.9000 (+0.10)" in text
    assert sum("(+" in line for line in text.splitlines()) == 2


def test_terminal_lists_failures(mixed, frame_of):
    """Failed runs stand beneath the table with status and message; markup in them is text."""
    text = printed(frame_of(mixed), 140)
    assert "\n2 failed, of 30 runs:" in text
    assert "digits, naive, seed 0: diverged: loss is not finite at iteration 3" in text
    assert "<script>alert(1)</script> needed 9 GB & had 8" in text
    assert "my_method.py:Größe<b>&_$x$" in text


def test_terminal_reads_no_markup(record, frame_of):
    """Square brackets in a name or a message are no styles."""
    frame = frame_of([record(method="a[red]b"), record(seed=1, status=Status.ERROR, message="[bold]x[/oops]")])
    text = printed(frame, 140)
    assert "a[red]b" in text
    assert "[bold]x[/oops]" in text


def test_long_message_is_shortened(record, frame_of):
    """A traceback does not bury the table."""
    text = printed(frame_of([record(status=Status.ERROR, message="line\n" * 1000)]), 100)
    assert "error: line line" in text
    assert len(text) < 2500


@pytest.mark.parametrize("width", [80, 140])
def test_no_run_and_only_failed_runs(record, frame_of, width):
    """An empty result set and one without any ok run print without numbers."""
    assert "method" in printed(frame_of([]), width)
    text = printed(frame_of([record(status=Status.TIMEOUT, message="60 s")]), width)
    assert "0/1" in text
    assert "\n1 failed, of 1 run:" in text
    assert "nan" not in text.lower()


def test_refused_and_missing_runs_are_not_called_failed(record, frame_of):
    """As in the exit codes: a refusal is no failure, and what the machine spoilt is missing."""
    kinds = (Status.OK, Status.UNSUPPORTED, Status.UNSUPPORTED, Status.DIVERGED, Status.INFRASTRUCTURE)
    records = [record(seed=seed, status=status, message="why") for seed, status in enumerate(kinds)]
    assert "\n1 failed, 2 refused, 1 missing, of 5 runs:" in printed(frame_of(records), 140)
    refused = printed(frame_of(records[:3]), 140)
    assert "\n2 refused, of 3 runs:" in refused
    assert "failed" not in refused
    assert "\n2 refused:\n" in to_markdown(frame_of(records[:3]))


def test_markdown(record, frame_of, mixed):
    """A header, a rule and a line a row of nine cells; pipes and HTML in names stay text."""
    lines = to_markdown(frame_of([record(**NAIVE)])).splitlines()
    costs = "58.2 MB | 12.3 / 30.1 / 0.410 ms | 12.3 s"
    expected = f"| digits | naive | accuracy 0.9556 | 20 / 0 | 2.4e-04/3.5e-03 | {costs} | 1/1 |"
    assert lines[2] == expected
    assert len({line.count("|") for line in lines[:3]}) == 1
    text = to_markdown(frame_of([*mixed, record(method="a|b")]))
    assert r"a\|b" in text
    assert "<" not in text
    assert "* digits, naive, seed 0: diverged" in text


def test_csv_holds_full_numbers(quick, frame_of):
    """The file reads back as the summary."""
    table = summary(frame_of(quick))
    back = pd.read_csv(io.StringIO(to_csv(frame_of(quick))), float_precision="round_trip")
    assert list(back) == list(table)
    assert back["train_seconds"].tolist() == table["train_seconds"].tolist()
    assert back["method"].tolist() == table["method"].tolist()


def test_latex(record, frame_of):
    """Booktabs rules, as many cells as columns, names escaped and powers of ten typeset."""
    odd = record(method=r"50%_$x$&{y}\z~^#<", **NAIVE)
    text = to_latex(frame_of([odd, record(task="circles", status=Status.ERROR, message="a\nb")]))
    assert r"50\%\_\$x\$\&\{y\}\textbackslash{}z\textasciitilde{}\textasciicircum{}\#\textless{}" in text
    assert r"$2.4\times10^{-4}$" in text
    assert [r"\toprule" in text, r"\bottomrule" in text, text.count(r"\midrule")] == [True, True, 2]
    assert "% circles, naive, seed 0: error: a b" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {8}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(mixed, frame_of, tmp_path):
    """The table compiles with nothing but booktabs."""
    body = to_latex(frame_of(mixed))
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{textcomp,booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}\n{body}\n\\end{{document}}\n", encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "@SUM(A1)", "-2+3", "\t=1", "\r=1"])
def test_no_text_is_a_formula_in_csv(text):
    """A spreadsheet shows it as text; numbers and dashes stay as they are."""
    table = pd.DataFrame({"method": [text, "-1.5e-3", "-", "a=b"], "value": [-1.0, 2.0, 3.0, 4.0]})
    found = pd.read_csv(io.StringIO(csv_text(table)), dtype={"method": str})
    assert found["method"].tolist() == [f"'{text.strip()}", "-1.5e-3", "-", "a=b"]
    assert found["value"].tolist() == [-1.0, 2.0, 3.0, 4.0]


def test_the_end_of_a_line_in_a_name_ends_no_line():
    """Neither in LaTeX, where the rest would be live, nor in Markdown."""
    rows = [["a\n\\input{/etc/passwd}\r\u2028b", "1"]]
    (line,) = [line for line in latex_lines([("method", False), ("n", True)], rows) if "passwd" in line]
    assert line.startswith(r"a \textbackslash{}input\{")
    assert len(markdown_lines([("method", False), ("n", True)], rows)) == 3
    assert all(len(line.splitlines()) == 1 for line in markdown_lines([("method", False), ("n", True)], rows))
