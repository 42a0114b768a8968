"""Forward sensitivities: carry the derivative of the state along with it; nothing is left for the backward pass."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Bytes, Calls, Sizes, StepCounts, Traits
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.backward.costs import forward_calls, stage_calls
from odegrad.methods.backward.entry import NEEDS_TABLEAU, SPLIT, SharedLoopMethod
from odegrad.methods.backward.implicit.columns import ImplicitColumns
from odegrad.methods.backward.node import Gradients, SolveNode
from odegrad.methods.backward.products import derivative_along
from odegrad.methods.solvers.dynamics import FlatField, Tolerances
from odegrad.methods.solvers.implicit.additive import Imex
from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.loop import integrate
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.tableau import Tableau

IN_16_BITS = (
    "its columns are products with the field's Jacobian, whose rounding in 16 bits no scale undoes; use naive or aca, "
    "or leave precision out"
)
"""Why it refuses a field in a low type."""


@dataclass(frozen=True)
class ForwardSensitivity(SharedLoopMethod):
    """Solve ``(y, S)`` forwards, ``dS/dt = f_y S + f_theta`` (Hairer, Norsett and Wanner, Solving ODEs I, I.14).

    ``S`` has one column for every parameter, and one for every number of the initial state if its gradient is wanted.
    It takes the steps of the state, which alone is in the error norm, so each column is the derivative of the computed
    solution: the gradient is naive's. Columns of an implicit step solve ``W_i S_i = S + h sum_j a_ij K_j + h gamma
    f_theta`` at the converged stage, with one factorisation for all of them. For few parameters (up to about a hundred)
    and small batches.

    Parameters
    ----------
    max_columns
        Most columns; a larger problem is refused rather than left to run for ever.

    Raises
    ------
    UsageError
        If ``max_columns`` is not a positive whole number.
    """

    max_columns: int = 2_000

    traits: ClassVar[Traits] = Traits(
        name="forward_sensitivity",
        summary="carries the derivatives by state and parameters forward, multiplies by them; for few parameters",
        paper="Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, 1993, section I.14",
        exact=True,
        keeps="the derivatives of the outputs by every parameter",
        memory="K (p + d) d",
        cost_forward="s(N+R)+2 F, each with p + d JVPs",
        cost_backward="none",
        backward_phase="recompute",
        state_from="columns",
        grows_with="parameters",
    )

    def __post_init__(self) -> None:
        """Check the option."""
        if not isinstance(self.max_columns, int) or self.max_columns < 1:
            raise UsageError(f"max_columns: expected a positive whole number, got {self.max_columns!r}")

    def cannot_use(self, solver: OneStepSolver) -> str | None:
        """Return why this method cannot take the steps of ``solver``, or None if it can."""
        if solver.sees == "tangent":
            return "it carries every sensitivity itself, and the state alone chooses its steps; use sees = 'state'"
        if solver.precision or solver.only_redone is not None:
            return solver.only_redone or IN_16_BITS
        if isinstance(solver.scheme, Imex):
            return SPLIT
        if isinstance(solver.scheme, Implicit):
            if solver.scheme.linear == "krylov":
                return (
                    "its columns are solved for with one factorisation, which linear = 'krylov' has not; use 'blocks'"
                )
            return None
        return None if isinstance(solver.scheme, Tableau) else NEEDS_TABLEAU

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost; products with J are none of them."""
        # Every stage of an implicit step is linearised once more, at its root, and so is the start.
        return Calls(forward_calls(steps) + stage_calls(steps) + (steps.carried if steps.implicit else 0), 0, 0)

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:
        """Return the bytes that these steps cost."""
        columns = (sizes.parameter_bytes + sizes.state_bytes) * sizes.state_bytes
        saved = sizes.outputs * (sizes.state_bytes + columns // sizes.item_bytes)
        return Bytes(saved, saved + (steps.evaluations + 1) * columns // sizes.item_bytes)

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that holds their derivatives."""
        field.differentiated_twice = True
        return _Columns(field, solver, times, self.max_columns).apply(y0)


class _Columns(SolveNode):
    """Keeps the columns at every output, ``[K, m, d]``."""

    repeats_calls = False

    def __init__(self, field: FlatField, solver: OneStepSolver, times: Sequence[float], max_columns: int) -> None:
        super().__init__(field, solver, times)
        self.max_columns = max_columns
        self.of_state = True
        self.wanted = True

    def apply(self, y0: Tensor) -> Tensor:
        """Return the states with the node, without columns that nobody wants."""
        self.of_state, self.wanted = y0.requires_grad, torch.is_grad_enabled()
        return super().apply(y0)

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve states and columns."""
        d, p = y0.numel(), sum(q.numel() for q in self.parameters)
        m = p + (d if self.of_state else 0)
        if m > self.max_columns:
            raise UnsupportedError(
                f"forward_sensitivity: {p} parameters and {m - p} state numbers are {m} columns, more than "
                f"max_columns = {self.max_columns}; use gradient method aca or adjoint, or raise max_columns"
            )
        if not self.wanted:
            return integrate(self.field, self.solver, y0, self.times), ()
        columns = y0.new_zeros((m, d))
        if self.of_state:
            columns[p:].fill_diagonal_(1.0)
        scheme = self.solver.scheme
        if isinstance(scheme, Implicit):
            directions = one_hot(self.parameters, m)
            walker = ImplicitColumns(self.field, self.solver, scheme, self.parameters, directions)
            found = [(y0[None], columns[None]), *walker.walk(y0, self.times, columns)]
            return torch.cat([ys for ys, _ in found]), (torch.cat([s for _, s in found]),)
        x0 = torch.cat([y0, columns.reshape(-1)])
        xs = integrate(_Augmented(self.field, self.parameters, d, m), self.solver, x0, self.times)
        return xs[:, :d].clone(), (xs[:, d:].reshape(len(xs), m, d).clone(),)

    def repeated_calls(self) -> AbstractContextManager[None]:
        """Change nothing: the field is not called again."""
        return nullcontext()

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> Gradients:
        """Contract the columns with the cotangents."""
        pulled = torch.einsum("kmd,kd->m", kept[0], grads)
        sizes = [q.numel() for q in self.parameters]
        parts = torch.split(pulled, [*sizes, len(pulled) - sum(sizes)])
        of_state = parts[-1] if self.of_state else torch.zeros_like(grads[0])
        return of_state, [part.view_as(q) for part, q in zip(parts[:-1], self.parameters, strict=True)]


class _Augmented:
    """The right-hand side of ``(y [d], S [m, d])``; the first columns belong to the parameters."""

    def __init__(self, field: FlatField, parameters: Sequence[Tensor], d: int, m: int) -> None:
        self.field = field
        self.parameters = tuple(parameters)
        self.d, self.m = d, m
        self.directions = one_hot(self.parameters, m)
        self.batched = True
        self.callbacks = field.callbacks

    @property
    def tolerances(self) -> Tolerances | None:
        """Return those of the state; the columns, which no norm sees, have any."""
        known = self.field.tolerances
        if known is None:
            return None
        rest = known[0].new_ones(self.m * self.d)
        return torch.cat([known[0], rest]), torch.cat([known[1], rest])

    def prepare(self, times: Sequence[float]) -> None:
        """Need nothing before a step."""

    def write(self, t: float, x: Tensor, out: Tensor, stage: int) -> None:  # noqa: ARG002
        """Write ``(f, f_y S + f_theta)``: one f call and its products with every column."""
        with torch.enable_grad():
            y = x[: self.d].detach().requires_grad_()
            dy = self.field(t, y)
        out[: self.d].copy_(dy.detach())
        columns = x[self.d :].view(self.m, self.d)
        out[self.d :].view(self.m, self.d).copy_(self._products(dy, y, columns))

    def norm(self, x: Tensor) -> Tensor:
        """Return the norm of the state alone."""
        # As without the columns: the steps, and with them the solution, must be those of the state alone.
        return self.field.norm(x[: self.d])

    def _products(self, dy: Tensor, y: Tensor, columns: Tensor) -> Tensor:
        """Return ``J v`` for all columns, ``[m, d]``."""
        inputs, vectors = (y, *self.parameters), (columns, *self.directions)
        self.field.refuse_closures([dy], inputs)
        found, self.batched = derivative_along(dy, inputs, vectors, self.m, batched=self.batched)
        return found


def one_hot(parameters: Sequence[Tensor], m: int) -> list[Tensor]:
    """Return the directions of m columns in each parameter, ``[m, *shape]``; the first columns belong to them."""
    out, start = [], 0
    for q in parameters:
        directions = q.new_zeros((m, q.numel()))
        directions[start : start + q.numel()].fill_diagonal_(1.0)
        out.append(directions.view(m, *q.shape))
        start += q.numel()
    return out
