"""xitorch's ``solve_ivp`` as a gradient method, as published: its backward pass solves state and costate back.

Kasim and Vinko, xi-torch: differentiable scientific computing library, 2020.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Solver, StateT, Traits, VectorField
from odegrad.methods.peers.mapping import EXTRA, PeerMapping
from odegrad.methods.peers.method import PeerMethod
from odegrad.methods.peers.packing import PackedField, Packing

XITORCH = PeerMapping(
    library="xitorch",
    distribution="xitorch",
    install=EXTRA,
    adaptive={"dopri5": "rk45", "bosh3": "rk23"},
    no_fixed="xitorch's fixed steps are the intervals between outputs; use dopri5 or bosh3 with adaptive steps",
    outputs="steps end there",
    norm="Euclidean norm over the whole batch, of error and of state apart",
    times_have_gradient=True,
    faults=(
        "its error test divides the norm of the whole error by the norm of the whole state, so that a tolerance means "
        "another error than elsewhere",
        "its backward solve holds the gradient of the parameters in state and norm, and repeats the field's graph",
        "its first step is the first interval between outputs",
        "it installs on Python before 3.12 only",
    ),
)


@dataclass(frozen=True)
class XitorchAdjoint(PeerMethod):
    """``xitorch.integrate.solve_ivp``: state, costate and parameter gradient solved back in one norm."""

    traits: ClassVar[Traits] = Traits(
        name="xitorch_adjoint",
        summary="xitorch.integrate.solve_ivp, as published",
        paper="Kasim and Vinko, xi-torch: differentiable scientific computing library, 2020",
        exact=False,
        keeps="the outputs",
        memory="A + (2d+p) stages + K d",
        cost_forward="s(N+R)+1 F",
        cost_backward="per output s(N'+R')+1 of (F+B)",
        backward_phase="adjoint",
        state_from="solve",
        shared_loop=False,
        peer=XITORCH.named,
    )
    mapping: ClassVar[PeerMapping] = XITORCH

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Return the library's solution at ``ts``."""
        taken, name = XITORCH.taken(solver)
        XITORCH.times(ts)
        packing = Packing.of(y0)
        packed = PackedField(field, packing)
        names, values = zip(*packed.named_parameters(), strict=True)

        def rates(t: Tensor, x: Tensor, *parameters: Tensor) -> Tensor:
            called: Tensor = torch.func.functional_call(packed, dict(zip(names, parameters, strict=True)), (t, x))
            return called

        xs = XITORCH.module("integrate").solve_ivp(
            rates,
            ts,
            packing.pack(y0),
            params=values,
            method=name,
            rtol=taken.controller.rtol,
            atol=taken.controller.atol,
        )
        return packing.unpacked(xs, y0)
