"""SNOpt under the name that suites use."""

from collections.abc import Iterable
from typing import Literal, get_args

from torch import nn, optim

from odegrad.contracts import Problem, Scalar, ScoringProblem, TrainableEndTime
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.optimizers.side_by_side import SideBySide
from odegrad.methods.optimizers.signatures import takes_options_of
from odegrad.methods.optimizers.snopt.integration_time import IntegrationTime
from odegrad.methods.optimizers.snopt.low_rank import LowRank
from odegrad.methods.optimizers.snopt.optimizer import Base, SNOpt

Curvature = Literal["gradient", "gauss_newton"]
"""Terminal vectors: the loss's gradient (R = 1), or the square roots of the cross-entropy's Hessian (R classes)."""


@takes_options_of(SNOpt, but=("low_rank", "integration_time"))
def snopt(
    problem: Problem,
    *,
    lr: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    full_precond: bool | None = None,
    outside_lr: float | None = None,
    curvature: Curvature = "gradient",
    t1_policy: str = "",
    t1_lr: float = 0.1,
    t1_penalty: float = 6e-4,
    t1_update_freq: int = 50,
    **options: Scalar,
) -> SNOpt:
    """Return SNOpt over SGD with momentum for ``problem``; ``options`` are those of ``SNOpt``.

    ``full_precond`` is the task's own unless given. With ``outside_lr`` Adam steps what lies outside of the fields, at
    that rate, as it does the recurrent cells and read-outs of the paper, and ``full_precond`` is off. ``t1_policy`` is
    ``baseline`` or ``feedback`` where the end time is trained, and empty where it is not (see ``IntegrationTime``).

    Raises
    ------
    UsageError
        If an option is out of range.
    UnsupportedError
        If the task has no scores, or no end time to train, and an option needs them.
    """
    base = _base(problem, lr, momentum, weight_decay, outside_lr)
    full = problem.training.full_precond and outside_lr is None if full_precond is None else full_precond
    if full and outside_lr is not None:
        raise UsageError(
            "outside_lr: expected full_precond to be off, got both; Adam steps the layers outside of the fields, or "
            "they are preconditioned"
        )
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
        problem.model,
        problem.fields,
        base,
        full_precond=full,
        low_rank=low_rank,
        integration_time=time,
        **options,  # type: ignore[arg-type]  # a suite's values, which SNOpt checks
    )


def _base(problem: Problem, lr: float, momentum: float, weight_decay: float, outside_lr: float | None) -> Base:
    """Return what makes the base optimizer: SGD, beside Adam for what is outside of the fields if it has a rate."""

    def sgd(parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        return optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)

    if outside_lr is None:
        return sgd
    rate, inside = outside_lr, {id(p) for field in problem.fields for p in field.parameters()}

    def with_adam(parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        every = list(parameters)
        outside = [p for p in every if id(p) not in inside]
        if not outside:
            raise UnsupportedError("outside_lr: this task has no parameter outside of its fields; leave it out")
        own = sgd([p for p in every if id(p) in inside])
        return SideBySide([own, optim.Adam(outside, lr=rate, weight_decay=weight_decay)])

    return with_adam


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
