"""A user's own model: a field, where it starts, when it is read, and what is made of its solution."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from odegrad.binding import UnionOfTimes, solve_with
from odegrad.contracts import GradientMethod, State
from odegrad.errors import OdegradError, SolverError, UsageError
from odegrad.methods.fields.held import Held
from odegrad.methods.solvers.per_sample.times import checked_sample_times
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.states import mapped, parts, undisturbed
from odegrad.user.files import call_users, load_from_file

Loss = Callable[[Any], Tensor]
"""From a solution ``[time, batch, *state]``, or a tuple of such, to a scalar."""


def half_mean_square(ys: Any) -> Tensor:
    """Return half the mean square of the last output, summed over the parts of a tuple."""
    return torch.stack([0.5 * (p[-1] ** 2).mean() for p in parts(ys)]).sum()


@dataclass(frozen=True)
class Model:
    """An initial value problem and a loss of its solution.

    Parameters
    ----------
    field
        The vector field; the gradient is taken with respect to its trained parameters.
    y0
        Initial state ``[batch, *state]`` or a tuple; a part that requires a gradient is differentiated too.
    ts
        Output times ``[time]``, or ``[batch, time]``, a row a sample that may repeat its last time.
    loss
        From the solution, in the type of ``y0``, to a scalar.

    Raises
    ------
    UsageError
        If ``field`` is no module, times or states are not what is said here, or nothing requires a gradient.
    """

    field: nn.Module
    y0: State
    ts: Tensor
    loss: Loss = half_mean_square

    def __post_init__(self) -> None:
        """Check what can be checked before a solve."""
        if not isinstance(self.field, nn.Module):
            raise UsageError(f"func: expected an nn.Module, got {type(self.field).__name__}; wrap it in a module")
        if not isinstance(self.ts, Tensor) or self.ts.ndim not in (1, 2) or not self.ts.is_floating_point():
            got = f"shape {tuple(self.ts.shape)}, {self.ts.dtype}" if isinstance(self.ts, Tensor) else repr(self.ts)
            raise UsageError(
                f"t: expected a floating-point tensor [time] or [batch, time], got {got}; as torch.tensor([0.0, 1.0])"
            )
        for part in parts(self.y0):
            if not isinstance(part, Tensor) or not part.is_floating_point() or part.ndim == 0:
                got = f"shape {tuple(part.shape)}, {part.dtype}" if isinstance(part, Tensor) else repr(part)
                raise UsageError(f"y0: expected a floating-point tensor [batch, ...] or a tuple of such, got {got}")
            if not bool(torch.isfinite(part).all()):
                raise UsageError("y0: expected finite numbers, got NaN or infinity; check where the states come from")
        if self.ts.ndim == 2:
            checked_sample_times(self.ts, len(parts(self.y0)[0]))
        if not self.inputs()[1]:
            raise UsageError("func, y0: expected a parameter or a state that requires a gradient, got none")

    def in_float64(self) -> "Model":
        """Return a copy whose field and solution are float64; the loss still sees the type that it was made for."""
        kinds = tuple(p.dtype for p in parts(self.y0))

        def loss(ys: State) -> Tensor:
            cast = tuple(p.to(kind) for p, kind in zip(parts(ys), kinds, strict=True))
            return self.loss(cast[0] if isinstance(ys, Tensor) else cast)

        return Model(copied_in_float64(self.field), mapped(self.y0, Tensor.double), self.ts.double(), loss)

    def at_all_times(self) -> "Model":
        """Return the same where all samples have the same times: the union of theirs, from which the loss sees its own.

        Raises
        ------
        UsageError
            If samples have times of their own that do not start together, and the field takes one time for all.
        """
        if self.ts.ndim == 1:
            return self
        union = UnionOfTimes.of(self.ts.detach(), self.field)
        field = cast("nn.Module", union.seen(self.field))
        return Model(field, self.y0, union.times, lambda ys: self.loss(union.picked(ys)))

    def check_loss(self, method: GradientMethod, solver: OneStepSolver) -> None:
        """Solve once by ``method`` and refuse a loss without a gradient, or one that is not finite.

        A solve that cannot go on is left for who solves again, and says more of it.

        Raises
        ------
        UsageError
            If the loss cannot be used, or the field or the loss raises anything.
        """
        try:
            with undisturbed(parts(self.y0)[0].device, self.field), torch.enable_grad():
                loss, _ = self.forward(method, solver)
        except SolverError:
            return
        except OdegradError:
            raise
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            raise UsageError(f"func, loss: raised {type(error).__name__} in a solve of the model: {said}") from error
        if not loss.requires_grad:
            raise UsageError(
                "loss: it depends on nothing that requires a gradient; expected a scalar with a graph, so leave out "
                ".detach(), .item(), torch.no_grad() and NumPy in func and loss"
            )
        if not bool(torch.isfinite(loss)):
            raise UsageError(
                f"loss: expected a finite number, got {loss.item():g}; check func and loss for division by zero, and "
                "the logarithm or square root of what may be negative"
            )

    def inputs(self) -> tuple[State, list[Tensor]]:
        """Return ``y0`` as fresh leaves, and everything that the gradient is taken with respect to."""
        y0 = mapped(self.y0, lambda x: x.detach().clone().requires_grad_(x.requires_grad))
        wanted = [x for x in parts(y0) if x.requires_grad]
        return y0, [*wanted, *(p for p in self.field.parameters() if p.requires_grad)]

    def forward(
        self, method: GradientMethod, solver: OneStepSolver, field: nn.Module | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, with its graph, and what to differentiate it by."""
        y0, inputs = self.inputs()
        return self.scalar(solve_with(method, solver)(field or self.field, y0, self.ts)), inputs

    def scalar(self, ys: object) -> Tensor:
        """Return the loss of the solution ``ys``.

        Raises
        ------
        UsageError
            If it is no scalar.
        """
        loss = self.loss(ys)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise UsageError(f"loss: expected a scalar from the solution, got {got}; take its mean or sum")
        return loss

    def gradient(self, method: GradientMethod, solver: OneStepSolver) -> Tensor:
        """Return the gradient as one float64 vector on the CPU."""
        return pulled_back(*self.forward(method, solver))


