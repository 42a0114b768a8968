"""torchode's solvers as gradient methods, as published: reverse mode, joint and per-sample backward solves.

It steps past the outputs and interpolates. Reverse mode and joint solve have one sample ``[1, d]`` for the whole batch,
so that all methods of a comparison control the step by one norm; the per-sample solve has each sample's own steps, and
calls the field by ``torch.func.vmap`` over samples. Lienen and Guennemann, torchode: A Parallel ODE Solver for
PyTorch, 2022.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Solver, StateT, Traits, VectorField
from odegrad.errors import UnsupportedError
from odegrad.methods.peers.mapping import EXTRA, PeerMapping
from odegrad.methods.peers.method import PeerMethod, solved_back
from odegrad.methods.peers.packing import PackedField, Packing
from odegrad.methods.solvers.solver import OneStepSolver

TORCHODE = PeerMapping(
    library="torchode",
    distribution="torchode",
    install=EXTRA,
    adaptive={"dopri5": "Dopri5", "tsit5": "Tsit5"},
    no_fixed="torchode's fixed steps have one size and do not end at the outputs; use dopri5 or tsit5, adaptive",
    options=frozenset({"first_step", "max_step", "factors"}),
    faults=(
        "its reverse mode also differentiates the choice of the step size, as published",
        "its backward solves carry the gradient of the parameters in the state, per sample in the per-sample one: "
        "batch times parameters numbers",
        "its backward solves do not look at whether they ended well",
    ),
)

_PAPER = "Lienen and Günnemann, torchode: A Parallel ODE Solver for PyTorch, 2022"


_STATUS = {2: "its smallest step was reached", 3: "the step limit was reached", 4: "a step's error is not finite"}


@dataclass(frozen=True)
class _Problem:
    """A solve as torchode takes it."""

    solver: OneStepSolver
    scheme: str
    field: PackedField
    y0: Tensor
    """``[samples, n]``."""
    ts: Tensor
    """``[K]``."""

    def solved(self, adjoint: str) -> Tensor:
        """Return the solution ``[samples, K, n]`` by torchode's class ``adjoint``."""
        torchode = TORCHODE.module()
        term = torchode.ODETerm(self.field)
        scheme = getattr(torchode, self.scheme)(term=term)
        driver = _DRIVERS[adjoint](torchode, self, term, scheme, self._controller(torchode))
        problem = torchode.InitialValueProblem(self.y0, t_eval=self.ts.detach().expand(len(self.y0), -1))
        first = self.solver.first_step
        back = bool(self.ts[-1] < self.ts[0])
        size = None if first is None else torch.full_like(problem.t_start, -first if back else first)
        solution = driver.solve(problem, term=term, dt0=size)
        bad = solution.status[solution.status != 0]
        if bad.numel():
            raise TORCHODE.failed(self.solver, _STATUS.get(int(bad[0]), f"it ended with status {int(bad[0])}"))
        ys: Tensor = solution.ys
        return ys

    def _controller(self, torchode: Any) -> object:
        control = self.solver.controller
        controller = torchode.IntegralController(
            atol=control.atol,
            rtol=control.rtol,
            safety=control.safety,
            factor_min=control.min_factor,
            factor_max=control.max_factor,
            dt_max=self.solver.max_step,
        )
        return controller.to(dtype=self.y0.dtype, device=self.y0.device)


def _autodiff(torchode: Any, problem: _Problem, _term: object, scheme: Any, controller: object) -> object:
    return torchode.AutoDiffAdjoint(scheme, controller, max_steps=problem.solver.max_steps)


def _joint(torchode: Any, _problem: _Problem, term: object, scheme: object, controller: object) -> object:
    return torchode.JointBacksolveAdjoint(term, scheme, controller)


def _per_sample(torchode: Any, _problem: _Problem, term: object, scheme: object, controller: object) -> object:
    return torchode.BacksolveAdjoint(term, scheme, controller)


_DRIVERS: Mapping[str, Callable[..., Any]] = {"autodiff": _autodiff, "joint": _joint, "per_sample": _per_sample}
"""Adjoint -> what makes torchode's object of it."""


