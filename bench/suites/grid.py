"""The axes of a suite: what its lists of options, optimizers, tolerances, sizes and rules expand to."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from odegrad.contracts import Training
from odegrad.errors import SuiteError
from odegrad.records.record import Options, Run, freeze_options
from odegrad.registry import resolve_method
from odegrad.suites.schema import MethodEntry, OptimizerEntry, RegulariserEntry, Rule, SuiteFile, TaskEntry

_OPTIONS = ("gradient_options", "optimizer_options", "regulariser_options")
NO_REGULARISER = "none"
"""The entry of the regularisers that stands for a training without."""


@dataclass(frozen=True)
class Point:
    """One choice of a method's options."""

    gradient_options: Options = ()
    optimizer_options: Options = ()
    regulariser_options: Options = ()


@dataclass(frozen=True)
class MethodCell:
    """A method as it stands in a table: gradient method, optimizer, and the options that it may be run with."""

    shown: str
    gradient: str
    optimizer: str | None
    """None: the task's default."""
    points: tuple[Point, ...]
    """One, unless the suite tunes: then one a trial."""
    place: int
    """Of its entry in the suite file."""


@dataclass(frozen=True)
class SolverCell:
    """A solver at its tolerances."""

    name: str
    options: Options
    rtol: float
    atol: float
    swept: bool
    """Whether the tolerances are an axis of the suite, which a task's own do not override."""


@dataclass(frozen=True)
class TaskCell:
    """A task at one size."""

    entry: TaskEntry
    size: str
    training: Training
    place: int
    """Of its entry in the suite file."""


MAX_SUITE_RUNS = 1_000_000
"""Of a suite; a larger grid is a slip of the pen."""


def count_runs(content: SuiteFile) -> int:
    """Return how many runs and trials the suite expands to before its rules, without expanding it."""
    penalties = sum(math.prod(map(len, each.options.values())) for each in content.regularisers) or 1
    methods = 0
    for entry in content.methods:
        own = math.prod(map(len, [*entry.gradient_options.values(), *entry.optimizer_options.values()]))
        crossed = content.optimizers if entry.optimizer is None else []
        options = ({k: v for k, v in o.options.items() if k not in entry.optimizer_options} for o in crossed)
        methods += own * (sum(math.prod(map(len, each.values())) for each in options) or 1) * penalties
    solvers = len(content.solvers) * (len(content.tolerances) or 1)
    tasks = sum(len(task.size) for task in content.tasks)
    types = len(content.dtype) * len(content.precision)
    return methods * solvers * tasks * len(content.seeds) * (len(content.devices) or 1) * types


def check_count(content: SuiteFile, source: str) -> None:
    """Refuse a grid that is too large, before it is expanded.

    Raises
    ------
    SuiteError
        If there are more than ``MAX_SUITE_RUNS``.
    """
    count = count_runs(content)
    if count > MAX_SUITE_RUNS:
        raise SuiteError(
            f"{source}: expected at most {MAX_SUITE_RUNS:,} runs, got {count:,} before include and exclude; shorten "
            "the lists of options, seeds, tolerances or sizes"
        )


def method_cells(content: SuiteFile, place: int) -> list[MethodCell]:
    """Return what the entry ``methods.place`` expands to: optimizers x regularisers x options.

    Without tuning every point of a grid of options is a method of its own, with the options in its name.

    Raises
    ------
    UnknownNameError
        If there is no such method.
    """
    entry = content.methods[place]
    gradient, paired = resolve_method(entry.gradient)
    fixed = entry.optimizer or paired
    crossed: Sequence[OptimizerEntry | None] = [None] if fixed or not content.optimizers else content.optimizers
    penalties: Sequence[RegulariserEntry | None] = content.regularisers or [None]
    cells = []
    for each, penalty in itertools.product(crossed, penalties):
        shown, optimizer = (entry.shown, fixed) if each is None else (f"{entry.shown}+{each.name}", each.name)
        if penalty is not None and penalty.name != NO_REGULARISER:
            shown = f"{shown}+{penalty.name}"
        named = list(_points(entry, each, penalty))
        if content.tuning is not None:
            cells.append(MethodCell(shown, gradient, optimizer, tuple(point for _, point in named), place))
        else:
            cells += [
                MethodCell(" ".join((shown, *words)), gradient, optimizer, (point,), place) for words, point in named
            ]
    return cells


def _points(
    entry: MethodEntry, optimizer: OptimizerEntry | None, penalty: RegulariserEntry | None
) -> Iterator[tuple[tuple[str, ...], Point]]:
    """Yield every choice of options, with the words that tell it from the others."""
    of_optimizer = {**(optimizer.options if optimizer else {}), **entry.optimizer_options}
    axes = [
        (kind, key, values)
        for kind, options in zip(
            _OPTIONS, (entry.gradient_options, of_optimizer, penalty.options if penalty else {}), strict=True
        )
        for key, values in options.items()
    ]
    for values in itertools.product(*(choices for _, _, choices in axes)):
        chosen: dict[str, dict[str, Any]] = {kind: {} for kind in _OPTIONS}
        words = []
        for (kind, key, choices), value in zip(axes, values, strict=True):
            chosen[kind][key] = value
            if len(choices) > 1:
                words.append(f"{key}={value}")
        yield tuple(words), Point(*(freeze_options(chosen[kind]) for kind in _OPTIONS))


def solver_cells(content: SuiteFile) -> tuple[SolverCell, ...]:
    """Return the solvers: entries x tolerances."""
    cells = []
    for entry in content.solvers:
        swept = [(each.rtol, each.atol) for each in content.tolerances]
        for rtol, atol in swept or [(entry.rtol, entry.atol)]:
            cells.append(SolverCell(entry.name, freeze_options(entry.options), rtol, atol, bool(swept)))
    return tuple(cells)


@dataclass(frozen=True)
class Picker:
    """The rules of a suite: ``include`` picks the runs, all of them if it is empty; ``exclude`` drops some."""

    include: tuple[Rule, ...]
    exclude: tuple[Rule, ...]

    def __call__(self, run: Run) -> bool:
        """Return whether ``run`` belongs to the suite."""
        if self.include and not any(picks(rule, run) for rule in self.include):
            return False
        return not any(picks(rule, run) for rule in self.exclude)


def picks(rule: Rule, run: Run) -> bool:
    """Return whether every field that ``rule`` names has, in ``run``, one of its values."""
    return all(_matches(_value_of(run, key), wanted) for key, wanted in rule.items())


def _value_of(run: Run, key: str) -> object:
    """Return a field of the run, or one of its options (``gradient_options.num_nodes``); None if it has no such one."""
    name, dot, option = key.partition(".")
    value = getattr(run, name)
    return dict(value).get(option) if dot else value


def _matches(value: object, wanted: Sequence[object]) -> bool:
    return any(fnmatchcase(value, w) if isinstance(value, str) and isinstance(w, str) else value == w for w in wanted)


def rule_fields() -> dict[str, object]:
    """Return the fields of a run that a rule may name."""
    fields: Mapping[str, object] = Run.__dataclass_fields__
    return {name: field for name, field in fields.items() if name not in {"suite", "stage", "passes", "code"}}
