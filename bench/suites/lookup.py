"""Looks up every name in a suite and tries every option, so that a mistake is answered before anything runs."""

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch

from odegrad.contracts import Problem, Training
from odegrad.errors import OdegradError, SuiteError, UnknownNameError, UnsupportedError
from odegrad.registry import build_gradient, build_optimizer, build_solver, build_task, optimizers, resolve_method
from odegrad.suites.schema import MethodEntry, SolverEntry, SuiteFile, TaskEntry


def located(name: str, folder: Path) -> str:
    """Return ``name``, with the file in ``file.py:Class`` looked up in ``folder`` if it is relative."""
    return str(folder / Path(name).expanduser()) if ".py:" in name else name


def look_up(content: SuiteFile, source: str, folder: Path) -> tuple[Training, ...]:
    """Return how each task of the suite is trained, with everything else in the suite tried.

    A task is built, on the CPU, only where a method brings options for its optimizer: those are tried on a model.

    Raises
    ------
    SuiteError
        If a name is unknown, an option is refused, or two methods are shown under one name; says ``source`` and key.
    """
    trainings, problems = [], []
    for place, task in enumerate(content.tasks):
        with _blamed(f"{source}: tasks.{place}"):
            trainings.append(_training(task, folder))
        problems.append(_builder(task, folder))
    for place, solver in enumerate(content.solvers):
        with _blamed(f"{source}: solvers.{place}"):
            build_solver(solver.name, solver.rtol, solver.atol, solver.options)
    for place, method in enumerate(content.methods):
        with _blamed(f"{source}: methods.{place}"):
            _try_method(method, trainings, problems, folder)
    _refuse_twins(content, source)
    return tuple(trainings)


@contextlib.contextmanager
def _blamed(place: str) -> Iterator[None]:
    """Turn whatever is raised inside into a SuiteError that names ``place``; a user's own file may raise anything."""
    try:
        yield
    except Exception as error:
        text = str(error) if isinstance(error, OdegradError) else f"{type(error).__name__}: {error}"
        raise SuiteError(f"{place}: {text}") from error


def _training(entry: TaskEntry, folder: Path) -> Training:
    task = build_task(located(entry.name, folder))
    if entry.size not in task.info.sizes:
        raise UnknownNameError(f"size of task {entry.name!r}", entry.size, task.info.sizes)
    return task.training(entry.size)


def _builder(entry: TaskEntry, folder: Path) -> Callable[[], Problem]:
    """Return a function that builds the task at its first call."""

    @cache
    def build() -> Problem:
        return build_task(located(entry.name, folder)).build(entry.size, 0, torch.device("cpu"), torch.float32)

    return build


def _try_method(
    entry: MethodEntry, trainings: list[Training], problems: list[Callable[[], Problem]], folder: Path
) -> None:
    gradient, optimizer = resolve_method(entry.gradient)
    build_gradient(located(gradient, folder), entry.gradient_options)
    optimizer = entry.optimizer or optimizer
    if optimizer is not None:
        optimizers.get(located(optimizer, folder))
    for training, build in zip(trainings, problems, strict=True) if entry.optimizer_options else ():
        name = optimizer or training.default_optimizer
        with contextlib.suppress(UnsupportedError):  # a refusal becomes a row of the results
            build_optimizer(located(name, folder), build(), entry.optimizer_options)


def _refuse_twins(content: SuiteFile, source: str) -> None:
    """Refuse entries that would give the same run twice, or two methods that a table could not tell apart."""
    entries: dict[str, list[object]] = {
        "methods": [method.shown for method in content.methods],
        "solvers": [_solver_key(solver) for solver in content.solvers],
        "tasks": [(task.name, task.size) for task in content.tasks],
        "seeds": list(content.seeds),
    }
    for key, values in entries.items():
        for place, value in enumerate(values):
            if value in values[:place]:
                raise SuiteError(
                    f"{source}: {key}.{place}: expected entries that differ, got the same as {key}."
                    f"{values.index(value)}; leave one out, or give a method a name of its own"
                )


def _solver_key(solver: SolverEntry) -> tuple[object, ...]:
    return solver.name, solver.rtol, solver.atol, tuple(sorted(solver.options.items()))
