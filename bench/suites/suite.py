"""Suites: a TOML file to a frozen ``Suite`` to runs; everything a user typed is checked here, before anything runs."""

import hashlib
import itertools
import random
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from odegrad.errors import SuiteError, UnknownNameError
from odegrad.records.record import PASSES, TUNING, Run
from odegrad.suites.grid import MethodCell, Picker, Point, SolverCell, TaskCell, check_count
from odegrad.suites.lookup import located, look_up
from odegrad.suites.schema import SuiteFile, TuningEntry, validate
from odegrad.suites.shipped import read_suite
from odegrad.user.files import code_fingerprint

PER_TASK = ("size", "rtol", "atol", "iterations")
"""Keys that an override sets for every task."""

TOP = tuple(key for key in SuiteFile.model_fields if key not in {"name", "tasks", "solvers"})
"""Keys at the top of a suite file that an override sets."""

TUNED = tuple(f"tuning.{key}" for key in TuningEntry.model_fields)
"""Keys of the tuning that an override sets."""


GridCell = tuple[object, ...]
"""What tells one method on one task from another, whatever the seed."""


def cell_of(run: Run) -> GridCell:
    """Return the cell of the grid that ``run`` stands in, its seed, stage and tuned options left out."""
    return (
        run.method, run.task, run.size, run.solver, run.solver_options, run.rtol, run.atol, run.device, run.dtype,
    )  # fmt: skip


@dataclass(frozen=True)
class Suite:
    """A checked suite: methods x solvers x tasks x seeds x devices x floating-point types.

    Parameters
    ----------
    content
        What the file says, overrides included.
    methods
        Gradient method, optimizer and options of each row.
    solvers
        Solvers at their tolerances.
    tasks
        Its tasks, at one size each, with how they are trained.
    folder
        Where relative names such as ``my_method.py:MyMethod`` are looked up.
    """

    content: SuiteFile
    methods: tuple[MethodCell, ...]
    solvers: tuple[SolverCell, ...]
    tasks: tuple[TaskCell, ...]
    folder: Path

    @property
    def name(self) -> str:
        """Return the suite's name."""
        return self.content.name

    @property
    def digest(self) -> str:
        """Return a hash of the content: 16 hexadecimal digits."""
        return hashlib.sha256(self.content.model_dump_json().encode()).hexdigest()[:16]

    @property
    def tuned(self) -> bool:
        """Return whether settings are chosen by trials before the runs that count."""
        return self.content.tuning is not None

    @property
    def tuned_by(self) -> Literal["metric", "loss"]:
        """Return what the trials are judged by."""
        return "metric" if self.content.tuning is None else self.content.tuning.by

    def runs(self, device: str = "cpu", settings: Mapping[GridCell, Point] | None = None) -> list[Run]:
        """Return every run that counts, in the order of execution.

        The order is one of randomised complete blocks: a block holds every method for one (seed, task, solver), in
        random order, so that a drift of the machine does not always hit the same method. The order depends on
        nothing but the suite's name and the block.

        Parameters
        ----------
        device
            ``cpu`` or ``cuda``, unless the suite names its devices.
        settings
            Of a suite that tunes: the point that its trials chose for each cell; without one, the first of the grid.
        """
        chosen = settings or {}

        def points(method: MethodCell, fields: Mapping[str, Any]) -> Sequence[Point]:
            if len(method.points) == 1:
                return method.points
            place = cell_of(Run(**fields))
            return (chosen.get(place, method.points[0]),)

        return list(self._blocks(device, self.content.seeds, points, {}))

    def trials(self, device: str = "cpu") -> list[Run]:
        """Return the trials that choose settings, one a point of each method's grid; none if the suite does not tune.

        A trial is trained with the seed of the tuning, only trained, and judged on the validation split.
        """
        tuning = self.content.tuning
        if tuning is None:
            return []
        changes: dict[str, object] = {"stage": TUNING, "passes": "train"}
        if tuning.iterations is not None:
            changes["iterations"] = tuning.iterations
        return list(self._blocks(device, [tuning.seed], lambda method, _: method.points, changes))

    def _blocks(
        self,
        device: str,
        seeds: Sequence[int],
        points: Callable[[MethodCell, Mapping[str, object]], Sequence[Point]],
        changes: Mapping[str, object],
    ) -> Iterator[Run]:
        belongs = Picker(tuple(self.content.include), tuple(self.content.exclude))
        devices: Sequence[str] = self.content.devices or [device]

        @cache
        def fingerprint(*names: str) -> str:
            return code_fingerprint(*(located(name, self.folder) for name in names))

        types = list(itertools.product(self.content.dtype, self.content.precision))
        for seed, where, (dtype, precision) in itertools.product(seeds, devices, types):
            for task, (place, solver) in itertools.product(self.tasks, enumerate(self.solvers)):
                order = random.Random(f"{self.name}/{seed}/{task.entry.name}/{task.size}/{place}")  # noqa: S311
                fields = self._of_block(task, solver)
                fields |= {"seed": seed, "device": where, "dtype": dtype, "precision": precision}
                for method in order.sample(self.methods, len(self.methods)):
                    optimizer = method.optimizer or task.training.default_optimizer
                    mine = fields | {
                        "method": method.shown,
                        "gradient": method.gradient,
                        "optimizer": optimizer,
                        "code": fingerprint(method.gradient, optimizer, task.entry.name),
                    }
                    for point in points(method, mine):
                        run = Run(**{**mine, **point.__dict__, **changes})
                        if belongs(run):
                            yield run

    def _of_block(self, task: TaskCell, solver: SolverCell) -> dict[str, object]:
        """Return what a block's runs share; a task's own tolerances win over the solver's, but not over a sweep's."""
        entry, wanted = task.entry, tuple(name for name in PASSES if name in self.content.passes)
        return {
            "suite": self.name,
            "task": entry.name,
            "size": task.size,
            "iterations": entry.iterations or task.training.iterations,
            "solver": solver.name,
            "solver_options": solver.options,
            "rtol": solver.rtol if entry.rtol is None or solver.swept else entry.rtol,
            "atol": solver.atol if entry.atol is None or solver.swept else entry.atol,
            "passes": "" if wanted in {(), PASSES} else ",".join(wanted),
            "evaluations": self.content.evaluations,
        }


