"""TorchDiffEqPack's checkpointing adjoint (ACA) and asynchronous leapfrog (MALI) as gradient methods, as published.

The library gives the state at the end only: outputs inside take one call per interval. Its plain ``odesolve`` is no row
here: it reads every output from a straight line between the ends of a step, and a gradient through that is off by
more than its tolerance allows (``tests/methods/peers`` shows it).
"""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Solver, StateT, Traits, VectorField
from odegrad.methods.peers.mapping import EXTRA, PeerMapping
from odegrad.methods.peers.method import PeerMethod
from odegrad.methods.peers.packing import PackedField, Packing
from odegrad.methods.solvers.solver import OneStepSolver

_SHARED_FAULTS = (
    "times are float32, whatever the state is",
    "the last step of an interval is taken without a look at its error",
    "every accepted step is taken twice: once to judge it, once to keep it",
)

TORCHDIFFEQPACK = PeerMapping(
    library="TorchDiffEqPack",
    distribution="TorchDiffEqPack",
    install=EXTRA,
    adaptive={"dopri5": "dopri5", "bosh3": "rk23"},
    no_fixed="TorchDiffEqPack's checkpointing adjoint fails with fixed steps; leave out num_steps and step_size",
    options=frozenset({"first_step"}),
    outputs="one call per interval",
    faults=(
        *_SHARED_FAULTS,
        "with fixed steps its checkpointing adjoint adds the start to a tensor of times, and fails",
    ),
)

LEAPFROG = PeerMapping(
    library="TorchDiffEqPack",
    distribution="TorchDiffEqPack",
    install=EXTRA,
    adaptive={"alf": "sym12async"},
    fixed={"alf": "fixedstep_sym12async"},
    options=frozenset({"first_step"}),
    outputs="one call per interval",
    faults=(
        *_SHARED_FAULTS,
        "its error estimate is that of a first-order step, so that a tolerance means another error than elsewhere",
    ),
)

_EVALUATIONS = 500_000


def _solved(mapping: PeerMapping, adjoint: str, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
    taken, method = mapping.taken(solver)
    times = mapping.times(ts)
    solve, packing = getattr(mapping.module(), adjoint), Packing.of(y0)
    packed, states = PackedField(field, packing), [packing.pack(y0)]
    for start, end in itertools.pairwise(times):
        states.append(solve(packed, states[-1], options=_options(taken, method, start, end)))
    return packing.unpacked(torch.stack(states), y0)


def _options(solver: OneStepSolver, method: str, start: float, end: float) -> dict[str, object]:
    size = solver.first_step if solver.adaptive else abs(end - start) / solver.steps_between(start, end)
    return {
        "method": method,
        "h": size,
        "t0": start,
        "t1": end,
        "rtol": solver.controller.rtol,
        "atol": solver.controller.atol,
        "neval_max": _EVALUATIONS,
    }


@dataclass(frozen=True)
class TorchdiffeqpackAca(PeerMethod):
    """``TorchDiffEqPack.odesolve_adjoint``: keeps accepted times, replays step by step."""

    traits: ClassVar[Traits] = Traits(
        name="torchdiffeqpack_aca",
        summary="TorchDiffEqPack.odesolve_adjoint (ACA), as published",
        paper="Zhuang et al., Adaptive Checkpoint Adjoint Method for Gradient Estimation in Neural ODE, ICML 2020",
        exact=True,
        keeps="the accepted times and each interval's start",
        memory="A s + (N+K) d",
        cost_forward="per output s(2N+R)+2 F",
        cost_backward="2sN F + sN B",
        backward_phase="recompute",
        state_from="replay",
        times="none",
        shared_loop=False,
        peer=TORCHDIFFEQPACK.named,
    )
    mapping: ClassVar[PeerMapping] = TORCHDIFFEQPACK

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Return the library's solution at ``ts``."""
        return _solved(TORCHDIFFEQPACK, "odesolve_adjoint", field, solver, y0, ts)


@dataclass(frozen=True)
class TorchdiffeqpackMali(PeerMethod):
    """``TorchDiffEqPack.odesolve_adjoint_sym12``: inverts the asynchronous leapfrog step by step."""

    traits: ClassVar[Traits] = Traits(
        name="torchdiffeqpack_mali",
        summary="TorchDiffEqPack.odesolve_adjoint_sym12 (MALI), as published",
        paper="Zhuang et al., MALI: A Memory Efficient and Reverse Accurate Integrator for Neural ODEs, ICLR 2021",
        exact=True,
        keeps="each interval's end with its velocity, and the accepted times",
        memory="A + 2K d",
        cost_forward="per output 2N+R+3 F",
        cost_backward="2N F + N B",
        backward_phase="recompute",
        state_from="inverse",
        times="none",
        shared_loop=False,
        peer=LEAPFROG.named,
    )
    mapping: ClassVar[PeerMapping] = LEAPFROG

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Return the library's solution at ``ts``."""
        return _solved(LEAPFROG, "odesolve_adjoint_sym12", field, solver, y0, ts)
