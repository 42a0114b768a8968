"""Penalties at one sampled time of the solution: ``local`` and ``log_norm``.

``local`` is the error of one more step, from a detached state (Pal et al., "Locally Regularized Neural Differential
Equations: Some Black Boxes Were Meant to Remain Closed!", ICML 2023, arXiv 2303.02262). ``log_norm`` is odegrad's own:
the growth ``max(mu_2(-J), 0)`` that a backward solve suffers, or ``max(mu_2(J), 0)``, unbiased for its integral.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from odegrad.contracts import State, VectorField
from odegrad.methods.fields.surroundings import with_second_derivatives
from odegrad.methods.regularisers.integrands import (
    FieldCall,
    PenalisedField,
    linked,
    moving_parts,
    pulled_back,
    zero_of,
)
from odegrad.methods.regularisers.step_sums import summing
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.steppers import graph_stepper
from odegrad.states import Layout, mapped, parts

KRYLOV = 24
"""Most products per time of the logarithmic norm: exact for states of so many numbers, close from below else."""


def local_error(field: VectorField, solver: OneStepSolver, y: State, t: float, h: float, *, scaled: bool) -> Tensor:
    """Return ``E |h|`` of one step of size ``h`` from ``(t, y)``, ``y`` detached: a 0-d tensor with the step's graph.

    Costs the f calls of one step and its first stage.
    """
    start = parts(mapped(y, Tensor.detach))
    total = start[0].new_zeros(1)
    penalised = PenalisedField(field, is_tuple=not isinstance(y, Tensor), sums=1)
    layout = Layout.of((*start, total), penalised.unjudged)
    x = layout.flatten((*start, total))
    with torch.enable_grad():
        stepper = graph_stepper(
            summing(solver, ("error",), scaled=scaled), FlatField(penalised, layout).in_precision(solver.precision), x
        )
        return stepper.attempt(t, h, t + h, x)[-1]


def growth(field: VectorField, y: State, t: Tensor, signs: Sequence[Tensor], *, backward: bool) -> Tensor:
    """Return ``max(mu_2(-J), 0)`` of each sample at ``(t, y)``, ``[batch]``, or of ``J`` where not ``backward``.

    ``mu_2(A)`` is the largest eigenvalue of ``(A + A^T) / 2``; its derivative is that of ``v^T A v`` at the eigenvector
    v, which a Krylov space from ``signs`` finds: one f call, two pull-backs per dimension of the space.
    """
    count = moving_parts(field, len(parts(y)))
    sign = -1.0 if backward else 1.0
    with torch.enable_grad():
        state = [p.view_as(p) if p.requires_grad else p.detach().requires_grad_() for p in parts(y)]
        with with_second_derivatives():
            dy = parts(field(t, state[0] if isinstance(y, Tensor) else tuple(state)))[:count]
        zero = zero_of(state[0])
        call = FieldCall(t, state[:count], linked(dy, zero), signs, zero)
        v = _largest_direction(call, sign)
        along = pulled_back(call.dy, call.y, v)
        quotient = sum(((g * w).reshape(len(w), -1).sum(1) for g, w in zip(along, v, strict=True)), zero)
    return torch.relu(sign * quotient)


def _largest_direction(call: FieldCall, sign: float) -> Sequence[Tensor]:
    """Return the unit vector of each sample, in parts, at which the symmetric part of ``sign J`` is largest."""
    products = _SymmetricPart(call, sign)
    start = products.flat(call.probe)
    basis = [start / torch.linalg.vector_norm(start, dim=1, keepdim=True)]
    images = []
    for _ in range(min(start.shape[1], KRYLOV)):
        images.append(products(basis[-1]))
        rest = images[-1]
        # Twice: one pass of Gram-Schmidt loses orthogonality where little of the vector is left.
        for _ in range(2):
            for q in basis:
                rest = rest - (rest * q).sum(1, keepdim=True) * q
        size = torch.linalg.vector_norm(rest, dim=1, keepdim=True)
        # What is left of an exhausted space is rounding, no direction: zero then, whose eigenvalue 0 relu cuts anyway.
        known = torch.linalg.vector_norm(images[-1], dim=1, keepdim=True) + 1.0
        floor = known * (1e3 * torch.finfo(rest.dtype).eps)
        basis.append(torch.where(size > floor, rest / size.clamp_min(floor), torch.zeros_like(rest)))
    q, s = torch.stack(basis[: len(images)], dim=2), torch.stack(images, dim=2)
    projected = q.transpose(1, 2) @ s
    vectors = torch.linalg.eigh((projected + projected.transpose(1, 2)) / 2).eigenvectors[..., -1:]
    return products.parted((q @ vectors)[..., 0])


class _SymmetricPart:
    """Products with ``sign (J + J^T) / 2`` of each sample, on vectors ``[batch, n]``."""

    def __init__(self, call: FieldCall, sign: float) -> None:
        self.call = call
        self.sign = sign
        self.shapes = [p.shape for p in call.y]
        self.sizes = [p[0].numel() for p in call.y]
        self.weights = [torch.zeros_like(d, requires_grad=True) for d in call.dy]
        self.pulled = pulled_back(call.dy, call.y, self.weights)

    def __call__(self, v: Tensor) -> Tensor:
        """Return the product, ``[batch, n]``, without a graph."""
        split = self.parted(v)
        left = torch.autograd.grad(self.call.dy, self.call.y, split, retain_graph=True, materialize_grads=True)
        # J v is the derivative of w -> J^T w along v; a linear field's J^T w that w does not reach has none.
        reached = [(g, x) for g, x in zip(self.pulled, split, strict=True) if g.requires_grad]
        right: Sequence[Tensor] = [torch.zeros_like(d) for d in self.call.dy]
        if reached:
            right = torch.autograd.grad(
                [g for g, _ in reached],
                self.weights,
                [x for _, x in reached],
                retain_graph=True,
                materialize_grads=True,
            )
        return self.sign * (self.flat(left) + self.flat(right)).detach() / 2

    @staticmethod
    def flat(split: Sequence[Tensor]) -> Tensor:
        """Return parts side by side, ``[batch, n]``."""
        return torch.cat([p.reshape(len(p), -1) for p in split], dim=1)

    def parted(self, v: Tensor) -> Sequence[Tensor]:
        """Return the parts of ``v [batch, n]`` in their shapes."""
        return [p.reshape(s) for p, s in zip(torch.split(v, self.sizes, dim=1), self.shapes, strict=True)]
