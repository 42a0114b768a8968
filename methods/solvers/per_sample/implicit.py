"""Implicit steps on rows: every sample has its own time, size and system, and its Newton iteration ends by itself.

Carried are ``(y, k)``, as in the joint loop: the rate at the end of a step is that of its last stage.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from odegrad.contracts import ImplicitWork, State
from odegrad.errors import NewtonError, UnsupportedError
from odegrad.methods.solvers.implicit.linear import MAX_IN_BLOCK, Jacobians, Linearisation
from odegrad.methods.solvers.implicit.newton import (
    AT_ONCE,
    DIVERGED,
    MAX_NEWTON,
    ROUNDING_FLOOR,
    STANDS_STILL_RATE,
)
from odegrad.methods.solvers.implicit.pullback import tell
from odegrad.methods.solvers.implicit.tableau import Implicit, ImplicitWeights
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.stages import ReadInside, RowSteps, SystemCalls
from odegrad.methods.solvers.per_sample.times import HostFloats, HostIntegers, Truths
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.states import Layout, sent_to


class RowsOfWidth:
    """The user's field on so many rows, as what is linearised: its times are those of the rows, ``[rows]``."""

    def __init__(self, field: RowField, layout: Layout) -> None:
        self.field = field
        self.layout = layout

    def time(self, t: float) -> Tensor:
        """Refuse one time for all rows."""
        raise UnsupportedError(f"t = {t:g}: rows have times of their own; expected a tensor of them")

    def parts(self, time: Tensor, y: State) -> Sequence[Tensor]:
        """Return the parts of ``dy/dt`` at ``time [rows]`` and a state in the user's shapes."""
        return self.field.parts_at(time, y)

    def pulled_through(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor], *, keep: bool = False
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients by ``inputs``, pulled back through calls; ``keep`` keeps the graph."""
        return self.field.pulled_through(outputs, inputs, grads, keep=keep)

    def refuse_unchecked(self, dy: Tensor, *known: Tensor) -> None:
        """Make the check of a first call that has been asked for."""
        self.field.refuse_unchecked(dy, *known)


def jacobians_of(field: RowField, rows: int) -> Jacobians:
    """Return what forms the Jacobians of ``rows`` samples, made once for each number of them.

    Raises
    ------
    UnsupportedError
        If a sample is too large for a Jacobian of its own.
    """
    key = ("rows", rows)
    found = field.kept.get(key)
    if not isinstance(found, Jacobians):
        if field.rows.n > MAX_IN_BLOCK:
            raise UnsupportedError(
                f"batch = 'per_sample': an implicit solver forms a Jacobian of at most {MAX_IN_BLOCK} numbers for each "
                f"sample, and one of this state holds {field.rows.n}; take an explicit solver such as dopri5, or batch "
                "= 'joint'"
            )
        sized = RowsOfWidth(field, field.rows.of_width(rows))
        found = field.kept[key] = Jacobians(sized, "blocks", field.units)
    return found


class ImplicitRowStepper:
    """The steps without a graph; a row is ``(y, k) [2n]``.

    A step of one row is that of the joint loop, bit for bit.
    """

    def __init__(self, field: RowField, solver: OneStepSolver, scheme: Implicit, like: Tensor) -> None:
        self.field, self.scheme, self.tableau = field, scheme, scheme.tableau
        self.observer = solver.observer
        self.rtol, self.atol = solver.controller.rtol, solver.controller.atol
        self.n = field.rows.n
        self.weights = ImplicitWeights.of(self.tableau, like.dtype, like.device)
        self.k = like.new_empty((self.tableau.stages, len(like) * self.n))
        self.stages: list[Tensor] = []
        """The solved stages ``[rows, n, 1]`` of the last attempt."""
        self.failed: Truths = np.zeros(len(like), dtype=np.bool_)
        """Rows of the last attempt whose stages are not solved."""
        self.singular: Truths = self.failed
        """Those of them whose Jacobian is not finite."""
        self.matrix = like.new_zeros((len(like), self.n, self.n))
        """Of each row ``f_y`` where it stands."""
        self.stale: Truths = np.ones(len(like), dtype=np.bool_)
        """Rows whose matrix is that of a state before."""
        self.systems = SystemCalls(0, 0, np.zeros((len(self.tableau.solved), 0), dtype=np.int64))
        self._h: float | Tensor = 0.0
        self._factors: tuple[Tensor, Tensor] | None = None
        self._untold: ImplicitWork | None = None

    def start(self, samples: HostIntegers, t: HostFloats, y: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the carried rows and their rates: one f call."""
        rate = torch.empty_like(y)
        self.field.write_rows(sent_to(y.device, torch.from_numpy(t), y.dtype), y, rate)
        return torch.cat([y, rate], dim=1), rate

    def stand_on(self, samples: HostIntegers, t: HostFloats, x: Tensor) -> None:
        """Need nothing: the rate is carried."""

    def state(self, x: Tensor) -> Tensor:
        """Return the states ``[rows, n]`` of carried rows."""
        return x[:, : self.n]

    @torch.no_grad()
    def attempt(self, samples: HostIntegers, steps: RowSteps, x: Tensor, going_on: int | None = None) -> Tensor:  # noqa: ARG002
        """Return the carried rows after a step from ``x``; rows that rest, by a step of 0, are not looked at."""
        tableau, shape = self.tableau, (len(x), self.n, 1)
        times, self._h = self.sent(steps, x)
        y = x[:, : self.n].reshape(shape)
        hg = self._h * tableau.gamma
        built = self._linearise(steps, y)
        w = torch.mul(self.matrix, -hg)
        w.diagonal(dim1=1, dim2=2).add_(1.0)
        # Without a check, which would wait for the device: a singular block gives numbers that are not finite.
        lu, pivots, _ = torch.linalg.lu_factor_ex(w)
        self._factors = lu, pivots
        newton = _RowNewton(self, y, hg, np.flatnonzero(steps.h != 0.0))
        self.k[0].copy_(x[:, self.n :].reshape(-1))
        self.stages = []
        self.systems.iterations = np.zeros((len(tableau.solved), len(x)), dtype=np.int64)
        z = torch.mul(self.k[0].view(shape), hg)
        for i in tableau.solved:
            taken = self.systems.iterations[i - tableau.solved.start]
            stage = newton.solve(times[i], self._base(y, i), z, lu, pivots, taken)
            self.k[i].copy_(torch.div(z, hg).view(-1))
            self.stages.append(stage)
        self.failed = np.zeros(len(x), dtype=np.bool_)
        self.failed[newton.lost] = True
        self.singular = self.failed
        if len(newton.lost):
            finite = torch.isfinite(self.matrix).all(-1).all(-1).cpu().numpy()
            self.singular = self.failed & ~finite
        self._untold = ImplicitWork(
            newton=newton.calls,
            failures=len(newton.lost),
            jacobians=int(built),
            factorisations=1,
            solves=newton.calls,
            products=jacobians_of(self.field, len(x)).products if built else 0,
        )
        return torch.cat([self.stages[-1][..., 0], self.k[-1].view(len(x), self.n)], dim=1)

    def judged(self, *, accepted: bool) -> None:
        """Tell of the last attempt: of work that was lost, where it was no row's step."""
        if self._untold is not None:
            tell(self.observer, self._untold if accepted else self._untold.lost())
            self._untold = None

    def sent(self, steps: RowSteps, x: Tensor) -> tuple[Tensor, float | Tensor]:
        """Return the stages' times ``[s, rows]`` and the sizes, ``[rows, 1, 1]``; of one row a number."""
        times = np.stack([steps.t_next if c == 1.0 else steps.t + c * steps.h for c in self.tableau.c])
        numbers = sent_to(x.device, torch.from_numpy(np.concatenate([times, steps.h[None]])), x.dtype)
        # One row takes the joint loop's arithmetic: the same bits.
        return numbers[:-1], float(steps.h[0]) if len(x) == 1 else numbers[-1][:, None, None]

    def _base(self, y: Tensor, i: int) -> Tensor:
        weights = self.weights.rows[i]
        if isinstance(self._h, float):
            return torch.addmv(y.reshape(-1), self.k[:i].t(), weights, alpha=self._h).view_as(y)
        return torch.addcmul(y, torch.mv(self.k[:i].t(), weights).view_as(y), self._h)

    def _linearise(self, steps: RowSteps, y: Tensor) -> bool:
        """Form the Jacobians of rows that stand on new states; return whether there were any."""
        rows = np.flatnonzero(self.stale & (steps.h != 0.0))
        if not len(rows):
            return False
        t = sent_to(y.device, torch.from_numpy(steps.t[rows]), y.dtype)
        place = None if len(rows) == len(y) else sent_to(y.device, torch.from_numpy(rows))
        at = Linearisation(jacobians_of(self.field, len(rows)), t, y if place is None else y.index_select(0, place))
        self.systems.made(len(rows))
        if at.matrix is not None:
            self.matrix = at.matrix if place is None else self.matrix.index_copy(0, place, at.matrix)
        self.stale[rows] = False
        return True

    def error(self) -> Tensor:
        """Return ``W^-1 h sum_i (b_i - b^_i) k_i [rows, n]``."""
        if self._factors is None or self.weights.error is None:
            raise UnsupportedError(f"solver {self.scheme.name}: it has no error estimate; use kencarp4")
        raw = torch.mv(self.k.t(), self.weights.error).view_as(self.stages[-1]).mul_(self._h)
        if not self.failed.all():
            tell(self.observer, ImplicitWork(solves=1))
        found: Tensor = torch.linalg.lu_solve(*self._factors, raw)
        return found[..., 0]

    def dense(self, y: Tensor, inside: ReadInside) -> Tensor:  # noqa: ARG002
        """Refuse: nobody reads implicit steps of rows inside."""
        return self.polynomial(y)

    def polynomial(self, y: Tensor) -> Tensor:  # noqa: ARG002
        """Refuse: nobody reads implicit steps of rows inside."""
        raise UnsupportedError(f"solver {self.scheme.name}: its steps of single samples have no dense output here")

    def roll(self) -> None:
        """Stand on the new states of all rows."""
        self.stale[:] = True

    def take(self, chosen: HostIntegers, source: Tensor, like: Tensor) -> None:
        """Stand on a selection ``[rows]`` of the old and the new states ``[2 rows]``."""
        count = len(self.stale)
        stale = np.where(chosen < count, self.stale[chosen % count], True)
        self.matrix = self.matrix.index_select(0, source.remainder(count))
        self.stale = np.asarray(stale, dtype=np.bool_)
        self._fit(len(like))

    def narrow(self, rows: int) -> None:
        """Stand on the new states of the first so many rows."""
        self.matrix, self.stale = self.matrix[:rows], np.ones(rows, dtype=np.bool_)
        self._fit(rows)

    def _fit(self, rows: int) -> None:
        if self.k.shape[1] != rows * self.n:
            self.k = self.k.new_empty((self.tableau.stages, rows * self.n))