class _WholeBatch(PackedField):
    """A field on the whole batch as one sample ``[1, d]``."""

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """Return ``dx/dt [1, d]``."""
        return super().forward(t, x.reshape(self.packing.batch, -1)).reshape(1, -1)


class _EachSample(PackedField):
    """A field on ``[batch, n]`` whose samples have times ``[batch]`` of their own.

    torchode calls it for one sample ``[n]`` at a 0-d time too, inside of its own vectorised products.
    """

    def forward(self, t: Any, x: Tensor) -> Tensor:
        """Return ``dx/dt`` in the shape of ``x``."""
        if not t.dim():
            return self.of_one(t, x)
        try:
            out: Tensor = torch.func.vmap(self.of_one)(t.to(x.dtype), x)
        except (RuntimeError, ValueError) as error:
            raise UnsupportedError(
                "torchode's samples have times of their own, and torch.func.vmap cannot call this field for each: "
                f"{str(error).strip()[:120]}...; use torchode_autodiff or torchode_joint"
            ) from error
        return out

    def of_one(self, t: Tensor, x: Tensor) -> Tensor:
        """Return ``dx/dt [n]`` of one sample ``[n]`` at its 0-d time."""
        return self.packing.pack(self.field(t, self.packing.unpack(x[None], batch=1)))[0]


@dataclass(frozen=True)
class TorchodeAutodiff(PeerMethod):
    """``torchode.AutoDiffAdjoint``: autograd through every attempted step and its size."""

    traits: ClassVar[Traits] = Traits(
        name="torchode_autodiff",
        summary="torchode.AutoDiffAdjoint, as published",
        paper=_PAPER,
        exact=True,
        keeps="the graph of every attempted step",
        memory="A s (N+R) + K d",
        cost_forward="s(N+R)+2 F",
        cost_backward="s(N+R) B",
        backward_phase="recompute",
        times="none",
        shared_loop=False,
        peer=TORCHODE.named,
    )
    mapping: ClassVar[PeerMapping] = TORCHODE

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Return the library's solution at ``ts``."""
        taken, scheme = TORCHODE.taken(solver)
        TORCHODE.times(ts)
        packing = Packing.of(y0)
        x0 = packing.pack(y0)
        ys = _Problem(taken, scheme, _WholeBatch(field, packing), x0.reshape(1, -1), ts).solved("autodiff")
        return packing.unpacked(ys[0].reshape(-1, *x0.shape), y0)


@dataclass(frozen=True)
class TorchodeJoint(PeerMethod):
    """``torchode.JointBacksolveAdjoint``: state, costate and parameter gradient of the whole batch in one norm."""

    traits: ClassVar[Traits] = solved_back(
        "torchode_joint", "torchode.JointBacksolveAdjoint, as published", _PAPER, TORCHODE.named
    )
    mapping: ClassVar[PeerMapping] = TORCHODE
    adjoint: ClassVar[str] = "joint"
    packed: ClassVar[type[PackedField]] = PackedField

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Return the library's solution at ``ts``."""
        taken, scheme = TORCHODE.taken(solver)
        TORCHODE.times(ts)
        packing = Packing.of(y0)
        ys = _Problem(taken, scheme, self.packed(field, packing), packing.pack(y0), ts).solved(self.adjoint)
        return packing.unpacked(ys.transpose(0, 1), y0)


@dataclass(frozen=True)
class TorchodePerSample(TorchodeJoint):
    """``torchode.BacksolveAdjoint``: every sample has steps of its own, forward and backward."""

    traits: ClassVar[Traits] = dataclasses.replace(
        TorchodeJoint.traits,
        name="torchode_per_sample",
        summary="torchode.BacksolveAdjoint, as published: each sample has its own steps",
        memory="A + batch (2n+p) stages + K d",
        cost_forward="s max(N+R)+2 F",
        cost_backward="per output s max(N'+R')+2 of (F+B)",
    )
    adjoint: ClassVar[str] = "per_sample"
    packed: ClassVar[type[PackedField]] = _EachSample
