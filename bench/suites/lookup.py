"""Looks up every name in a suite and tries every option, so that a mistake is answered before anything runs."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from odegrad.contracts import Problem, Training
from odegrad.errors import OdegradError, SuiteError, UnknownNameError, UnsupportedError, UsageError
from odegrad.methods.regularisers.chosen import Regularisers, check_regularised
from odegrad.processes.guarded import guarded
from odegrad.records.record import EVALUATIONS, Run
from odegrad.registry import build_gradient, build_optimizer, build_solver, build_task, is_foreign, optimizers
from odegrad.suites.grid import MethodCell, SolverCell, TaskCell, method_cells, rule_fields, solver_cells
from odegrad.suites.schema import SuiteFile, TaskEntry


def located(name: str, folder: Path) -> str:
    """Return ``name``, with the file in ``file.py:Class`` looked up in ``folder`` if it is relative."""
    return str(folder / Path(name).expanduser()) if ".py:" in name else name


LOOK_UP_SECONDS = 600.0
"""How long files of a user's own may take to be looked up, unless told otherwise."""


def look_up(
    content: SuiteFile, source: str, folder: Path, timeout: float | None = None
) -> tuple[tuple[MethodCell, ...], tuple[SolverCell, ...], tuple[TaskCell, ...]]:
    """Return the methods, solvers and tasks that the suite expands to, with everything in it tried.

    A task is built, on the CPU, only where a method brings options for its optimizer: those are tried on a model. Where
    the suite names code that is not odegrad's own, all that is done in a measuring process.

    Raises
    ------
    SuiteError
        If a name is unknown, an option is refused, two methods are shown under one name, or methods do not have the
        same number of trials; says ``source`` and key.
    UsageError
        If a user's file ends the process that looks it up, or takes longer than ``timeout`` seconds.
    """
    names = [name for entry in content.methods for name in (entry.gradient, entry.optimizer)]
    names += [entry.name for entry in content.optimizers] + [entry.name for entry in content.tasks]
    if is_foreign(*names):
        stated = guarded(
            f"{__name__}:try_everything", content, source, str(folder),
            what=f"{source}: looking up {', '.join(dict.fromkeys(n for n in names if n and is_foreign(n)))}",
            timeout=LOOK_UP_SECONDS if timeout is None else timeout, threads=1,
        )  # fmt: skip
    else:
        stated = try_everything(content, source, str(folder), lambda _message: None)
    entries = [(place, entry, size) for place, entry in enumerate(content.tasks) for size in entry.size]
    tasks = tuple(
        TaskCell(entry, size, _training(said), place)
        for (place, entry, size), said in zip(entries, stated, strict=True)
    )
    methods = [cell for place in range(len(content.methods)) for cell in method_cells(content, place)]
    return tuple(methods), solver_cells(content), tasks


def try_everything(content: SuiteFile, source: str, folder: str, _progress: object) -> list[dict[str, object]]:
    """Try everything that the suite names; return what each task, at each of its sizes, states of its training.

    Raises
    ------
    SuiteError
        As ``look_up`` raises it.
    """
    methods, tasks = _tried(content, source, Path(folder))
    _refuse_twins(content, methods, solver_cells(content), tasks, source)
    _check_tuning(content, methods, source)
    _check_passes(content, source)
    _check_rules(content, source)
    return [_stated(task.training) for task in tasks]


def _stated(training: Training) -> dict[str, object]:
    """Return what a task states as plain data."""
    return {
        **training.__dict__,
        "optimizers": {name: dict(options) for name, options in training.optimizers.items()},
        "schedule": {str(start): factor for start, factor in training.schedule.items()},
    }


def _training(stated: Mapping[str, Any]) -> Training:
    """Return what ``_stated`` made plain."""
    return Training(**{**stated, "schedule": {int(start): factor for start, factor in stated["schedule"].items()}})


def _tried(content: SuiteFile, source: str, folder: Path) -> tuple[list[MethodCell], list[TaskCell]]:
    """Return methods and tasks, with every name looked up and every option tried."""
    tasks = []
    for place, entry in enumerate(content.tasks):
        with _blamed(f"{source}: tasks.{place} ({entry.name})"):
            tasks += [_task(entry, size, folder, place) for size in entry.size]
    for place, solver in enumerate(content.solvers):
        with _blamed(f"{source}: solvers.{place} ({solver.name})"):
            if "precision" in solver.options:
                raise UsageError(
                    "precision: it is an axis of the suite, by which results are told apart, and no option of a "
                    f"solver; write precision = {json.dumps(solver.options['precision'])} at the top of the file"
                )
            build_solver(solver.name, solver.rtol, solver.atol, solver.options)
    methods: list[MethodCell] = []
    for place, method_entry in enumerate(content.methods):
        with _blamed(f"{source}: methods.{place} ({method_entry.shown})"):
            methods += method_cells(content, place)
    problems = [_builder(task, folder) for task in tasks]
    for method in methods:
        with _blamed(f"{source}: methods.{method.place} ({method.shown})"):
            _try_method(method, tasks, problems, folder)
    return methods, tasks


