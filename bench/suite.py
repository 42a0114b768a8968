"""Suites: a TOML file to a frozen ``Suite`` to runs; everything a user typed is checked here, before anything runs."""

import hashlib
import importlib.resources
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from odegrad.contracts import Training
from odegrad.errors import SuiteError, UnknownNameError
from odegrad.record import Run, freeze_options
from odegrad.registry import code_fingerprint, resolve_method
from odegrad.suites.lookup import located, look_up
from odegrad.suites.schema import MethodEntry, SolverEntry, SuiteFile, TaskEntry, validate

PER_TASK = ("size", "rtol", "atol", "iterations")
"""Keys that an override sets for every task."""

TOP = tuple(key for key in SuiteFile.model_fields if key not in {"name", "tasks", "solvers"})
"""Keys at the top of a suite file that an override sets."""


@dataclass(frozen=True)
class Suite:
    """A checked suite: methods x solvers x tasks x seeds.

    Parameters
    ----------
    content
        What the file says, overrides included.
    trainings
        How each of its tasks is trained.
    folder
        Where relative names such as ``my_method.py:MyMethod`` are looked up.
    """

    content: SuiteFile
    trainings: tuple[Training, ...]
    folder: Path

    @property
    def name(self) -> str:
        """Return the suite's name."""
        return self.content.name

    @property
    def digest(self) -> str:
        """Return a hash of the content: 16 hexadecimal digits."""
        return hashlib.sha256(self.content.model_dump_json().encode()).hexdigest()[:16]

    def runs(self, device: str = "cpu") -> list[Run]:
        """Return every run in the order of execution, on ``device`` (``cpu`` or ``cuda``).

        The order is one of randomised complete blocks: a block holds every method for one (seed, task, solver), in
        random order, so that a drift of the machine does not always hit the same method. The order depends on
        nothing but the suite's name and the block.
        """
        return list(self._blocks(device))

    def _blocks(self, device: str) -> Iterator[Run]:
        @cache
        def fingerprint(*names: str) -> str:
            return code_fingerprint(*(located(name, self.folder) for name in names))

        pairs = {method.shown: resolve_method(method.gradient) for method in self.content.methods}
        for seed in self.content.seeds:
            for task, training in zip(self.content.tasks, self.trainings, strict=True):
                for place, solver in enumerate(self.content.solvers):
                    order = random.Random(f"{self.name}/{seed}/{task.name}/{task.size}/{place}")  # noqa: S311
                    for method in order.sample(self.content.methods, len(self.content.methods)):
                        gradient, optimizer = pairs[method.shown]
                        optimizer = method.optimizer or optimizer or training.default_optimizer
                        yield Run(
                            **_of_method(method),
                            **_of_task(task, solver, training),
                            suite=self.name,
                            gradient=gradient,
                            optimizer=optimizer,
                            seed=seed,
                            device=device,
                            dtype=self.content.dtype,
                            code=fingerprint(gradient, optimizer, task.name),
                        )


def _of_method(method: MethodEntry) -> dict[str, Any]:
    return {
        "method": method.shown,
        "gradient_options": freeze_options(method.gradient_options),
        "optimizer_options": freeze_options(method.optimizer_options),
    }


def _of_task(task: TaskEntry, solver: SolverEntry, training: Training) -> dict[str, Any]:
    """Return a run's task and solver; a task's own tolerances and iterations win over the solver's and the default."""
    return {
        "task": task.name,
        "size": task.size,
        "iterations": task.iterations or training.iterations,
        "solver": solver.name,
        "solver_options": freeze_options(solver.options),
        "rtol": solver.rtol if task.rtol is None else task.rtol,
        "atol": solver.atol if task.atol is None else task.atol,
    }


def suite_names() -> list[str]:
    """Return the names of the suites that come with odegrad."""
    files = importlib.resources.files("odegrad.suites").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def suite_description(name: str) -> str:
    """Return what the suite ``name``, one that comes with odegrad, says about itself."""
    return str(read_suite(name)[0].get("description", ""))


def read_suite(name_or_path: str) -> tuple[dict[str, Any], str, Path]:
    """Return a suite's unchecked data, the file's name, and the folder of its relative names.

    A path ends in ``.toml``; a suite that comes with odegrad has the current folder.

    Raises
    ------
    UnknownNameError
        If there is no suite of that name.
    SuiteError
        If there is no such file, or it is not TOML.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise SuiteError(f"suite {name_or_path!r}: expected a file or one of {suite_names()}, got no such file")
        source, folder, text = name_or_path, path.parent.resolve(), path.read_text(encoding="utf-8")
    elif name_or_path in suite_names():
        source, folder = f"{name_or_path}.toml", Path.cwd()
        text = importlib.resources.files("odegrad.suites").joinpath(source).read_text(encoding="utf-8")
    else:
        raise UnknownNameError("suite", name_or_path, suite_names())
    try:
        return tomllib.loads(text), source, folder
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"{source}: expected TOML: {error}") from error


def load_suite(name_or_path: str, overrides: Sequence[str] = ()) -> Suite:
    """Return the checked suite of that name, or in that ``.toml`` file.

    Parameters
    ----------
    name_or_path
        ``quick``, or a path to a TOML file.
    overrides
        ``key=value`` texts, the value as in TOML; ``size``, ``rtol``, ``atol`` and ``iterations`` are set for every
        task, any other key at the top of the file.

    Raises
    ------
    UnknownNameError
        If there is no suite of that name.
    SuiteError
        If a key, type, value or name in the suite is wrong; the message names the file and the key.
    """
    data, source, folder = read_suite(name_or_path)
    content = validate(override(data, overrides), source)
    return Suite(content, look_up(content, source, folder), folder)


def override(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the suite file's ``data`` with ``key=value`` texts applied.

    Raises
    ------
    SuiteError
        If a text is no ``key=value``, or names a key that cannot be set.
    """
    out = dict(data)
    for text in overrides:
        key, equals, written = (part.strip() for part in text.partition("="))
        if not equals or key not in {*PER_TASK, *TOP}:
            allowed = ", ".join(sorted({*PER_TASK, *TOP}))
            raise SuiteError(f"--set {text}: expected KEY=VALUE with one of the keys {allowed}")
        try:
            value: Any = tomllib.loads(f"value = {written}")["value"]
        except tomllib.TOMLDecodeError:
            value = written  # a word without quotes, such as float64
        if key in PER_TASK:
            out["tasks"] = [{**task, key: value} for task in out.get("tasks", [])]
        else:
            out[key] = value
    return out
