"""What the fixture ``gradient_benchmark`` is: counts a gradient, and times it where a test benchmarks."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from odegrad.binding import solve_with
from odegrad.contracts import GradientMethod, Scalar, Task
from odegrad.errors import UnknownNameError, UsageError
from odegrad.measuring.building import DTYPES, Built, build
from odegrad.measuring.meters import synchronize
from odegrad.records.record import Run, freeze_options
from odegrad.registry import build_task, name_of, resolve_method
from odegrad.suites.lookup import located
from odegrad.testing.numbers import GradientNumbers, apart, measure_numbers

_WARM_UPS = 3
_MAX_ROUNDS = 200

AnyMethod = str | GradientMethod | type[GradientMethod]
"""A registered name or a pair such as ``snopt``, ``my_method.py:MyMethod``, a class, or one of its objects."""

DEVICES = ("cpu", "cuda")

_NAMED = ("task", "size", "method", "optimizer", "solver", "rtol", "atol", "dtype", "device", "seed")
"""Of a run: what stands in ``extra_info`` beside the numbers."""


class PytestBenchmark(Protocol):
    """What is used of pytest-benchmark's fixture ``benchmark``."""

    extra_info: dict[str, object]

    def pedantic(self, target: Callable[..., object], **settings: object) -> object:
        """Time ``target``."""
        ...


@dataclass
class GradientBenchmark:
    """Measures the gradient of a method on a task, for one test.

    Parameters
    ----------
    folder
        Where relative names such as ``my_method.py:MyMethod`` are looked up: the test file's.
    benchmark
        The test's own fixture of pytest-benchmark, if it asks for one.
    least_rounds, seconds
        How long a gradient is timed: ``--benchmark-min-rounds`` and ``--benchmark-max-time``.
    """

    folder: Path
    benchmark: PytestBenchmark | None = None
    least_rounds: int = 5
    seconds: float = 1.0
    timed: bool = field(default=False, init=False)

    def __call__(
        self,
        method: AnyMethod,
        task: str | type[Task],
        *,
        size: str = "tiny",
        solver: str = "dopri5",
        rtol: float = 1e-5,
        atol: float | None = None,
        seed: int = 0,
        dtype: Literal["float32", "float64"] = "float32",
        device: str = "cpu",
        optimizer: str | None = None,
        options: Mapping[str, Scalar] | None = None,
        solver_options: Mapping[str, Scalar] | None = None,
        optimizer_options: Mapping[str, Scalar] | None = None,
        threads: int = 1,
        benchmark: PytestBenchmark | Literal[False] | None = None,
    ) -> GradientNumbers:
        """Return the exact numbers of one forward and one backward pass on the task's first batch.

        Parameters
        ----------
        method
            The gradient method: a name, ``my_method.py:MyMethod`` beside the test's file, a class or an object.
        task
            A name, ``my_task.py:MyTask`` or a class.
        size, seed, dtype, device
            Of the task.
        solver, rtol, atol, solver_options
            The solver; ``atol`` is ``rtol`` if None.
        optimizer, optimizer_options
            One that takes curvature samples (``snopt``) counts them apart; if None the pair's, or the task's own.
        options
            Of the gradient method.
        threads
            Threads of one tensor operation.
        benchmark
            The fixture of pytest-benchmark that takes the times, with the numbers in its ``extra_info``; if None the
            one that the test asks for, False for no times.

        Raises
        ------
        UsageError
            If an argument cannot work; the message names it.
        OdegradError
            What the method, the solver or the task raise; other errors pass through as they are.
        """
        gradient, shown, own = self._method(method, options)
        chosen = located(task, self.folder) if isinstance(task, str) else task
        run = Run(
            suite="",
            task=name_of(task),
            size=size,
            gradient=shown,
            method=shown,
            optimizer=optimizer or own or build_task(chosen).training(size).default_optimizer,
            solver=solver,
            seed=seed,
            rtol=rtol,
            atol=rtol if atol is None else atol,
            iterations=0,
            device=device,
            dtype=dtype,
            gradient_options=freeze_options(options),
            optimizer_options=freeze_options(optimizer_options),
            solver_options=freeze_options(solver_options),
        )
        return self._measure(run, gradient, chosen, self.folder, threads, benchmark)

    def of_run(self, run: Run, folder: Path) -> GradientNumbers:
        """Return the numbers of a suite's run, whose relative names are looked up in ``folder``; times it, too."""
        return self._measure(run, located(run.gradient, folder), located(run.task, folder), folder, 1, None)

    def _measure(
        self, run: Run, gradient: Any, task: Any, folder: Path, threads: int,
        benchmark: PytestBenchmark | Literal[False] | None,
    ) -> GradientNumbers:  # fmt: skip
        for name, known in (("dtype", DTYPES), ("device", DEVICES)):
            if getattr(run, name) not in known:
                raise UnknownNameError(name, getattr(run, name), known)
        taker = self.benchmark if benchmark is None else benchmark or None
        if taker is not None and self.timed:
            raise UsageError(
                "benchmark: expected one gradient in a test that benchmarks, because the fixture takes one time; "
                "parametrize the test, or pass benchmark=False for those that are only counted"
            )
        placed = replace(run, optimizer=located(run.optimizer, folder))
        numbers = measure_numbers(placed, gradient, task, threads)
        if taker is not None:
            self.timed = True
            taker.extra_info |= {name: getattr(run, name) for name in _NAMED} | numbers.to_dict()
            with apart(run, threads):
                self._time(build(placed, gradient, task), taker)
        return numbers

    def _time(self, built: Built, taker: PytestBenchmark) -> None:
        """Time forward and backward pass together, without counters, as often as pytest-benchmark's options say."""
        batch, solve = built.problem.batch(0), solve_with(built.method, built.solver)
        device = torch.device(built.run.device)

        def iteration() -> None:
            built.problem.loss(solve, batch).backward()  # type: ignore[no-untyped-call]
            synchronize(device)

        def forget() -> None:
            built.problem.model.zero_grad(set_to_none=True)

        for _ in range(_WARM_UPS):
            forget()
            start = time.perf_counter()
            iteration()
            seconds = time.perf_counter() - start
        rounds = min(_MAX_ROUNDS, math.ceil(self.seconds / seconds))
        taker.pedantic(iteration, setup=forget, rounds=max(rounds, self.least_rounds))

    def _method(self, method: object, options: Mapping[str, Scalar] | None) -> tuple[object, str, str | None]:
        """Return what is built, the name shown and the optimizer of a pair."""
        if isinstance(method, str):
            gradient, own = resolve_method(method)
            return located(gradient, self.folder), gradient if own is None else method, own
        if not callable(method) or not hasattr(method, "traits"):
            raise UsageError(
                f"method: expected a name, my_method.py:MyMethod, or a class with traits and a call, got {method!r}"
            )
        shown: str = method.traits.name
        if isinstance(method, type):
            return method, shown, None
        if options:
            raise UsageError(f"options: expected none beside an object, which has its own, got {dict(options)}")
        return (lambda: method), shown, None