@contextlib.contextmanager
def _blamed(place: str) -> Iterator[None]:
    """Turn whatever is raised inside into a SuiteError that names ``place``; a user's own file may raise anything."""
    try:
        yield
    except (Exception, SystemExit) as error:
        text = str(error) if isinstance(error, OdegradError) else f"{type(error).__name__}: {error}"
        raise SuiteError(f"{place}: {text}") from error


def _task(entry: TaskEntry, size: str, folder: Path, place: int) -> TaskCell:
    task = build_task(located(entry.name, folder))
    if size not in task.info.sizes:
        raise UnknownNameError(f"size of task {entry.name!r}", size, task.info.sizes)
    return TaskCell(entry, size, task.training(size), place)


def _builder(cell: TaskCell, folder: Path) -> Callable[[], Problem]:
    """Return a function that builds the task at its first call."""

    @cache
    def build() -> Problem:
        return build_task(located(cell.entry.name, folder)).build(cell.size, 0, torch.device("cpu"), torch.float32)

    return build


def _try_method(
    method: MethodCell, tasks: Sequence[TaskCell], problems: Sequence[Callable[[], Problem]], folder: Path
) -> None:
    if method.optimizer is not None:
        optimizers.get(located(method.optimizer, folder))
    for point in method.points:
        made = build_gradient(located(method.gradient, folder), dict(point.gradient_options))
        with contextlib.suppress(UnsupportedError):  # a refusal becomes a row of the results
            check_regularised(made, Regularisers.of(dict(point.regulariser_options)))
        for task, build in zip(tasks, problems, strict=True) if point.optimizer_options else ():
            name = method.optimizer or task.training.default_optimizer
            with contextlib.suppress(UnsupportedError):  # a refusal becomes a row of the results
                build_optimizer(located(name, folder), build(), dict(point.optimizer_options))


def _refuse_twins(
    content: SuiteFile,
    methods: Sequence[MethodCell],
    solvers: Sequence[SolverCell],
    tasks: Sequence[TaskCell],
    source: str,
) -> None:
    """Refuse entries that would give the same run twice, or two methods that a table could not tell apart."""
    axes: dict[str, list[tuple[object, int]]] = {
        "methods": [(method.shown, method.place) for method in methods],
        "solvers": [((s.name, s.rtol, s.atol, s.options), i) for i, s in enumerate(solvers)],
        "tasks": [((task.entry.name, task.size), task.place) for task in tasks],
        "seeds": [(seed, i) for i, seed in enumerate(content.seeds)],
        "devices": [(device, i) for i, device in enumerate(content.devices)],
        "dtype": [(dtype, i) for i, dtype in enumerate(content.dtype)],
        "precision": [(precision, i) for i, precision in enumerate(content.precision)],
    }
    for key, entries in axes.items():
        known: dict[object, int] = {}
        for value, place in entries:
            if value in known:
                raise SuiteError(
                    f"{source}: {key}.{place}: expected entries that differ, got the same as {key}."
                    f"{known[value]}; leave one out, or give a method a name of its own"
                )
            known[value] = place


def _check_tuning(content: SuiteFile, methods: Sequence[MethodCell], source: str) -> None:
    """Refuse unequal numbers of trials, which favour a method, a seed that counts, and a loss that is not recorded."""
    if content.tuning is None:
        return
    if content.tuning.seed in content.seeds:
        raise SuiteError(
            f"{source}: tuning.seed: expected a seed that no run has, got {content.tuning.seed}, which is one of "
            "seeds; choose another one"
        )
    if content.tuning.by == "loss" and content.evaluations <= EVALUATIONS:
        raise SuiteError(
            f"{source}: evaluations: expected more than {EVALUATIONS} where tuning is by loss, got "
            f"{content.evaluations}; set evaluations = 20 or so, which records the loss on the validation split"
        )
    numbers = {method.shown: len(method.points) for method in methods}
    if len(set(numbers.values())) > 1:
        told = ", ".join(f"{name} {number}" for name, number in numbers.items())
        raise SuiteError(
            f"{source}: tuning: expected the same number of trials for every method, got {told}; lengthen or shorten "
            "the lists in their options"
        )


def _check_passes(content: SuiteFile, source: str) -> None:
    """Refuse a diagnosis without the training whose states it looks at."""
    if "diagnose" in content.passes and "train" not in content.passes:
        raise SuiteError(
            f"{source}: passes: expected 'train' where there is 'diagnose', which looks at the states that the "
            "training leaves; add it"
        )


def _check_rules(content: SuiteFile, source: str) -> None:
    """Refuse a rule about something that is no field of a run."""
    for key in ("include", "exclude"):
        for place, rule in enumerate(getattr(content, key)):
            for field in rule:
                name, dot, _ = field.partition(".")
                options = {f for f in Run.__dataclass_fields__ if f.endswith("_options")}
                if name not in rule_fields() or bool(dot) != (name in options):
                    known = [each if each not in options else f"{each}.NAME" for each in rule_fields()]
                    raise SuiteError(f"{source}: {key}.{place}: {UnknownNameError('field of a run', field, known)}")
