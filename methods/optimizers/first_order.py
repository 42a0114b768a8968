"""First-order optimizers: torch's own under the names that suites use."""

from typing import Any

from torch import optim

from odegrad.contracts import Problem
from odegrad.methods.optimizers.signatures import takes_options_of


@takes_options_of(optim.Adam)
def adam(problem: Problem, **options: Any) -> optim.Optimizer:
    """Return PyTorch's Adam over every parameter of ``problem``."""
    return optim.Adam(problem.model.parameters(), **options)


@takes_options_of(optim.AdamW)
def adamw(problem: Problem, **options: Any) -> optim.Optimizer:
    """Return PyTorch's AdamW over every parameter of ``problem``."""
    return optim.AdamW(problem.model.parameters(), **options)


@takes_options_of(optim.Adamax)
def adamax(problem: Problem, **options: Any) -> optim.Optimizer:
    """Return PyTorch's Adamax over every parameter of ``problem``."""
    return optim.Adamax(problem.model.parameters(), **options)


@takes_options_of(optim.SGD)
def sgd(problem: Problem, **options: Any) -> optim.Optimizer:
    """Return PyTorch's SGD over every parameter of ``problem``."""
    return optim.SGD(problem.model.parameters(), **options)
