"""SNOpt under the name that suites use."""

from collections.abc import Iterable
from typing import Any, Literal, get_args

from torch import nn, optim

from odegrad.contracts import Problem, ScoringProblem, TrainableEndTime
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.optimizers.integration_time import IntegrationTime
from odegrad.methods.optimizers.snopt.low_rank import LowRank
from odegrad.methods.optimizers.snopt.optimizer import SNOpt

Curvature = Literal["gradient", "gauss_newton"]
"""Terminal vectors: the loss's gradient (R = 1), or the square roots of the cross-entropy's Hessian (R classes)."""


def snopt(
    problem: Problem,
    *,
    lr: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    full_precond: bool | None = None,
    curvature: Curvature = "gradient",
    t1_policy: str = "",
    t1_lr: float = 0.1,
    t1_penalty: float = 6e-4,
    t1_update_freq: int = 50,
    **options: Any,
) -> SNOpt:
    """Return SNOpt over SGD with momentum for ``problem``; ``options`` are those of ``SNOpt``.

    ``full_precond`` is the task's own unless given. ``t1_policy`` is ``baseline`` or ``feedback`` where the end time
    is trained, and empty where it is not (see ``IntegrationTime``).

    Raises
    ------
    UsageError
        If an option is out of range.
    UnsupportedError
        If the task has no scores, or no end time to train, and an option needs them.
    """

    def base(parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        return optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)

    full = problem.training.full_precond if full_precond is None else full_precond
    low_rank = _low_rank(problem, curvature)
    time = None
    if t1_policy:
        if not isinstance(problem, TrainableEndTime):
            raise UnsupportedError(
                "t1_policy: this task has no end time that could be trained; leave it out, or take task digits"
            )
        time = IntegrationTime(
            problem.end_time,
            t1_policy,  # type: ignore[arg-type]  # a suite's text, which it checks
            lr=t1_lr,
            penalty=t1_penalty,
            update_freq=t1_update_freq,
        )
    return SNOpt(
        problem.model, problem.fields, base, full_precond=full, low_rank=low_rank, integration_time=time, **options
    )


def _low_rank(problem: Problem, curvature: str) -> LowRank | None:
    if curvature not in get_args(Curvature):
        raise UsageError(f"curvature: expected 'gradient' or 'gauss_newton', got {curvature!r}")
    if curvature == "gradient":
        return None
    if not isinstance(problem, ScoringProblem):
        raise UnsupportedError(
            "curvature: 'gauss_newton' needs the scores of a cross-entropy, which this task does not have; "
            "take 'gradient'"
        )
    return LowRank(problem.scores)
