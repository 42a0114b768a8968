"""Stages of a Runge-Kutta step on rows, each with a time and a step size of its own; without a graph or with one."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import HostFloats, HostIntegers, Truths
from odegrad.methods.solvers.step import StageBuffer
from odegrad.methods.solvers.tableau import Tableau
from odegrad.states import sent_to


class RowDynamics(Protocol):
    """The right-hand side of a solve on rows of samples."""

    def prepare(self, samples: HostIntegers, times: HostFloats) -> None:
        """Hear of the samples of the rows, and of the times ``[m, rows]`` of the coming stages."""
        ...

    def write(self, t: Tensor, y: Tensor, out: Tensor, stage: int) -> None:
        """Write ``dy/dt`` at ``(t [rows], y [rows, n])`` into ``out [rows, n]``, without a graph."""
        ...

    def norms(self, x: Tensor) -> Tensor:
        """Return the error norm of each row of ``x [rows, n]``, ``[rows]``."""
        ...


@dataclass(frozen=True)
class RowVectorField:
    """The user's vector field as the right-hand side of a solve on rows."""

    field: RowField

    def prepare(self, samples: HostIntegers, times: HostFloats) -> None:
        """Need nothing before a step."""

    def write(self, t: Tensor, y: Tensor, out: Tensor, stage: int) -> None:  # noqa: ARG002
        """Write ``dy/dt`` at ``(t [rows], y [rows, n])`` into ``out [rows, n]``."""
        self.field.write_rows(t, y, out)

    def norms(self, x: Tensor) -> Tensor:
        """Return the largest root mean square over the state's parts, row by row."""
        return self.field.rows.norms(x)


