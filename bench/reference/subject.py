"""What a gradient is taken of: a loss and its inputs, made from a task's problem and from a user's model alike."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odegrad.contracts import Problem, Solve
from odegrad.errors import UsageError, is_out_of_memory
from odegrad.states import mapped, parts, undisturbed
from odegrad.user.models import Model, copied_in_float64


@dataclass(frozen=True)
class Subject:
    """A loss of solved equations, and what its gradient is taken by."""

    loss: Callable[[Solve], Tensor]
    """The loss of one batch, a 0-d tensor with its graph, its equations solved by what is given."""
    inputs: tuple[Tensor, ...]
    """Leaves: trained parameters, and parts of an initial state that require a gradient."""
    modules: tuple[nn.Module, ...]
    """Whose buffers an evaluation must leave as they were."""
    smooth: bool = True
    """False where the dynamics have kinks."""
    loss_epsilon: float = 0.0
    """Rounding of the loss where it computes in less than float64."""
    accumulates: bool = False
    """Whether pulling back leaves its gradients in ``grad``, as a training does."""

    @property
    def device(self) -> torch.device:
        """Return where the inputs lie."""
        return self.inputs[0].device

    def pull_back(self, loss: Tensor) -> None:
        """Pull ``loss`` back as its owner does: into ``grad``, or without a trace."""
        if self.accumulates:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            torch.autograd.grad(loss, self.inputs, allow_unused=True)

    @contextmanager
    def left_as_it_was(self) -> Iterator[None]:
        """Put buffers and random generators back at the end, and leave no gradient behind where it accumulates."""
        with undisturbed(self.device, *self.modules):
            try:
                yield
            finally:
                if self.accumulates:
                    for each in self.inputs:
                        each.grad = None

    def gradient(self, solve: Solve) -> Tensor:
        """Return the gradient by all inputs as one float64 vector on the CPU; parts that are unused are zeros.

        Every evaluation draws the same random numbers and leaves buffers and generators as they were.
        """
        with undisturbed(self.device, *self.modules), torch.enable_grad():
            return pulled_back(self.loss(solve), self.inputs)

    def value(self, solve: Solve) -> float:
        """Return the loss, without a graph, as ``gradient`` leaves everything."""
        with undisturbed(self.device, *self.modules), torch.no_grad():
            return self.loss(solve).item()


def pulled_back(loss: Tensor, inputs: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """Return the gradient of ``loss`` by ``inputs`` as one float64 vector on the CPU."""
    grads = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    return torch.cat([g.detach().reshape(-1) for g in grads]).double().cpu()


def of_problem(problem: Problem, *, smooth: bool = True) -> Subject:
    """Return the loss of the probe batch by every trained parameter of the problem's model."""
    batch = problem.probe_batch()
    trained = tuple(p for p in problem.model.parameters() if p.requires_grad)
    return Subject(lambda solve: problem.loss(solve, batch), trained, (problem.model,), smooth)


def of_training(problem: Problem) -> Subject:
    """Return the loss of the first training batch, whose gradients accumulate in the parameters."""
    batch = problem.batch(0)
    trained = tuple(p for p in problem.model.parameters() if p.requires_grad)
    return Subject(lambda solve: problem.loss(solve, batch), trained, (problem.model,), accumulates=True)


def of_model(model: Model) -> Subject:
    """Return the model's loss by its field's trained parameters and the parts of ``y0`` that require a gradient.

    Raises
    ------
    UsageError
        If the loss is no scalar, when it is evaluated.
    """
    y0, inputs = model.inputs()
    return Subject(lambda solve: model.scalar(solve(model.field, y0, model.ts)), tuple(inputs), (model.field,))


def in_float64(model: Model) -> Subject:
    """Return the subject of a copy of ``model`` in float64.

    The loss sees a float64 solution where it can take one. One that cannot (a head of float32 weights) sees the
    solution rounded to the model's type: then the gradient is known to that type's rounding only.
    """
    field = copied_in_float64(model.field)
    y0, ts = mapped(model.y0, lambda part: part.detach().double().requires_grad_(part.requires_grad)), model.ts.double()
    loss = copy.deepcopy(model.loss).double() if isinstance(model.loss, nn.Module) else model.loss
    plain = of_model(Model(field, y0, ts, loss))
    if _takes_float64(model, loss):
        return plain
    kinds = tuple(part.dtype for part in parts(model.y0))

    def rounded(ys: Any) -> Tensor:
        cast = tuple(part.to(kind) for part, kind in zip(parts(ys), kinds, strict=True))
        return model.loss(cast[0] if isinstance(ys, Tensor) else cast)

    subject = of_model(Model(field, y0, ts, rounded))
    return dataclasses.replace(subject, loss_epsilon=max(torch.finfo(kind).eps for kind in kinds))


def _takes_float64(model: Model, loss: Callable[[object], Tensor]) -> bool:
    """Return whether ``loss`` takes a solution in float64; tried on states that stay where they start."""
    still = mapped(model.y0, lambda part: part.detach().double().expand(model.ts.shape[-1], *part.shape).clone())
    try:
        with undisturbed(parts(model.y0)[0].device, model.field):
            loss(still)
    except RuntimeError as error:  # torch's answer to float32 weights beside float64 numbers
        if is_out_of_memory(error):
            raise
        return False
    except Exception as error:
        raise UsageError(f"loss: raised {type(error).__name__} on a solution of the model's shape: {error}") from error
    return True
