"""The costate equation on rows: every sample is solved back by its own steps, from its own outputs.

A round's pull-backs give each row its own ``f_y^T a``; a parameter's gradient they would give summed over rows, before
it is known which rows are accepted, and per row it would be ``rows p`` numbers. So the stages leave the parameters out,
and the accepted rows alone are pulled back to them once more, with the weights of their steps. Nothing waits for that,
so rows of several stages and rounds go in one call, as many as the solve has samples: a call of few rows costs more for
each.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from odegrad.methods.backward.costate import INTEGRAL_OFF
from odegrad.methods.backward.per_sample.entry import on_device
from odegrad.methods.backward.products import add_to
from odegrad.methods.solvers.per_sample.accepted import AcceptedRows
from odegrad.methods.solvers.per_sample.loop import TRIAL_STAGE
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import HostFloats, HostIntegers
from odegrad.methods.solvers.tableau import Tableau


class RowTrajectory(Protocol):
    """Stored solutions of samples."""

    def at(self, samples: HostIntegers, times: HostFloats) -> Tensor:
        """Return the states ``[m, w, n]`` of ``samples [w]`` at ``times [m, w]``."""
        ...


class RowCostate:
    """The right-hand side of the backward solve over rows ``x = (y, a)``.

    With a trajectory f is evaluated at its states, and the ``y`` in ``x`` only judges the steps: see
    ``CostateDynamics``.

    Parameters
    ----------
    field, parameters
        The user's field, and what its gradient is wanted by.
    tableau
        Of the backward solve.
    """

    def __init__(self, field: RowField, parameters: Sequence[Tensor], tableau: Tableau) -> None:
        self.field = field
        self.parameters = tuple(parameters)
        self.tableau = tableau
        self.trajectory: RowTrajectory | None = None
        self.total = [torch.zeros_like(p) for p in self.parameters]
        self.most = 0
        """The most rows of a call that is pulled back to the parameters: those of the widest solve until now."""
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._states: Tensor | None = None
        self._inputs: list[Tensor | None] = [None] * tableau.stages

    def start(self, y: Tensor | RowTrajectory, a: Tensor, samples: HostIntegers, times: HostFloats) -> Tensor:
        """Return ``x [m, 2n]`` of ``samples`` at ``times [m]`` from the costates, and states or their trajectory."""
        self.trajectory = None if isinstance(y, Tensor) else y
        self.most = max(self.most, len(a))
        return torch.cat([y if isinstance(y, Tensor) else y.at(samples, times[None])[0], a], dim=1)

    def prepare(self, samples: HostIntegers, times: HostFloats) -> None:
        """Read the states of all coming stages in one product."""
        self._states = None if self.trajectory is None else self.trajectory.at(samples, times)

    def write(self, t: Tensor, x: Tensor, out: Tensor, stage: int) -> None:
        """Write ``dx/dt [rows, ...]``: one f call and one vector-Jacobian product, to the state alone."""
        n = self.field.rows.n
        y, a = self._parts(x, max(stage, 0))
        if stage != TRIAL_STAGE:
            self._inputs[stage] = x
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            dy = self.field.at(t, leaf)
        pulled = self.field.pulled_through([dy], (leaf,), [a])[0] if dy.requires_grad else None
        out[:, :n].copy_(dy.detach())
        slot = self.costate(out)
        if pulled is None:
            slot.zero_()
        else:
            torch.neg(pulled, out=slot)

    def costate(self, x: Tensor) -> Tensor:
        """Return the costate part ``[..., n]`` of ``x``."""
        return x[..., self.field.rows.n :]

    def norms(self, x: Tensor) -> Tensor:
        """Return the largest root mean square over the parts of state and costate, row by row."""
        rows = self.field.rows
        of_state = rows.norms(x[:, : rows.n])
        return torch.maximum(
            rows.norms(self.costate(x)), of_state if self.trajectory is None else of_state / INTEGRAL_OFF
        )

    def collect(self, seen: AcceptedRows, samples: HostIntegers, scale: Tensor) -> None:  # noqa: ARG002
        """Add accepted steps: ``g -= sum_i h_i sum_j b_j f_theta^T a_ij``; a row for each weight.

        ``samples [a]`` are the steps', and ``scale [a, 1]`` what their costates are in units of.
        """
        h = on_device(seen.steps.h, seen.x)[:, None] * scale
        times = on_device(seen.steps.times(self.tableau), seen.x)
        for j, b in enumerate(self.tableau.b):
            if b == 0.0:
                continue
            x = seen.x if j == 0 else self._inputs[j]
            if x is not None:
                y, a = (seen.of_rows(part) for part in self._parts(x, j))
                self.pull_to_parameters(times[j], y, a * h * -b)

    def pull_to_parameters(self, t: Tensor, y: Tensor, a: Tensor) -> None:
        """Add ``f_theta^T a``, summed over rows, at ``(t [rows], y [rows, n])``, now or with rows that come."""
        if self._waiting and sum(len(rows) for rows, *_ in self._waiting) + len(t) > self.most:
            self.finish()
        self._waiting.append((t, y, a))

    def finish(self) -> None:
        """Pull back what waits: one call and one product."""
        if not self._waiting:
            return
        t, y, a = (torch.cat(x) if len(x) > 1 else x[0] for x in zip(*self._waiting, strict=True))
        self._waiting = []
        with torch.enable_grad():
            dy = self.field.at(t, y.detach())
        if dy.requires_grad and self.parameters:
            add_to(self.total, self.field.pulled_through([dy], self.parameters, [a]))

    def _parts(self, x: Tensor, stage: int) -> tuple[Tensor, Tensor]:
        n = self.field.rows.n
        return x[:, :n] if self._states is None else self._states[stage], x[:, n:]