class _RowNewton:
    """Simplified Newton iterations of all rows, by the rule of ``implicit.newton``, each ending by itself.

    Rows that have come to their tolerance leave the iteration, so that no sample's stage depends on its mates'.
    """

    def __init__(self, stepper: ImplicitRowStepper, y: Tensor, hg: float | Tensor, rows: HostIntegers) -> None:
        self.field, self.hg, self.kappa = stepper.field, hg, stepper.scheme.newton
        self.scale = y.abs().mul_(stepper.rtol).add_(stepper.atol)
        self.rows = rows
        """Those that are iterated: neither resting nor lost in a stage before."""
        self.lost: HostIntegers = np.zeros(0, dtype=np.int64)
        self.calls = 0
        self._systems = stepper.systems
        self._rounding = ROUNDING_FLOOR * torch.finfo(y.dtype).eps
        largest = torch.linalg.vector_norm(y, math.inf, dim=(1, 2)).to("cpu", torch.float64).numpy()
        self._suspect: HostFloats = 100.0 * self._rounding * (1.0 + largest) / stepper.atol

    def solve(self, t: Tensor, base: Tensor, z: Tensor, lu: Tensor, pivots: Tensor, taken: HostIntegers) -> Tensor:
        """Return the stage ``Y = base + z [rows, n, 1]`` with ``z = hg f(t [rows], Y)``; ``z`` is written over.

        ``taken [rows]`` counts the iterations.
        """
        active, before = self.rows, np.full(len(base), math.inf)
        lost: list[HostIntegers] = []
        for iteration in range(1, MAX_NEWTON + 1):
            if not len(active):
                break
            sizes, of_change, of_stage = self._corrected(active, t, base, z, lu, pivots)
            taken[active] += 1
            with np.errstate(all="ignore"):
                rate = sizes / before[active]
                before[active] = sizes
                finite = np.isfinite(sizes)
                stands = (iteration > 1) & (rate >= STANDS_STILL_RATE) & (sizes <= self._suspect[active])
                rounding = stands & (of_change <= self._rounding * of_stage)
                small = (iteration > 1) & (rate < 1.0) & (rate / (1.0 - rate) * sizes <= self.kappa)
                diverged = (iteration > 1) & (rate >= DIVERGED) & ~rounding
            done = finite & (rounding | (~diverged & (small | (sizes <= AT_ONCE * self.kappa))))
            gone = ~done & (diverged | ~finite)
            lost.append(active[gone])
            active = active[~done & ~gone]
        lost.append(active)
        gone_rows = np.concatenate(lost)
        self.lost = np.union1d(self.lost, gone_rows)
        self.rows = np.setdiff1d(self.rows, gone_rows)
        return torch.add(base, z)

    def _corrected(
        self, active: HostIntegers, t: Tensor, base: Tensor, z: Tensor, lu: Tensor, pivots: Tensor
    ) -> tuple[HostFloats, HostFloats, HostFloats]:
        """Correct ``z`` of some rows in place; return the corrections' sizes, and the largest of them and of ``Y``."""
        place = None if len(active) == len(base) else sent_to(base.device, torch.from_numpy(active))

        def of(x: Tensor) -> Tensor:
            return x if place is None else x.index_select(0, place)

        own, times = of(z), of(t)
        y = torch.add(of(base), own)
        rate = torch.empty_like(y)
        self.field.write_rows(times, y[..., 0], rate[..., 0])
        self.calls += 1
        self._systems.made(len(active))
        if isinstance(self.hg, float):
            residual = torch.sub(own, rate, alpha=self.hg)
        else:
            residual = torch.addcmul(own, rate, of(self.hg), value=-1.0)
        change = torch.linalg.lu_solve(of(lu), of(pivots), residual)
        own = own.sub_(change)
        if place is not None:
            z.index_copy_(0, place, own)
        n = y.shape[1]
        sizes = torch.linalg.vector_norm(torch.div(change, of(self.scale)), dim=(1, 2))
        largest = [torch.linalg.vector_norm(x, math.inf, dim=(1, 2)) for x in (change, y)]
        # The iteration's one read of the device.
        found = torch.stack([sizes, *largest]).to("cpu", torch.float64).numpy()
        return found[0] / math.sqrt(n), found[1], found[2]


def refuse_lost(stepper: ImplicitRowStepper, samples: HostIntegers, steps: RowSteps) -> None:
    """Raise if a step that is taken again, and was solved before, is not solved.

    Raises
    ------
    NewtonError
        If so.
    """
    if stepper.failed.any():
        row = int(np.flatnonzero(stepper.failed)[0])
        raise NewtonError(
            f"solver {stepper.scheme.name}, sample {int(samples[row])}: the step from t = {steps.t[row]:g} with h = "
            f"{steps.h[row]:g} was solved in the forward pass and is not when it is taken again; does the field change "
            "between its calls? Expected one function of time and state"
        )
