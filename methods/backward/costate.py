"""The costate equation that the continuous methods solve backwards.

With the costate ``a(t) = dL/dy(t)``: ``da/dt = -f_y^T a`` and ``dL/dtheta = g(t0)``, ``dg/dt = -f_theta^T a``
(Pontryagin; Chen et al. 2018, section 2). The state ``y(t)`` is solved along, or read from a stored trajectory.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from odegrad.contracts import Tap
from odegrad.errors import UsageError
from odegrad.methods.backward.implicit.costate import ImplicitCostateStepper
from odegrad.methods.backward.products import add_to
from odegrad.methods.solvers.control import StepSize
from odegrad.methods.solvers.dynamics import TRIAL, FlatField, Tolerances
from odegrad.methods.solvers.implicit.tableau import Implicit, ImplicitTableau
from odegrad.methods.solvers.loop import steps
from odegrad.methods.solvers.one_step.options import Norm
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import AcceptedStep, Stepper
from odegrad.methods.solvers.tableau import Tableau
from odegrad.states import parts

Parameters = Literal["quadrature", "state", "seminorm"]
"""How ``dL/dtheta`` is integrated: by the weights of the accepted steps, outside of state and norm; as a part of the
solved state and its norm (as published); or as a part of the state, outside of the norm (Kidger et al. 2021)."""


class Trajectory(Protocol):
    """A stored solution."""

    def at(self, times: Sequence[float]) -> Tensor:
        """Return the states ``[m, d]`` at ``times``."""
        ...


INTEGRAL_OFF = 10.0
"""By how many tolerances the integral of f may be off in a step whose state is read from a trajectory."""


class CostateDynamics:
    """The right-hand side of the backward solve over ``x = (y?, a, g?)``.

    ``g`` is collected by ``collect`` on accepted steps if ``mode`` is ``quadrature``, and in ``x`` otherwise. With a
    ``trajectory`` f is evaluated at its states, and the ``y`` in ``x`` is the integral of f, which only judges the
    steps: where f jumps or oscillates and ``f_y`` does not, as under a control that is switched on, the costate is
    smooth, and alone it would choose steps too long for the parameters' integral. Implicit steps carry ``a`` alone, and
    are judged by both.
    """

    def __init__(
        self,
        field: FlatField,
        parameters: Sequence[Tensor],
        tableau: Tableau | ImplicitTableau,
        mode: Parameters,
    ) -> None:
        self.field = field
        self.parameters = tuple(parameters)
        self.tableau = tableau
        self.trajectory: Trajectory | None = None
        self.carries_state = isinstance(tableau, Tableau)
        self.in_state = mode != "quadrature"
        self.in_norm = mode == "state"
        self.total = [torch.zeros_like(p) for p in self.parameters]
        self._stages: list[Sequence[Tensor | None]] = [()] * tableau.stages
        self._states: Tensor | None = None
        self.own_tolerances = False
        """Whether the backward solve has tolerances of its own, and not those of the state's numbers."""
        self.own_norm: Norm | None = None
        """The user's norm of ``(0, *state, *costate, *parameter gradients)``, as torchdiffeq's backward state has them;
        state and parameter gradients are left out where they are not solved along."""
        layout = field.layout
        self.d = sum(layout.sizes)
        self._parameter_sizes = [p.numel() for p in self.parameters]

    def states(self, times: Sequence[float]) -> Tensor:
        """Return the trajectory's states ``[m, d]`` at ``times``.

        Raises
        ------
        UsageError
            If there is no trajectory.
        """
        if self.trajectory is None:
            raise UsageError("costate: expected a stored trajectory; take interpolation_dense, or an explicit solver")
        return self.trajectory.at(times)

    @property
    def tolerances(self) -> Tolerances | None:
        """Return those of the state for state and costate, and the least for the parameters' gradients."""
        known = self.field.tolerances
        if known is None or self.own_tolerances:
            return None
        rest = sum(self._parameter_sizes) if self.in_state else 0
        rtol, atol = (torch.cat([v, v, v.amin().expand(rest)]) for v in known)
        return rtol, atol

    def keep(self, stage: int, pulled: Sequence[Tensor | None]) -> None:
        """Hold what a stage gives to the parameters; nothing where no parameter was asked for."""
        self._stages[stage] = pulled

    def implicit_stepper(self, solver: OneStepSolver, scheme: Implicit, like: Tensor) -> Stepper:
        """Return the implicit steps of the costate, which is all that is solved."""
        return ImplicitCostateStepper(solver, scheme, self, like)

    def pack(self, y: Tensor | None, a: Tensor) -> Tensor:
        """Return ``x`` from ``y`` (None where it has none) and ``a``, ``[d]``, and the gradients gathered so far."""
        pieces = [a] if y is None else [y, a]
        if self.in_state:
            pieces += [g.reshape(-1) for g in self.total]
        return torch.cat(pieces)

    def costate(self, x: Tensor) -> Tensor:
        """Return the costate part ``[*lead, d]`` of ``x [*lead, ...]``."""
        start = self.d if self.carries_state else 0
        return x[..., start : start + self.d]

    def state(self, x: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[m, d]`` that belong to ``x [m, ...]`` at ``times``."""
        return self.trajectory.at(times) if self.trajectory is not None else x[:, : self.d]

    def unpack_parameters(self, x: Tensor) -> None:
        """Take the parameter gradients out of ``x``, if they are in it."""
        if self.in_state:
            flat = x[x.numel() - sum(self._parameter_sizes) :]
            self.total = [
                g.view_as(p) for g, p in zip(torch.split(flat, self._parameter_sizes), self.parameters, strict=True)
            ]

    def prepare(self, times: Sequence[float]) -> None:
        """Read the states of all coming stages in one product."""
        # Times of a step are known before its stages are: one product of the interpolant instead of one per stage.
        self._states = None if self.trajectory is None else self.trajectory.at(times)

    def write(self, t: float, x: Tensor, out: Tensor, stage: int) -> None:
        """Write ``dx/dt``: one f call and one vector-Jacobian product."""
        y = x[: self.d] if self._states is None else self._states[stage]
        with_parameters = self.in_state or self.weighs(stage)
        costate = slice(self.d, 2 * self.d)
        dy, (pulled, *pulled_parameters) = self._vjp(t, y, x[costate], with_parameters=with_parameters)
        out[: self.d].copy_(dy)
        slot = out[costate]
        if pulled is None:
            slot.zero_()
        else:
            torch.neg(pulled, out=slot)
        if self.in_state:
            rest = out[out.numel() - sum(self._parameter_sizes) :]
            for part, p in zip(torch.split(rest, self._parameter_sizes), pulled_parameters, strict=True):
                part.zero_() if p is None else torch.neg(p.reshape(-1), out=part)
        elif stage != TRIAL:
            self._stages[stage] = pulled_parameters

    def weighs(self, stage: int) -> bool:
        """Return whether the quadrature uses this stage, or may use it as the next step's first."""
        # A stage without weight need not be pulled back to the parameters, unless it is handed on as the first of the
        # next step, where it has one.
        return stage != TRIAL and (self.tableau.b[stage] != 0.0 or stage == self.tableau.stages - 1)

    def pull_to_parameters(self, t: float, y: Tensor, a: Tensor) -> Sequence[Tensor | None]:
        """Return ``f_theta^T a`` per parameter at ``(t, y [d])``: one f call and one vector-Jacobian product."""
        with torch.enable_grad():
            dy = self.field(t, y.detach())
        if not (dy.requires_grad and self.parameters):
            return [None] * len(self.parameters)
        return self.field.pulled_through_last(dy, self.parameters, a)

    def collect(self, step: AcceptedStep) -> None:
        """Add an accepted step to the parameter gradients: ``g -= h sum_i b_i f_theta^T a`` (``h`` is signed)."""
        if self.in_state:
            return
        # The step's own weights integrate to the order of the solver. A rejected attempt has been written over by now.
        for b, stage in zip(self.tableau.b, self._stages, strict=True):
            if b != 0.0:
                add_to(self.total, stage, -step.h * b)
        if self.tableau.fsal:
            self._stages[0] = self._stages[-1]

    def norm(self, x: Tensor) -> Tensor:
        """Return the largest root mean square over the parts of state, costate and each parameter's gradient."""
        # The largest of the parts, not one mean over all: p numbers of g would hide what happens to d of the costate.
        # Nothing feeds back from g, so the seminorm leaves it out: a step is not refused for an integral's sake.
        layout = self.field.layout
        if self.own_norm is not None:
            return layout.size_by(self.own_norm, self._in_users_shapes(x))
        of_state = layout.norm(x[: self.d])
        norms = [layout.norm(x[self.d : 2 * self.d]), of_state if self.trajectory is None else of_state / INTEGRAL_OFF]
        if self.in_norm and self.parameters:
            rest = x[x.numel() - sum(self._parameter_sizes) :]
            norms += [
                torch.linalg.vector_norm(g) / max(g.numel(), 1) ** 0.5 for g in torch.split(rest, self._parameter_sizes)
            ]
        return torch.stack(norms).amax()

    def _in_users_shapes(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return ``(0, *state, *costate, *parameter gradients)`` of ``x``."""
        layout = self.field.layout
        state, costate = x[: 2 * self.d].tensor_split(2)
        along = [costate] if self.trajectory is not None else [state, costate]
        out = [x.new_zeros(()), *(part for each in along for part in parts(layout.unflatten(each)))]
        if self.in_state:
            rest = x[x.numel() - sum(self._parameter_sizes) :]
            pieces = torch.split(rest, self._parameter_sizes)
            out += [g.view_as(p) for g, p in zip(pieces, self.parameters, strict=True)]
        return tuple(out)

    def _vjp(self, t: float, y: Tensor, a: Tensor, *, with_parameters: bool) -> tuple[Tensor, Sequence[Tensor | None]]:
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            dy = self.field(t, y)
        inputs = (y, *self.parameters) if with_parameters else (y,)
        if not dy.requires_grad:
            return dy, [None] * len(inputs)
        return dy.detach(), self.field.pulled_through_last(dy, inputs, a)


class TapSampler:
    """Feeds a tap with states and costates at its sample times of one interval, with trapezoid weights."""

    def __init__(self, tap: Tap, dynamics: CostateDynamics, t_from: float, t_to: float, scale: Tensor) -> None:
        self.tap = tap
        self.dynamics = dynamics
        self.scale = scale
        low, high = min(t_from, t_to), max(t_from, t_to)
        times = sorted(float(t) for t in tap.sample_times(low, high))
        if not times or times[0] < low or times[-1] > high:
            raise UsageError(f"tap: expected sample times in [{low:g}, {high:g}], got {times}")
        # The trapezoid rule: half of the way to either neighbour; the ends have a neighbour on one side only.
        edges = [times[0], *times, times[-1]]
        weights = [(b - a) / 2 for a, b in zip(edges[:-2], edges[2:], strict=True)]
        if len(times) == 1:
            weights = [high - low]
        pairs = list(zip(times, weights, strict=True))
        self._pending = pairs if t_from < t_to else pairs[::-1]

    def sample(self, step: AcceptedStep) -> None:
        """Observe every pending sample time up to the end of ``step``."""
        inside = [(t, w) for t, w in self._pending if (step.t_next - t) * step.h >= 0]
        if not inside:
            return
        self._pending = self._pending[len(inside) :]
        times = [t for t, _ in inside]
        x = step.at(times)
        layout = self.dynamics.field.layout
        states, costates = self.dynamics.state(x, times), self.dynamics.costate(x) * self.scale
        for (t, weight), y, a in zip(inside, states, costates, strict=True):
            y_user, a_user = layout.unflatten(y.contiguous()), layout.unflatten(a.contiguous())
            self.tap.observe(self.dynamics.field.field, t, y_user, a_user, weight)


def costate_scale(grads: Tensor) -> Tensor:
    """Return the largest root mean square over the rows of ``grads [m, d]``, a 0-d tensor; 1 if they all vanish."""
    # Stays on the device: the scale is only ever multiplied with, so the host need not know it.
    rms = (torch.linalg.vector_norm(grads, dim=1) / grads.shape[1] ** 0.5).amax()
    return torch.where(rms > 0, rms, torch.ones_like(rms))


def solve_back(
    dynamics: CostateDynamics,
    solver: OneStepSolver,
    interval: tuple[float, float],
    y: Tensor | None,
    a: Tensor,
    tap: TapSampler | None,
    size: StepSize,
) -> Tensor:
    """Solve from ``interval[0]`` back to ``interval[1]`` and return ``x`` there, of which ``dynamics`` knows the parts.

    ``y`` (None with a trajectory) and ``a`` are state and costate ``[d]`` at ``interval[0]``. Parameter gradients
    gather in ``dynamics.total``. The step size goes on from one interval to the next in ``size``.
    """
    if y is None and dynamics.carries_state:
        (y,) = dynamics.states(interval[:1])
    x0 = dynamics.pack(y, a)
    xs = [x0[None]]
    for step in steps(dynamics, solver, x0, interval, size):
        dynamics.collect(step)
        if tap is not None:
            tap.sample(step)
        xs += step.ys
    x = torch.cat(xs)[-1]
    dynamics.unpack_parameters(x)
    return x


def check_parameters_option(value: str) -> None:
    """Raise UsageError unless ``value`` is ``quadrature``, ``state`` or ``seminorm``."""
    if value not in ("quadrature", "state", "seminorm"):
        raise UsageError(f"parameters: expected 'quadrature', 'state' or 'seminorm', got {value!r}")
