"""Measure where steps of each sample's own pay: a line for each field and spread of rates, and the figure of them.

An image field (group norm, ReLU, convolution, twice) on 64 x 6 x 6 and 64 x 12 x 12 numbers, whose call grows with its
rows, and a small net, whose call hardly does; 64 samples, each with a rate of its own from 1 to ``spread``. Steps,
calls and rows are the same on every run. Times are processor seconds of this thread per gradient by ``aca``, relative
to shared steps; the two loops take turns. "f alone" is the same of the bare calls and pull-backs that both make, at
their widths: no loop around them could be better than that.

``python tests/benchmarks/time_per_sample.py [--rounds N] [--figure FILE.svg] [--records FILE.jsonl]``; with ``--draw``
the figure is drawn from the records of an earlier run.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from torch import Tensor, nn

from odegrad.checks.problems import StepLog
from odegrad.contracts import RowCounts
from odegrad.datasets.nets.layers import ConcatConv2d
from odegrad.methods.solvers.solver import OneStepSolver, make_solver
from odegrad.registry import build_gradient
from odegrad.reports.canvas import style

BATCH = 64
END = 8.0
SPREADS = (1.0, 2.5, 7.0)
STAGES = 6
"""f calls of a step of dopri5."""


@dataclass(frozen=True)
class Measured:
    """One field, one spread of rates: own steps relative to shared ones."""

    field: str
    rates: str
    spread: float
    least: int
    """Accepted steps of the easiest sample."""
    most: int
    """And of the hardest one."""
    shared: int
    """Accepted steps where all samples share them."""
    calls: float
    rows: float
    seconds: float
    alone: float
    """f alone."""


class _Rated(nn.Module):
    """``dy/dt = r f(r t, y)`` with a rate ``r [batch, 1]`` that rests, and that no step is judged by."""

    sample_time, moving, unjudged = True, 1, 1

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the derivative of both."""
        y, rate = state
        r = rate.view(-1, *[1] * (y.dim() - 1))
        return r * self.velocity(r * t, y), torch.zeros_like(rate)

    def velocity(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity at ``t [batch, 1, ...]``."""
        raise NotImplementedError


class ImageField(_Rated):
    """GroupNorm-ReLU-conv-GroupNorm-ReLU-conv-GroupNorm on 64 channels; convolutions see a sine of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(32, 64) for _ in range(3))
        self.convolutions = nn.ModuleList(ConcatConv2d(64, 64) for _ in range(2))

    def velocity(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity ``[batch, 64, height, width]``."""
        for norm, convolution in zip(self.norms, self.convolutions, strict=False):
            y = convolution(torch.sin(4.0 * t), torch.relu(norm(y)))
        out: Tensor = self.norms[2](y)
        return out


class SmallNet(_Rated):
    """Tanh net 20-50-20."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 50), nn.Tanh(), nn.Linear(50, 20))

    def velocity(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity ``[batch, 20]``."""
        out: Tensor = self.layers(y) + 2.0 * torch.cos(4.0 * t)
        return out


class _Log(StepLog):
    """Steps, and rounds where there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: RowCounts | None = None

    @property
    def attempts(self) -> int:
        """Return the attempted steps."""
        return len(self.ends) + self.rejections

    def solved_in_rounds(self, counts: RowCounts) -> None:
        """Keep the rounds."""
        self.counts = counts


def gradient(solver: OneStepSolver, field: nn.Module, start: tuple[Tensor, Tensor]) -> float:
    """Return the processor seconds of one gradient."""
    ts = torch.tensor([0.0, END])
    began = time.thread_time()
    ys, _ = build_gradient("aca")(field, solver, start, ts)
    ys[-1].square().mean().backward()
    return time.thread_time() - began


def call_seconds(field: nn.Module, start: tuple[Tensor, Tensor], width: int) -> tuple[float, float]:
    """Return the processor seconds of one f call of ``width`` rows, and of one with its pull-back."""
    y, rate = (part[:width].clone() for part in start)
    t = torch.zeros(width, *[1] * (y.dim() - 1))
    began = time.thread_time()
    with torch.no_grad():
        field(t, (y, rate))
    called = time.thread_time()
    leaf = y.requires_grad_()
    dy, _ = field(t, (leaf, rate))
    torch.autograd.grad(dy, [leaf, *field.parameters()], torch.ones_like(dy), allow_unused=True)
    return called - began, time.thread_time() - called


def alone(field: nn.Module, start: tuple[Tensor, Tensor], counts: RowCounts, shared: _Log, rounds: int) -> float:
    """Return the time of the calls of own steps, f alone, relative to that of the calls of shared ones."""
    there = Counter(counts.widths)
    ranks = Counter(sum(n > j for n in counts.steps) for j in range(max(counts.steps)))
    widths = sorted({BATCH, *there, *ranks})
    found = [{width: call_seconds(field, start, width) for width in widths} for _ in range(rounds + 1)][1:]
    forward, back = ({w: statistics.median(each[w][k] for each in found) for w in widths} for k in (0, 1))

    def cost(of_rounds: Mapping[int, int], of_steps: Mapping[int, int]) -> float:
        return sum(n * forward[w] for w, n in of_rounds.items()) + sum(n * back[w] for w, n in of_steps.items())

    return cost(there, ranks) / cost({BATCH: shared.attempts}, {BATCH: len(shared.ends)})


def measure(name: str, field: nn.Module, y0: Tensor, rounds: int) -> list[Measured]:
    """Return a row for each spread of the rates, and print it."""
    rows = []
    for spread in SPREADS:
        for rates, of_samples in (
            ("one in eight hard", torch.where(torch.arange(BATCH) % 8 == 0, spread, 1.0)),
            ("evenly spread", torch.logspace(0, torch.log10(torch.tensor(spread)).item(), BATCH)),
        ):
            if spread == 1.0 and rates != "evenly spread":
                continue
            start = y0, of_samples[:, None]
            ratios, logs = [], [_Log(), _Log()]
            for _ in range(rounds + 1):
                logs = [_Log(), _Log()]
                seconds = [
                    gradient(make_solver("dopri5", rtol=1e-3, atol=1e-4, batch=batch).observed_by(log), field, start)
                    for batch, log in zip(("joint", "per_sample"), logs, strict=True)
                ]
                ratios.append(seconds[1] / seconds[0])
            counts = logs[1].counts
            if counts is None:
                raise RuntimeError("no rounds were heard of")
            calls = 2 + STAGES * (logs[0].attempts + len(logs[0].ends))
            taken = STAGES * max(counts.steps), STAGES * sum(counts.steps)
            row = Measured(
                name, rates, spread, min(counts.steps), max(counts.steps), len(logs[0].ends),
                (counts.calls(STAGES) + taken[0]) / calls, (counts.rows(STAGES) + taken[1]) / (BATCH * calls),
                statistics.median(ratios[1:]), alone(field, start, counts, logs[0], 2 * rounds + 1),
            )  # fmt: skip
            print(
                f"{name}, {rates}, spread {spread:g}: own steps {row.least} to {row.most}, shared {row.shared}; calls "
                f"{row.calls:.2f}, rows {row.rows:.2f}, time {row.seconds:.2f} (f alone {row.alone:.2f}) of those of "
                "shared steps",
                flush=True,
            )
            rows.append(row)
    return rows


def draw(rows: list[Measured]) -> Figure:
    """Return the figure: rows and times against the spread of the samples' steps; below 1 own steps pay."""
    looks = {"one in eight hard": "-", "evenly spread": "--"}
    colours = dict(zip(dict.fromkeys(row.field for row in rows), (style.BLUE, style.RED, style.GREEN), strict=False))
    markers = dict(zip(colours, "os^", strict=False))
    with style.applied():
        figure, grid = style.grid(1, 2, 2, 3.0)
        titles = "Rows", "Processor time (hollow: f alone)"
        for axis, value, title in zip(grid[0], ("rows", "seconds"), titles, strict=True):
            for field, colour in colours.items():
                for rates, line in looks.items():
                    mine = [r for r in rows if r.field == field and (r.rates == rates or r.spread == 1.0)]
                    xs, ys = [r.most / r.least for r in mine], [getattr(r, value) for r in mine]
                    marker = markers[field]
                    axis.plot(xs, ys, color=colour, linestyle=line, marker=marker, label=f"{field}, {rates}")
                    if value == "seconds":
                        floors = [r.alone for r in mine]
                        axis.plot(xs, floors, color=colour, linestyle="none", marker=marker, markerfacecolor="white")
            axis.axhline(1.0, color=style.BLACK, linewidth=1.0)
            axis.set_yscale("log")
            axis.set(title=title, xlabel="most steps of a sample / least", ylabel="own steps / shared steps")
            axis.set(ylim=(0.35, 2.6), yticks=[0.4, 0.6, 0.8, 1.0, 1.5, 2.0])
            axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            axis.yaxis.set_minor_locator(NullLocator())
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, handlelength=3.2)
    return figure


def main() -> None:
    """Time the three fields, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--draw", action="store_true", help="draw the records of an earlier run, and measure nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if given.draw:
        lines = given.records.read_text(encoding="utf-8").splitlines()
        rows = [Measured(**json.loads(line)) for line in lines]
    else:
        image = ImageField()
        rows = measure("convolutions, 64 x 12 x 12", image, torch.randn(BATCH, 64, 12, 12), given.rounds)
        rows += measure("convolutions, 64 x 6 x 6", image, torch.randn(BATCH, 64, 6, 6), given.rounds)
        rows += measure("tanh net 20-50-20", SmallNet(), torch.randn(BATCH, 20), given.rounds)
        if given.records is not None:
            given.records.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    if given.figure is not None:
        with style.applied():
            # Without its date, so that the same records are the same file.
            draw(rows).savefig(given.figure, metadata={"Date": None} if given.figure.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
