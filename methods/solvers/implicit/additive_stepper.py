"""The steps of an implicit-explicit pair without a graph: Newton's iteration on the stiff half alone.

As those of an implicit method a step is a function of ``(t, h, y)`` alone, bit for bit.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from odegrad.errors import UsageError
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.additive import Imex, PairWeights
from odegrad.methods.solvers.implicit.linear import Jacobians, Linearisation
from odegrad.methods.solvers.implicit.newton import LINEAR_PART, Newton
from odegrad.methods.solvers.implicit.stepper import ImplicitStepper
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.states import sent_to


class PairStepper(ImplicitStepper):
    """The steps without a graph.

    Parameters
    ----------
    solver, scheme, like, refuse_mixing
        As of ``ImplicitStepper``.
    field
        The whole field, whose halves are ``field.half("stiff")`` and ``field.half("rest")``.

    Raises
    ------
    UnsupportedError
        If the field is not split.
    """

    def __init__(
        self, solver: OneStepSolver, scheme: Imex, field: FlatField, like: Tensor, *, refuse_mixing: bool = False
    ) -> None:
        super().__init__(solver, scheme, field.half("stiff"), like, refuse_mixing=refuse_mixing)
        self.pair = scheme
        self.whole = field
        self.rest = field.half("rest")
        self.of_pair = PairWeights.of(scheme.tableau, scheme.partner, like.dtype, like.device)
        self.both = like.new_empty((self.tableau.stages, 2, self.d))
        """The rates of the stages, the stiff half's and the rest's, sample behind sample."""
        self.k = self.both[:, 0]
        self._start: Tensor | None = None
        self._compared = True
        self._known = False

    @property
    def rest_jacobians(self) -> Jacobians:
        """Return what linearises the rest; no Jacobian of it is formed."""
        return Jacobians.of(self.rest, self.scheme.linear)

    def start(self, t: float, y0: Tensor) -> Tensor:
        """Return ``y0`` itself; f there chooses the first step, and is what the halves must sum to."""
        self._at, self._known, self._compared = None, False, False
        self._start = torch.empty_like(y0)
        self.whole.write(t, y0.detach(), self._start, 0)
        return y0

    def rate(self, t: float, x: Tensor) -> Tensor:
        """Return f of the start, or at any other state."""
        if self._start is not None and not self._compared:
            return self._start
        out = torch.empty_like(x)
        self.whole.write(t, x.detach(), out, 0)
        return out

    def _solved(self, t: float, h: float, t_next: float, x: Tensor) -> Tensor:
        tableau, samples, hg = self.tableau, self.samples, h * self.tableau.gamma
        self.tell_lost()
        y, calls = samples.of(x), 0
        flat, times = y.reshape(-1), tableau.times(t, h, t_next)
        at = self.linearised(t, y)
        newton = Newton(self.jacobians, y, self.tolerances, self.scheme.newton)
        self._system = at.system(hg, newton.scale, LINEAR_PART * self.scheme.newton)
        self.k[0].copy_(at.dy.detach().view(-1))
        if not self._known:
            # Of another attempt from the same state it is known.
            self._evaluate_rest(0, at.t, y)
            self._known, calls = True, 1
            self._compare(t)
        self.stages, iterations = [], 0
        seen, z = self.rest.times(times), torch.mul(self.k[0].view_as(y), hg)
        for i in tableau.solved:
            known = self.both[:i].view(2 * i, -1)
            base = torch.addmv(flat, known.t(), self.of_pair.rows[i], alpha=h).view_as(y)
            stage = newton.solve(seen[i], base, z, self._system, hg)
            iterations += stage.iterations
            if not stage.converged:
                self._untold = dataclasses.replace(self._work(iterations, failures=1), rest=calls)
                self.tell_lost()
                raise self._failure(at, t, h, i, stage)
            torch.div(z.view(-1), hg, out=self.k[i])
            self._evaluate_rest(i, seen[i], stage.y)
            calls += 1
            self.stages.append(stage.y)
        self._untold = dataclasses.replace(self._work(iterations), rest=calls)
        end = torch.addmv(self.stages[-1].view(-1), self.both[:, 1].t(), self.of_pair.left, alpha=h)
        return samples.flat(end.view_as(y))

    def _evaluate_rest(self, i: int, time: Tensor, y: Tensor) -> None:
        """Write the rest's rate at a stage."""
        if self.rest.unchecked:
            found = Linearisation(self.rest_jacobians, time, y, formed=False).dy.detach()
        else:
            found = self.samples.call(self.rest, time, y)
        self.both[i, 1].copy_(found.reshape(-1))

    def _compare(self, t: float) -> None:
        """Raise if the halves do not sum to the whole field, at the start of the first step.

        Raises
        ------
        UsageError
            If they do not.
        """
        if self._compared or self._start is None:
            return
        self._compared = True
        whole = self.samples.of(self._start).reshape(-1)
        halves = self.both[0]
        off, size = torch.stack(
            [torch.linalg.vector_norm(halves.sum(0) - whole), torch.linalg.vector_norm(halves)]
        ).tolist()
        bound = 1e-6 if whole.dtype == torch.float64 else 1e-3
        if math.isfinite(off) and off > bound * size:
            raise UsageError(
                f"field: at the start, t = {t:g}, stiff(t, y) + rest(t, y) is off field(t, y) by {off:.3g}, and the "
                f"halves are of size {size:.3g}; solver {self.scheme.name} takes two halves whose sum is the field: "
                "split it again, or use kencarp4, which takes it whole"
            )

    def error(self, h: float) -> Tensor:
        """Return ``W^-1 (e - m) + m``: ``e = h sum_i (b_i - b^_i) (k_i + r_i)``, ``m = h sum_i (b_i - e_si) r_i``.

        ``m`` is what the rest moves the end by from the last stage. The implicit method damps what it does on fast
        modes, so ``e`` is filtered there; it does not damp ``m``, which is of the third order and all of the error
        there. On slow modes ``m - W^-1 m`` is of the order of ``e``.
        """
        raw, moved = torch.mm(self.of_pair.error, self.both.view(-1, self.d)).mul_(h).unbind(0)
        return self._filtered(raw).add_(self.samples.flat(moved.view_as(self.stages[-1])))

    def accept(self) -> None:
        """Stand on the new state: nothing of the old one is known any more."""
        super().accept()
        self._known = False

    def slopes(self) -> Tensor:
        """Return the coefficients of ``h theta`` and ``h theta^2`` in the dense output, ``[2, d]``."""
        found = torch.mm(self.of_pair.dense, self.both.view(-1, self.d))
        return torch.stack([self.samples.flat(row.view(self.samples.batch, self.samples.n, 1)) for row in found])

    def dense(self, x: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the pair's dense output ``[m, d]``, of order 3; bounded however stiff, as the step is."""
        rows = torch.tensor([(t, t * t, t**3) for t in thetas], dtype=torch.float64)
        powers = sent_to(x.device, rows, x.dtype)
        return torch.addmm(x.expand(len(thetas), -1), powers, self.polynomial(x, h)[1:])

    def polynomial(self, x: Tensor, h: float) -> Tensor:
        """Return the coefficients ``[4, d]`` of the dense output in powers of theta."""
        first, second = (h * self.known_slopes()).unbind(0)
        # What is left belongs to theta^3, so that the polynomial meets the step's end exactly.
        return torch.stack([x, first, second, self.x_next - x - first - second])

    def known_slopes(self) -> Tensor:
        """Return ``slopes()`` as the steps hold them: with a graph where these have one."""
        return self.slopes()