def load_suite(name_or_path: str, overrides: Sequence[str] = (), timeout: float | None = None) -> Suite:
    """Return the checked suite of that name, or in that ``.toml`` file.

    Parameters
    ----------
    name_or_path
        ``quick``, or a path to a TOML file.
    overrides
        ``key=value`` texts, the value as in TOML; ``size``, ``rtol``, ``atol`` and ``iterations`` are set for every
        task, ``tuning.iterations`` and the like for the tuning, any other key at the top of the file.
    timeout
        Seconds that files of a user's own may take to be looked up; None: ``LOOK_UP_SECONDS``.

    Raises
    ------
    UnknownNameError
        If there is no suite of that name.
    SuiteError
        If a key, type, value or name in the suite is wrong; the message names the file and the key.
    UsageError
        If a user's file ends the process that looks it up, or takes too long.
    """
    data, source, folder = read_suite(name_or_path)
    content = validate(override(data, overrides), source)
    check_count(content, source)
    methods, solvers, tasks = look_up(content, source, folder, timeout)
    return Suite(content, methods, solvers, tasks, folder)


def override(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, object]:
    """Return the suite file's ``data`` with ``key=value`` texts applied.

    Raises
    ------
    SuiteError
        If a text is no ``key=value``, or names a key that cannot be set.
    """
    out = dict(data)
    for key, value in key_values(overrides, "--set", {*PER_TASK, *TOP, *TUNED}).items():
        if key in PER_TASK:
            out["tasks"] = [{**task, key: value} for task in out.get("tasks", [])]
        elif key in TUNED:
            if "tuning" not in out:
                raise SuiteError(f"--set {key}: expected a suite that tunes, got one without a table 'tuning'; add one")
            out["tuning"] = {**out["tuning"], key.removeprefix("tuning."): value}
        else:
            out[key] = value
    return out


def key_values(texts: Sequence[str], option: str, known: Collection[str] = ()) -> dict[str, object]:
    """Return ``key=value`` texts as a dictionary, the values as in TOML; a word without quotes is text.

    Raises
    ------
    SuiteError
        If a text of the command-line ``option`` is no ``key=value``, or has a key that is not ``known``.
    """
    found: dict[str, object] = {}
    for text in texts:
        key, equals, written = (part.strip() for part in text.partition("="))
        if not equals:
            raise SuiteError(f"{option} {text}: expected KEY=VALUE, got no '='")
        if known and key not in known:
            raise SuiteError(f"{option} {text}: {UnknownNameError('key', key, known)}")
        try:
            found[key] = tomllib.loads(f"value = {written}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = written
    return found
