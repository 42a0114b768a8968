"""Measure how long a history takes to report: run it anywhere, it prints seconds, waiting left in and out.

``python tests/benchmarks/time_history.py [POINTS]`` makes that many points (default 10 000), each what one run measured
at one commit: every metric of the exact gate and four times, with a step in every tenth run and times spread by 3 %.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from odegrad.gate.metrics import METRICS
from odegrad.history.folder import FolderStore
from odegrad.history.line import FOLLOWED_TIMES, Line
from odegrad.history.store import read
from odegrad.history.trends import trends
from odegrad.records.columns import Compared
from odegrad.reports.page.history import write

T = TypeVar("T")
RUNS = 50
MACHINE = {"cpu": "made up", "cores": 2, "threads": 1, "torch": "2.13.0", "odegrad": "0.1.0"}


def made_line(commit: int, run: int, commits: int, rng: np.random.Generator) -> Line:
    """Return one line; every tenth run moves in the middle."""
    later = run % 10 == 0 and commit >= commits // 2
    metrics = {
        name: ("b" if later else "a") * 16 if metric.compared is Compared.BITS
        else 1.2e-4 if metric.compared is Compared.DECADES
        else 1000 + 7 * run + 100 * later
        for name, metric in METRICS.items()
    }  # fmt: skip
    seconds = 0.01 * (1.0 + 0.3 * later) * np.exp(0.03 * rng.standard_normal(len(FOLLOWED_TIMES)))
    return Line(
        commit=f"{commit:040x}", date="2026-01-01T00:00:00+00:00", order=commit + 1, parent=None,
        suite="sweep", run=f"task/tiny method_{run:02d} adam dopri5 0.001/0.001 float32 cpu seed 0", device="cpu",
        status="ok", machine=MACHINE, metrics=metrics, times=dict(zip(FOLLOWED_TIMES, seconds.tolist(), strict=True)),
        release="v1" if commit == commits // 4 else None,
    )  # fmt: skip


def timed(what: str, call: Callable[[], T]) -> T:
    """Return what ``call`` returns, and print how long it took."""
    begin, busy = time.perf_counter(), time.process_time()
    found = call()
    print(f"{what} in {time.perf_counter() - begin:.1f} s, {time.process_time() - busy:.1f} s busy", flush=True)
    return found


def main(number: int) -> None:
    """Print the seconds of reading, of looking for steps, and of the page."""
    rng = np.random.default_rng(0)
    commits = -(-number // RUNS)
    with tempfile.TemporaryDirectory() as name:
        folder = FolderStore(Path(name) / "history")
        for commit in range(commits):
            lines = [made_line(commit, run, commits, rng) for run in range(min(RUNS, number - commit * RUNS))]
            content = "".join(f"{line.text()}\n" for line in lines).encode()
            folder.update(f"{commit:040x}", lambda _, content=content: content)  # type: ignore[misc]
        lines = timed(f"{number} points of {commits} commits read", lambda: read(folder))
        found = timed("steps found", lambda: trends(lines))
        timed("page written", lambda: write(found, folder.option, Path(name) / "out"))
        print("\n".join(found.sentences()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