@dataclass(frozen=True)
class RowSteps:
    """A step of every row: where it begins, its signed size, where it ends; all ``[rows]``."""

    t: HostFloats
    h: HostFloats
    t_next: HostFloats

    def first(self, rows: int) -> "RowSteps":
        """Return the steps of the first so many rows."""
        return RowSteps(self.t[:rows], self.h[:rows], self.t_next[:rows])

    def times(self, tableau: Tableau) -> HostFloats:
        """Return the stages' times ``[s, rows]``; those at a step's end are exactly its end."""
        return np.stack([self.t_next if c == 1.0 else self.t + c * self.h for c in tableau.c])

    def sent(self, tableau: Tableau, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stages' times ``[s, rows]`` and the sizes ``[rows, 1]`` beside ``like``, in one copy."""
        numbers = torch.from_numpy(np.concatenate([self.times(tableau), self.h[None]]))
        numbers = sent_to(like.device, numbers, like.dtype)
        return numbers[:-1], numbers[-1][:, None]


@dataclass(frozen=True)
class ReadInside:
    """Outputs that are read inside of steps, as ``[m]`` each."""

    rows: HostIntegers
    """Of which of the steps."""
    outputs: HostIntegers
    thetas: HostFloats
    """Where they lie in the steps, as fractions of these."""

    @classmethod
    def none(cls) -> "ReadInside":
        """Return that there are none."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.rows)

    def before(self, theta: float, steps: int) -> HostIntegers:
        """Return how many outputs lie before ``theta`` in each of so many ``steps``."""
        return np.bincount(self.rows[self.thetas < theta], minlength=steps)


class RowStages:
    """The stages ``k [s, rows, n]`` of a step and their combinations: with or without a graph the same bits."""

    def __init__(self, tableau: Tableau, like: Tensor) -> None:
        self.tableau = tableau
        self.buffer = StageBuffer(tableau, like)
        self.k = self.buffer.k.view(tableau.stages, *like.shape)
        self.h = like.new_zeros((len(like), 1))
        self._sizes = np.zeros(len(like))
        self._only = 0.0

    def set_sizes(self, h: Tensor, known: HostFloats) -> None:
        """Take the step sizes ``h [rows, 1]``, which the host knows too."""
        self.h = h
        self._sizes = known
        self._only = float(known[0])

    def combine(self, y: Tensor, row: int) -> Tensor:
        """Return ``y + h sum_j w_j k_j [rows, n]``; ``row`` i is the input of stage i + 1, the last the new state."""
        buffer = self.buffer
        if y.shape[0] == 1:
            # One row is the joint loop's vector, and takes its arithmetic: the same bits.
            return buffer.combine(y[0], row, self._only)[None]
        numbers = buffer.numbers[row]
        total: Tensor | None = None
        if not buffer.chained:
            total = torch.mv(buffer.k[: len(numbers)].t(), buffer.weights.rows[row])
            return torch.addcmul(y, total.view_as(y), self.h)
        for j in buffer.weights.used[row]:
            total = self.k[j] * numbers[j] if total is None else total.add_(self.k[j], alpha=numbers[j])
        return y.clone() if total is None else torch.addcmul(y, total, self.h)

    def error(self) -> Tensor:
        """Return the estimates of the steps' errors ``h sum_i e_i k_i [rows, n]``."""
        if len(self.h) == 1:
            return self.buffer.error(self._only)[None]
        error = torch.mv(self.buffer.k.t(), self.buffer.weights.error)  # type: ignore[arg-type]
        return error.view_as(self.k[0]).mul_(self.h)

    def dense_weights(self, inside: ReadInside) -> Tensor:
        """Return ``h b_i(theta)`` of the continuous extension, ``[s, m, 1]``."""
        powers = inside.thetas[:, None] ** np.arange(1, len((self.tableau.dense or [[]])[0]) + 1)
        weights = np.asarray(self.tableau.dense) @ powers.T * self._sizes[inside.rows]
        return sent_to(self.k.device, torch.from_numpy(weights), self.k.dtype)[..., None]

    def dense(self, y: Tensor, inside: ReadInside) -> Tensor:
        """Return the continuous extension ``[m, n]`` from ``y [rows, n]``."""
        if len(self.h) == 1:
            return self.buffer.dense(y[0], self._only, inside.thetas.tolist())
        rows = sent_to(y.device, torch.from_numpy(inside.rows))
        moved = self.k.index_select(1, rows).mul_(self.dense_weights(inside)).sum(0)
        return moved.add_(y.index_select(0, rows))

    def polynomial(self, y: Tensor) -> Tensor:
        """Return the coefficients ``[q + 1, rows, n]`` of the continuous extension in powers of theta.

        Raises
        ------
        UsageError
            If the tableau has no continuous extension.
        """
        self.tableau.weights_at(1.0)
        weights = torch.tensor(self.tableau.dense, dtype=torch.float64).t()
        powers = (sent_to(y.device, weights, y.dtype) @ self.buffer.k).view(-1, *y.shape)
        return torch.cat([y[None], powers.mul_(self.h)])


class RowStepper(Protocol):
    """Makes steps of rows without a graph; what it carries of a row begins with its state."""

    @property
    def failed(self) -> Truths:
        """Return the rows ``[rows]`` of the last attempt that could not be solved, whatever their errors."""
        ...

    @property
    def singular(self) -> Truths:
        """Return those of them that no shorter step would help."""
        ...

    @property
    def systems(self) -> "SystemCalls | None":
        """Return what its implicit attempts have called so far; None of explicit ones."""
        ...

    def start(self, samples: HostIntegers, t: HostFloats, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is carried of rows at ``(t, y [rows, n])``, and their rates ``[rows, n]``: one f call."""
        ...

    def stand_on(self, samples: HostIntegers, t: HostFloats, x: Tensor) -> None:
        """Stand on carried rows ``x`` that have been stored."""
        ...

    def state(self, x: Tensor) -> Tensor:
        """Return the states ``[rows, n]`` of carried rows."""
        ...

    def attempt(self, samples: HostIntegers, steps: RowSteps, x: Tensor, going_on: int | None = None) -> Tensor:
        """Return the carried rows after a step; only the first ``going_on`` of them have another, all if None."""
        ...

    def judged(self, *, accepted: bool) -> None:
        """Hear whether any row's step of the last attempt was accepted."""
        ...

    def error(self) -> Tensor:
        """Return the estimates of the last steps' errors, ``[rows, n]``."""
        ...

    def dense(self, y: Tensor, inside: ReadInside) -> Tensor:
        """Return the states ``[m, n]`` inside of the last steps from ``y [rows, n]``."""
        ...

    def polynomial(self, y: Tensor) -> Tensor:
        """Return the coefficients ``[q + 1, rows, n]`` of the continuous extensions in powers of theta."""
        ...

    def roll(self) -> None:
        """Stand on the new states of all rows."""
        ...

    def take(self, chosen: HostIntegers, source: Tensor, like: Tensor) -> None:
        """Stand on a selection of the old and the new states ``[2 rows]``, which the host knows too."""
        ...

    def narrow(self, rows: int) -> None:
        """Stand on the new states of the first so many rows."""
        ...


@dataclass
class SystemCalls:
    """The f calls of implicit attempts."""

    calls: int
    rows: int
    iterations: HostIntegers
    """``[stages, rows]``: Newton's iterations of every row at the solved stages of the last attempt."""

    def made(self, rows: int) -> None:
        """Count one call of so many rows."""
        self.calls += 1
        self.rows += rows


class PlainRowStepper:
    """Makes explicit steps without a graph; the first stage is the last one of the step before."""

    def __init__(self, dynamics: RowDynamics, tableau: Tableau, like: Tensor) -> None:
        self.dynamics = dynamics
        self.tableau = tableau
        self.stages = RowStages(tableau, like)

    @property
    def failed(self) -> Truths:
        """Return that none did: explicit steps have nothing to solve."""
        return np.zeros(len(self.stages.h), dtype=np.bool_)

    singular = failed

    @property
    def systems(self) -> None:
        """Return that there are none."""
        return

    def start(self, samples: HostIntegers, t: HostFloats, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``y`` itself, and the first stage there."""
        self.stand_on(samples, t, y)
        return y, self.stages.k[0]

    def stand_on(self, samples: HostIntegers, t: HostFloats, x: Tensor) -> None:
        """Evaluate the first stage at ``(t, x)``."""
        self.dynamics.prepare(samples, t[None])
        self.dynamics.write(sent_to(x.device, torch.from_numpy(t), x.dtype), x, self.stages.k[0], 0)

    def state(self, x: Tensor) -> Tensor:
        """Return ``x`` itself."""
        return x

    def judged(self, *, accepted: bool) -> None:
        """Need nothing."""

    def error(self) -> Tensor:
        """Return the estimates of the last steps' errors, ``[rows, n]``."""
        return self.stages.error()

    def dense(self, y: Tensor, inside: ReadInside) -> Tensor:
        """Return the states ``[m, n]`` inside of the last steps from ``y [rows, n]``."""
        return self.stages.dense(y, inside)

    def polynomial(self, y: Tensor) -> Tensor:
        """Return the coefficients ``[q + 1, rows, n]`` of the continuous extensions in powers of theta."""
        return self.stages.polynomial(y)

    def attempt(self, samples: HostIntegers, steps: RowSteps, x: Tensor, going_on: int | None = None) -> Tensor:
        """Return the states ``[rows, n]`` after a step from ``x``, whose first stage is known.

        The last stage, at the new state, is evaluated for the first ``going_on`` rows; for all if None.
        """
        tableau, stages = self.tableau, self.stages
        self.dynamics.prepare(samples, steps.times(tableau))
        times, h = steps.sent(tableau, x)
        stages.set_sizes(h, steps.h)
        z, rows = x, len(x)
        last = tableau.stages - 1
        for i in range(1, tableau.stages):
            z = stages.combine(x, i - 1)
            count = rows if i < last or going_on is None else going_on
            if count == rows:
                self.dynamics.write(times[i], z, stages.k[i], i)
            elif count:
                self.dynamics.write(times[i, :count], z[:count], stages.k[i, :count], i)
        return z

    def roll(self) -> None:
        """Make the last stage the first, for all rows."""
        self.stages.k[0].copy_(self.stages.k[-1])

    def take(self, chosen: HostIntegers, source: Tensor, like: Tensor) -> None:  # noqa: ARG002
        """Make a selection of the first and the last stages ``[2 rows]`` the first ones of rows like ``like``."""
        first = torch.cat([self.stages.k[0], self.stages.k[-1]]).index_select(0, source)
        if len(source) != len(self.stages.k[0]):
            self.stages = RowStages(self.tableau, like)
        self.stages.k[0].copy_(first)

    def narrow(self, rows: int) -> None:
        """Make the last stages of the first so many rows the first ones."""
        last = self.stages.k[-1, :rows]
        if rows == len(self.stages.k[0]):
            self.roll()
            return
        self.stages = RowStages(self.tableau, last)
        self.stages.k[0].copy_(last)
