"""What a run names, built afresh: task, problem, gradient method, solver and optimizer."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from odegrad.contracts import GradientMethod, Problem, Task
from odegrad.methods.regularisers.chosen import Regularisers
from odegrad.methods.regularisers.regularised import RegularisedSolve
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.records.record import Run
from odegrad.registry import build_gradient, build_optimizer, build_solver, build_task, check_supported

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

ModelState = Mapping[str, torch.Tensor]
"""A model's state dictionary."""


@dataclass(frozen=True)
class Built:
    """Everything that a pass needs of ``run``, afresh."""

    run: Run
    task: Task
    problem: Problem
    method: GradientMethod
    solver: OneStepSolver
    optimizer: torch.optim.Optimizer
    regularised: RegularisedSolve | None
    """What it is trained with where there are regularisers."""

    def uncompiled(self) -> "Built":
        """Return the same without compiled steps, in which function calls and allocations would not be seen."""
        return dataclasses.replace(self, solver=self.solver.uncompiled())

    @property
    def certified_in(self) -> torch.dtype:
        """Return the type that the method's gradient is certified in.

        float64, in which what rounding adds is no matter, unless rounding is what the run is about: where f or all of
        it computes in 16 bits the gradient is the run's own.
        """
        own = DTYPES[self.run.dtype]
        return own if self.run.precision or torch.finfo(own).bits < 32 else torch.float64

    def problem_with(self, state: ModelState, dtype: torch.dtype = torch.float64) -> Problem:
        """Build the run's problem anew in ``dtype``, with the parameters of ``state``."""
        run = self.run
        problem = self.task.build(run.size, run.seed, torch.device(run.device), dtype)
        set_state(problem, state, dtype)
        return problem


def build(run: Run, gradient: str | Callable[..., GradientMethod] = "", task: str | Callable[..., Task] = "") -> Built:
    """Build what ``run`` names.

    Parameters
    ----------
    run
        Names and numbers.
    gradient, task
        Take the place of the run's own where they are given: another name, or a class.

    Raises
    ------
    UnknownNameError
        If a name is not registered.
    UsageError
        If an option is unknown or refused.
    UnsupportedError
        If the method cannot use the solver, or either cannot go with the regularisers.
    """
    method = build_gradient(gradient or run.gradient, dict(run.gradient_options))
    solver = build_solver(run.solver, run.rtol, run.atol, run.told_solver)
    check_supported(method, solver)
    made = build_task(task or run.task)
    problem = made.build(run.size, run.seed, torch.device(run.device), DTYPES[run.dtype])
    optimizer = build_optimizer(run.optimizer, problem, dict(run.optimizer_options))
    regularisers = Regularisers.of(dict(run.regulariser_options))
    regularised = RegularisedSolve(method, solver, regularisers, run.seed) if regularisers.weights else None
    return Built(run, made, problem, method, solver, optimizer, regularised)


def set_state(problem: Problem, state: ModelState, dtype: torch.dtype = torch.float64) -> None:
    """Give the model of a problem in ``dtype`` the parameters of ``state``."""
    problem.model.load_state_dict({k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()})
