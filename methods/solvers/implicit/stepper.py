"""The steps of a diagonally implicit Runge-Kutta method without a graph.

A step is a function of ``(t, h, x)`` alone, bit for bit: Jacobian, factors and first guesses are made from them, so
that a replay repeats it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from odegrad.contracts import ImplicitWork
from odegrad.errors import NewtonError, NonFiniteError, UnsupportedError
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.linear import Linearisation, System
from odegrad.methods.solvers.implicit.linearised import LinearisedStepper
from odegrad.methods.solvers.implicit.newton import LINEAR_PART, Newton, Stage
from odegrad.methods.solvers.implicit.pullback import tell
from odegrad.methods.solvers.implicit.tableau import Implicit, ImplicitWeights
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import AcceptedStep
from odegrad.states import sent_to


class ImplicitStepper(LinearisedStepper[Linearisation]):
    """The steps of ``scheme`` without a graph; the other parameters are those of ``LinearisedStepper``."""

    def __init__(
        self, solver: OneStepSolver, scheme: Implicit, field: FlatField, like: Tensor, *, refuse_mixing: bool = False
    ) -> None:
        super().__init__(solver, scheme.linear, field, like, refuse_mixing=refuse_mixing)
        self.scheme = scheme
        self.tableau = scheme.tableau
        self.tolerances = (solver.controller.rtol, solver.controller.atol)
        self.weights = ImplicitWeights.of(self.tableau, like.dtype, like.device)
        self.k = like.new_empty((self.tableau.stages, self.d))
        """The rates of the stages, sample behind sample."""
        self.stages: list[Tensor] = []
        """The solved stages ``[batch, n, 1]`` of the last attempt."""
        self._system: System | None = None

    def start(self, t: float, y0: Tensor) -> Tensor:
        """Return ``(y0, f(t0, y0))``, or ``y0`` itself where no rate is carried."""
        self._at = None
        return torch.cat([y0, self._evaluate(t, y0)]) if self.scheme.carries_rate else y0

    def _evaluate(self, t: float, y: Tensor) -> Tensor:
        """Return ``f(t, y) [d]``."""
        out = torch.empty_like(y)
        self.field.write(t, y, out, 0)
        return out

    def rate(self, t: float, x: Tensor) -> Tensor:
        """Return the carried rate; f at the state where none is."""
        return x[self.d :].detach() if self.scheme.carries_rate else self._evaluate(t, x)

    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:  # noqa: ARG002
        """Return the carried vector after a step from ``x``.

        Raises
        ------
        NewtonError
            If Newton's iteration does not solve a stage.
        NonFiniteError
            If it does not because the Jacobian is not finite.
        """
        with torch.no_grad():
            self.x_next = self._solved(t, h, t_next, x.detach())
        return self.x_next

    def _solved(self, t: float, h: float, t_next: float, x: Tensor) -> Tensor:
        tableau, samples, hg = self.tableau, self.samples, h * self.tableau.gamma
        self.tell_lost()
        y = samples.of(x[: self.d])
        flat, at = y.reshape(-1), self.linearised(t, y)
        newton = Newton(self.jacobians, y, self.tolerances, self.scheme.newton)
        self._system = at.system(hg, newton.scale, LINEAR_PART * self.scheme.newton)
        if self.scheme.carries_rate:
            self.k[0].copy_(samples.of(x[self.d :]).view(-1))
        self.stages, iterations = [], 0
        times = self.field.times(tableau.times(t, h, t_next))
        # The first guess is the rate of the stage before: at the first one f at the start, which the Jacobian's call
        # has told where it is no stage.
        z = torch.mul(self.k[0].view_as(y) if self.scheme.carries_rate else at.dy.detach(), hg)
        for i in tableau.solved:
            base = torch.addmv(flat, self.k[:i].t(), self.weights.rows[i], alpha=h).view_as(y) if i else y
            stage = newton.solve(times[i], base, z, self._system, hg)
            iterations += stage.iterations
            if not stage.converged:
                self._untold = self._work(iterations, failures=1)
                self.tell_lost()
                raise self._failure(at, t, h, i, stage)
            torch.div(z.view(-1), hg, out=self.k[i])
            self.stages.append(stage.y)
        self._untold = self._work(iterations)
        return self._end(flat, h)

    def linearise(self, t: float, y: Tensor) -> Linearisation:
        """Return ``f`` and ``f_y`` at the start of a step."""
        return Linearisation(self.jacobians, self.field.time(t), y)

    def _end(self, y: Tensor, h: float) -> Tensor:
        """Return the carried vector at the end; ``y [d]`` is the start, sample behind sample."""
        samples, last = self.samples, self.stages[-1]
        if not self.tableau.stiffly_accurate:
            return samples.flat(torch.addmv(y, self.k.t(), self.weights.b, alpha=h).view_as(last))
        if not self.scheme.carries_rate:
            return samples.flat(last)
        return torch.cat([samples.flat(last), samples.flat(self.k[-1].view_as(last))])

    def error(self, h: float) -> Tensor:
        """Return ``W^-1 h sum_i (b_i - b^_i) k_i``: the embedded estimate, which is bounded on fast modes by ``W``."""
        if self._system is None or self.weights.error is None:
            raise UnsupportedError(f"solver {self.scheme.name}: it has no error estimate; use kencarp4")
        return self._filtered(torch.mv(self.k.t(), self.weights.error).mul_(h))

    def _filtered(self, raw: Tensor) -> Tensor:
        """Return ``W^-1`` times an estimate, ``[d]`` sample behind sample, as a state."""
        if self._system is None:
            raise UnsupportedError(f"solver {self.scheme.name}: no step has been attempted; call attempt first")
        tell(self.observer, ImplicitWork(solves=1))
        return self.samples.flat(self._system.solve(raw.view_as(self.stages[-1])))

    def accept(self) -> None:
        """Stand on the new state: the Jacobian of the old one is no longer known, nor are its factors."""
        super().accept()
        self._system = None

    def _work(self, iterations: int, failures: int = 0) -> ImplicitWork:
        built = self.newly_built()
        return ImplicitWork(
            newton=iterations,
            failures=failures,
            jacobians=built,
            factorisations=1,
            solves=iterations,
            products=self.jacobians.products * built,
        )

    def _failure(self, at: Linearisation, t: float, h: float, i: int, stage: Stage) -> NewtonError | NonFiniteError:
        """Return why a stage is not solved."""
        name = self.scheme.name
        if not at.is_finite():
            return NonFiniteError(
                f"solver {name}: the field's Jacobian is not finite at t = {t:g}; the field has an infinite slope "
                "there (a root, a quotient): bound it, or take an explicit solver such as dopri5"
            )
        if not stage.finite and at.is_singular(h * self.tableau.gamma):
            return NewtonError(
                f"solver {name}: the linear system of the step from t = {t:g} with h = {h:g} is singular, as the field "
                "grows by one over the step there; take shorter steps (num_steps), or an adaptive implicit solver such "
                "as kencarp4"
            )
        if stage.stalled is not None:
            return NewtonError(
                f"solver {name}: at t = {t:g} with h = {h:g} the corrections of Newton's iteration stand still at "
                f"{stage.stalled:.2g} times its tolerance, by the field's own rounding in {at.y.dtype}; loosen rtol "
                "and atol, or use float64"
            )
        why = "does not come to its tolerance" if stage.finite else "meets numbers that are not finite"
        return NewtonError(
            f"solver {name}: Newton's iteration {why} in stage {i + 1} of the step from t = {t:g} with h = {h:g}; take "
            "shorter steps (num_steps), or an adaptive implicit solver such as kencarp4"
        )

    def dense(self, x: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the cubic Hermite polynomial of states and rates at both ends, ``[m, d]``."""
        weights = hermite_weights(h, thetas, x)
        return torch.addmm(x[: self.d].expand(len(weights), -1), weights, torch.stack(self._ends(x)))

    def polynomial(self, x: Tensor, h: float) -> Tensor:
        """Return the coefficients ``[4, d]`` of the Hermite polynomial in powers of theta."""
        self._ends(x)
        return hermite_polynomial(x, self.x_next, h)

    def _ends(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the state's change and the rates at both ends, ``[d]`` each."""
        if not self.scheme.carries_rate:
            raise UnsupportedError(f"solver {self.scheme.name}: it has no dense output; use kencarp4")
        d = self.d
        return self.x_next[:d] - x[:d], x[d:], self.x_next[d:]


def hermite_weights(h: float, thetas: Sequence[float], like: Tensor) -> Tensor:
    """Return the weights ``[m, 3]`` of ``y' - y``, ``k`` and ``k'`` in the Hermite polynomial, like ``like``."""
    # In float64 on the host, as the weights of the explicit methods.
    rows = [(t * t * (3 - 2 * t), h * t * (1 - t) ** 2, h * t * t * (t - 1)) for t in thetas]
    return sent_to(like.device, torch.tensor(rows, dtype=torch.float64), like.dtype)


def hermite_polynomial(x: Tensor, x_next: Tensor, h: float) -> Tensor:
    """Return the coefficients ``[4, d]`` of the Hermite polynomial from ``(y, k)`` to ``(y', k')``, ``[2d]`` each."""
    (y, before), (y_next, after) = x.tensor_split(2), x_next.tensor_split(2)
    change = y_next - y
    cubic = torch.add(torch.add(before, after).mul_(h), change, alpha=-2.0)
    return torch.stack([y, h * before, change - h * before - cubic, cubic])


def solved_stages(step: AcceptedStep) -> list[Tensor]:
    """Return the stages ``[batch, n, 1]`` that an implicit step has solved for.

    Raises
    ------
    UnsupportedError
        If the step is not implicit.
    """
    if not isinstance(step.stepper, ImplicitStepper):
        raise UnsupportedError(f"expected an implicit step, got one of {type(step.stepper).__name__}; use kencarp4")
    return step.stepper.stages
