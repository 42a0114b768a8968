"""SNOpt under the name that suites use."""

from collections.abc import Iterable
from typing import Any

from torch import nn, optim

from odegrad.contracts import Problem
from odegrad.methods.optimizers.snopt.optimizer import SNOpt


def snopt(
    problem: Problem,
    *,
    lr: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    full_precond: bool | None = None,
    **options: Any,
) -> SNOpt:
    """Return SNOpt over SGD with momentum for ``problem``; ``options`` are those of ``SNOpt``.

    ``full_precond`` is the task's own unless given.
    """

    def base(parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        return optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)

    full = problem.training.full_precond if full_precond is None else full_precond
    return SNOpt(problem.model, problem.fields, base, full_precond=full, **options)