def copied_in_float64(field: nn.Module) -> nn.Module:
    """Return a float64 copy of ``field``; tensors among its attributes too, cut off from how they were computed.

    Raises
    ------
    UsageError
        If it cannot be copied.
    """
    # A copy of a computed tensor has no history to share, and PyTorch refuses to make one; what the field holds is
    # known by its numbers alone.
    memo: dict[int, object] = {}
    for key, x in Held(field).tensors.items():
        if not isinstance(x, nn.Parameter):
            own = x.detach().clone()
            own = own.double() if own.is_floating_point() else own
            memo[key] = own.requires_grad_(x.requires_grad)
    try:
        copied = copy.deepcopy(field, memo)
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise UsageError(
            "func: expected a module that can be copied, for a float64 twin of it, got "
            f"{type(error).__name__}: {said}; hold plain tensors, numbers and modules only"
        ) from error
    return copied.double()


def pulled_back(loss: Tensor, inputs: list[Tensor]) -> Tensor:
    """Return the gradient of ``loss`` by ``inputs`` as one float64 vector on the CPU."""
    grads = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    return torch.cat([g.detach().reshape(-1) for g in grads]).double().cpu()


def load_model(name: str) -> Model:
    """Return what the function in ``my_model.py:build`` builds: ``(func, y0, t)`` or ``(func, y0, t, loss)``.

    Raises
    ------
    UsageError
        If there is no such file or function, or it returns something else.
    """
    if ".py:" not in name:
        raise UsageError(f"model {name!r}: expected a file and a function in it, as in my_model.py:build")
    make = load_from_file(name, "model")
    if not callable(make):
        raise UsageError(
            f"model {name!r}: expected a function, got {type(make).__name__}; name one that returns a model"
        )
    built = call_users(name, make)
    if not isinstance(built, tuple) or len(built) not in (3, 4):
        got = f"{len(built)} things" if isinstance(built, tuple) else type(built).__name__
        raise UsageError(f"model {name!r}: expected it to return (func, y0, t) or (func, y0, t, loss), got {got}")
    return Model(*built)
