"""The table that fills while a sweep runs: methods down, tasks across, in each cell its state and its metric so far."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from odegrad.records.record import Record, Run, Status
from odegrad.reports.names import short, sort_key
from odegrad.reports.units import metric
from odegrad.running.tally import Tally
from odegrad.running.words import detail, found_in, iteration_time, log_end

CELL_WIDTH = 22
"""Characters of a task's column."""
SPACING = 3
"""Characters between two columns."""
LINES_AROUND = 7
"""Lines of the terminal that the table's head, its frame and the line below it take."""
LINES_OF_A_ROW = 2
"""Lines of a method that is being measured."""
BAR_WIDTH = 24

_ENDINGS: Mapping[Status, tuple[str, str]] = {
    Status.OK: ("ok", "green"),
    Status.UNSUPPORTED: ("refused", "yellow"),
    Status.INFRASTRUCTURE: ("to be repeated", "yellow"),
}
"""What a reader sees of a status, and its colour; every other one by its own name in red."""


@dataclass
class _Cell:
    """A method on a task: all of its seeds and settings."""

    runs: int = 0
    ended: Counter[Status] = field(default_factory=Counter)
    metrics: list[float] = field(default_factory=list)
    took: str = ""
    current: dict[str, str] = field(default_factory=dict)

    def lines(self) -> Text:
        """Return what the cell shows: its metric so far, how its runs ended, and what is measured now."""
        text = Text(no_wrap=True, overflow="ellipsis")
        count = self.ended.total()
        if self.metrics:
            low, high = metric(min(self.metrics)), metric(max(self.metrics))
            text.append(low if low == high else f"{low} - {high}", "bold")
        elif self.took and not count:
            text.append(f"{self.took}/iteration", "cyan")
        elif not self.current and not count:
            return text.append("waiting", "dim")
        for status, number in self.ended.items():
            word, colour = _ENDINGS.get(status, (str(status).replace("_", " "), "red"))
            of = f"/{self.runs}" if count < self.runs else ""
            text.append(f"{' ' if text else ''}{number}{of} {word}", colour)
        now = next(iter(self.current.values()), "")
        return text.append(f"{chr(10) if text else ''}{now}", "cyan") if now else text


class Board:
    """A watcher that draws a table: what is drawn fits the terminal, and what is measured now comes first."""

    def __init__(self, runs: Sequence[Run], tally: Tally) -> None:
        self.tally = tally
        self.methods = sorted({_method(run) for run in runs}, key=sort_key)
        self.tasks = list(dict.fromkeys(_task(run) for run in runs))
        self.cells: dict[tuple[str, str], _Cell] = {}
        self.metric_names: dict[str, str] = {}
        for run in runs:
            self._cell(run).runs += 1

    def started(self, run: Run) -> None:
        """Show ``run`` as current."""
        self.tally.started()
        self._current(run, f"seed {run.seed}")

    def heard(self, run: Run, message: Mapping[str, object]) -> None:
        """Show what ``run`` reports."""
        self.tally.heard(run, message)
        self._current(run, f"seed {run.seed}: {detail(message)}")
        self._cell(run).took = iteration_time(found_in(message)) or self._cell(run).took

    def paused(self, run: Run) -> None:
        """Show ``run`` as current no longer."""
        cell = self._cell(run)
        cell.current = {name: line for name, line in cell.current.items() if name != run.run_id}

    def finished(self, record: Record) -> None:
        """Count the run and show its metric; log it if it failed."""
        self.tally.finished(record.run)
        self.paused(record.run)
        self.note(record.run, {"status": str(record.status), **record.measured})
        if record.status is not Status.OK:
            log_end(record)

    def note(self, run: Run, row: Mapping[str, object]) -> None:
        """Show how ``run`` ended, by its row."""
        cell, value = self._cell(run), row.get("metric_value")
        cell.ended[Status(str(row["status"]))] += 1
        if isinstance(value, float):
            cell.metrics.append(value)
            arrow = {True: " ↑", False: " ↓"}.get(row.get("metric_higher_is_better"), "")  # type: ignore[call-overload]
            self.metric_names[_task(run)] = f"{row.get('metric_name')}{arrow}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table as far as it fits, and the line of what is left."""
        width = max(map(len, self.methods), default=0) + SPACING + 1
        tasks = self._shown(self.tasks, 1, (options.max_width - width) // (CELL_WIDTH + SPACING))
        methods = self._shown(self.methods, 0, (console.height - LINES_AROUND) // LINES_OF_A_ROW)
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("method", no_wrap=True)
        for task in tasks:
            table.add_column(Text(f"{task}\n{self.metric_names.get(task, '')}"), width=CELL_WIDTH, no_wrap=True)
        for method in methods:
            table.add_row(Text(method), *(self._lines(method, task) for task in tasks))
        yield table
        hidden = [
            f"{len(shown)} of {len(everything)} {what} shown"
            for shown, everything, what in ((tasks, self.tasks, "tasks"), (methods, self.methods, "methods"))
            if len(shown) < len(everything)
        ]
        below = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(1, self.tally.turns), completed=self.tally.turned, width=BAR_WIDTH)
        below.add_row(bar, Text("; ".join([self.tally.words(), *hidden])))
        yield below

    def _lines(self, method: str, task: str) -> Text:
        cell = self.cells.get((method, task))
        return Text("") if cell is None else cell.lines()

    def _shown(self, names: list[str], axis: int, most: int) -> list[str]:
        """Return at most ``most`` neighbours of ``names``, from the first that is measured now or is open yet."""
        most = max(1, most)
        if len(names) <= most:
            return names
        busy = {key[axis] for key, cell in dict(self.cells).items() if cell.current}
        open_yet = {key[axis] for key, cell in dict(self.cells).items() if cell.ended.total() < cell.runs}
        first = next((i for i, name in enumerate(names) if name in (busy or open_yet)), 0)
        first = min(first, len(names) - most)
        return names[first : first + most]

    def _cell(self, run: Run) -> _Cell:
        return self.cells.setdefault((_method(run), _task(run)), _Cell())

    def _current(self, run: Run, line: str) -> None:
        cell = self._cell(run)
        cell.current = cell.current | {run.run_id: line}


def _method(run: Run) -> str:
    return short(run.method or run.gradient)


def _task(run: Run) -> str:
    return f"{short(run.task)} {run.size}"
