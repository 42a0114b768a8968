"""First-order optimizers: torch's own under the names that suites use."""

from typing import Any

from torch import optim

from odegrad.contracts import Problem


def adam(problem: Problem, **options: Any) -> optim.Optimizer:
    """Return ``torch.optim.Adam`` over every parameter of ``problem``."""
    return optim.Adam(problem.model.parameters(), **options)


def adamw(problem: Problem, **options: Any) -> optim.Optimizer:
    """Return ``torch.optim.AdamW`` over every parameter of ``problem``."""
    return optim.AdamW(problem.model.parameters(), **options)


def adamax(problem: Problem, **options: Any) -> optim.Optimizer:
    """Return ``torch.optim.Adamax`` over every parameter of ``problem``."""
    return optim.Adamax(problem.model.parameters(), **options)


def sgd(problem: Problem, **options: Any) -> optim.Optimizer:
    """Return ``torch.optim.SGD`` over every parameter of ``problem``."""
    return optim.SGD(problem.model.parameters(), **options)
