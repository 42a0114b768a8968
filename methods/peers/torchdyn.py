"""torchdyn's ``ODEProblem`` as gradient methods, as published: autograd, adjoint and interpolated adjoint.

Adaptive steps land on the outputs. Its constants are made in the state's type, where its own default rounds them to
float32. Poli et al., TorchDyn: Implicit Models and Neural Numerical Methods in PyTorch, 2021.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Solver, StateT, Traits, VectorField
from odegrad.errors import UnsupportedError
from odegrad.methods.peers.mapping import PeerMapping
from odegrad.methods.peers.method import PeerMethod, through_steps
from odegrad.methods.peers.packing import PackedField, Packing
from odegrad.methods.solvers.solver import OneStepSolver

TORCHDYN = PeerMapping(
    library="torchdyn",
    distribution="torchdyn",
    install="install it without its dependencies, as docs/peers.md says",
    adaptive={"dopri5": "DormandPrince45", "tsit5": "Tsitouras45"},
    fixed={"euler": "Euler", "midpoint": "Midpoint"},
    options=frozenset({"factors"}),
    outputs="steps end there",
    faults=(
        "its RungeKutta4 calls the field at the times of the stages before, so that it has order 1 where the field "
        "depends on time: refused",
        "its adjoint solves the state back from the end over all outputs, and does not set it anew there",
        "its adjoint always leaves the gradient of the parameters out of the error norm",
        "a parameter that the field does not use makes its adjoints fail",
        "its interpolated adjoint reads the gradient of the i-th output at the i-th step: only two output times work",
        "its interpolated adjoint reads the state from a natural cubic spline through the ends of steps, which no "
        "tolerance sees: gradients are off by 80 to 90 times the tolerance on two tasks",
        "backward in time its first step is chosen from the field forward in time",
    ),
)

_UNUSED_TOLERANCE = 1e-3
"""torchdyn warns where a fixed grid is given another."""


def _scheme(solver: OneStepSolver, name: str, x0: Tensor) -> Any:
    scheme = getattr(TORCHDYN.module("numerics.solvers.ode"), name)(dtype=x0.dtype)
    control = solver.controller
    for mine, value in (
        ("safety", control.safety),
        ("min_factor", control.min_factor),
        ("max_factor", control.max_factor),
    ):
        setattr(scheme, mine, torch.tensor([value], dtype=x0.dtype, device=x0.device))
    return scheme


def _grid(solver: OneStepSolver, times: list[float], ts: Tensor) -> Tensor:
    """Return the times that torchdyn steps over: the outputs, and those of fixed steps between them."""
    if solver.adaptive:
        return ts.detach()
    grid = [times[0]]
    for start, end in itertools.pairwise(times):
        n = solver.steps_between(start, end)
        grid += [start + i * (end - start) / n for i in range(1, n)] + [end]
    return torch.tensor(grid, dtype=ts.dtype, device=ts.device)


@dataclass(frozen=True)
class TorchdynAutograd(PeerMethod):
    """``torchdyn`` with autograd through every attempted step."""

    traits: ClassVar[Traits] = through_steps(
        "torchdyn_autograd",
        "torchdyn's ODEProblem with sensitivity autograd, as published",
        "Poli et al., TorchDyn: Implicit Models and Neural Numerical Methods in PyTorch, 2021",
        TORCHDYN.named,
    )
    mapping: ClassVar[PeerMapping] = TORCHDYN
    sensitivity: ClassVar[str] = "autograd"
    keeps_steps: ClassVar[bool] = False
    """Whether it returns every step, the outputs among them."""

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Return the library's solution at ``ts``."""
        taken, name = TORCHDYN.taken(solver)
        times = TORCHDYN.times(ts)
        self._check(times)
        packing = Packing.of(y0)
        x0, packed, grid = packing.pack(y0), PackedField(field, packing), _grid(taken, times, ts)
        control = taken.controller
        rtol, atol = (control.rtol, control.atol) if taken.adaptive else (_UNUSED_TOLERANCE, _UNUSED_TOLERANCE)
        problem = TORCHDYN.module("core").ODEProblem(
            packed,
            _scheme(taken, name, x0),
            sensitivity=self.sensitivity,
            rtol=rtol,
            atol=atol,
            rtol_adjoint=rtol,
            atol_adjoint=atol,
        )
        _, xs = problem(x0, grid)
        return packing.unpacked(self._outputs(taken, xs, grid, ts), y0)

    def _check(self, times: list[float]) -> None:
        """Refuse times that it would answer wrongly."""

    def _outputs(self, solver: OneStepSolver, xs: Tensor, grid: Tensor, ts: Tensor) -> Tensor:
        """Return the rows ``[K, batch, n]`` of the solution that lie at the outputs."""
        if self.keeps_steps:
            return xs[[0, -1]]
        if len(xs) != len(grid):
            raise TORCHDYN.failed(
                solver, f"it returned {len(xs)} of {len(grid)} times: it stepped past one by rounding"
            )
        return xs if solver.adaptive else xs[torch.isin(grid, ts.detach())]


@dataclass(frozen=True)
class TorchdynAdjoint(TorchdynAutograd):
    """``torchdyn`` with its adjoint: state and costate in one norm, the parameter gradient outside of it."""

    traits: ClassVar[Traits] = Traits(
        name="torchdyn_adjoint",
        summary="torchdyn's ODEProblem with sensitivity adjoint, as published",
        paper=TorchdynAutograd.traits.paper,
        exact=False,
        keeps="the outputs",
        memory="A + (2d+p) stages + K d",
        cost_forward="s(N+R)+2 F",
        cost_backward="per output s(N'+R')+3 of (F+B)",
        backward_phase="adjoint",
        state_from="solve",
        times="none",
        shared_loop=False,
        peer=TORCHDYN.named,
    )
    sensitivity: ClassVar[str] = "adjoint"


@dataclass(frozen=True)
class TorchdynInterpolated(TorchdynAutograd):
    """``torchdyn`` with its interpolated adjoint: the state from a natural cubic spline through the steps."""

    traits: ClassVar[Traits] = dataclasses.replace(
        TorchdynAdjoint.traits,
        name="torchdyn_interpolated",
        summary="torchdyn's ODEProblem with sensitivity interpolated_adjoint, as published",
        keeps="every accepted state",
        memory="A + (d+p) stages + 4N d",
        cost_backward="s(N'+R')+2 of (F+B)",
        state_from="interpolant",
    )
    sensitivity: ClassVar[str] = "interpolated_adjoint"
    keeps_steps: ClassVar[bool] = True

    def _check(self, times: list[float]) -> None:
        if len(times) > 2:
            raise UnsupportedError(
                "torchdyn's interpolated adjoint reads the gradient of the i-th output at its i-th step; it takes two "
                f"output times, and this task has {len(times)}"
            )

    def refuses(self, solver: Solver) -> str | None:
        """Return why this method cannot use ``solver``, or None if it can."""
        if isinstance(solver, OneStepSolver) and not solver.adaptive:
            return "torchdyn's interpolated adjoint needs adaptive steps; leave out num_steps and step_size"
        return TORCHDYN.refuses(solver)
