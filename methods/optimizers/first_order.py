"""First-order optimizers: torch's own under the names that suites use."""

from collections.abc import Callable, Mapping

from torch import optim

from odegrad.contracts import Problem, Scalar
from odegrad.methods.optimizers.signatures import takes_options_of


@takes_options_of(optim.Adam)
def adam(problem: Problem, **options: Scalar) -> optim.Optimizer:
    """Return PyTorch's Adam over every parameter of ``problem``."""
    return _over(optim.Adam, problem, options)


@takes_options_of(optim.AdamW)
def adamw(problem: Problem, **options: Scalar) -> optim.Optimizer:
    """Return PyTorch's AdamW over every parameter of ``problem``."""
    return _over(optim.AdamW, problem, options)


@takes_options_of(optim.Adamax)
def adamax(problem: Problem, **options: Scalar) -> optim.Optimizer:
    """Return PyTorch's Adamax over every parameter of ``problem``."""
    return _over(optim.Adamax, problem, options)


@takes_options_of(optim.SGD)
def sgd(problem: Problem, **options: Scalar) -> optim.Optimizer:
    """Return PyTorch's SGD over every parameter of ``problem``."""
    return _over(optim.SGD, problem, options)


def _over(kind: Callable[..., optim.Optimizer], problem: Problem, options: Mapping[str, Scalar]) -> optim.Optimizer:
    return kind(problem.model.parameters(), **options)
