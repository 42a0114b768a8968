"""The gradient certificate: distance to the float64 reference, and to naive backprop on the same grid."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.contracts import Problem, Solve
from odegrad.measuring.sketch import sketch


@dataclass(frozen=True)
class Certificate:
    """How far a gradient is from the truth, relative to its size."""

    relative_error: float
    """``||g - g_ref|| / ||g_ref||``: discretisation and method together."""
    method_error: float | None
    """``||g - g_naive|| / ||g_naive||`` on the same accepted grid: the method alone; None on another loop's grid."""
    cosine: float
    """Cosine of the angle between ``g`` and ``g_ref``."""
    digest: str
    """First 16 hexadecimal digits of the SHA-256 of the bits of ``g``."""
    norm: float
    """``||g||``."""
    sketch: list[float]
    """64 numbers from which the distance of ``g`` to another method's gradient can be told."""


def parameter_gradient(problem: Problem, solve: Solve) -> Tensor:
    """Return ``dL/dtheta`` of the probe batch over every trained parameter, as one float64 vector on the CPU."""
    parameters = [p for p in problem.model.parameters() if p.requires_grad]
    loss = problem.loss(solve, problem.probe_batch())
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    flat = [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(parameters, grads, strict=True)]
    return torch.cat(flat).double().cpu()


def digest(vector: Tensor) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the bits of a vector on the CPU."""
    return hashlib.sha256(vector.numpy().tobytes()).hexdigest()[:16]


def certify(build: Callable[[], Problem], method: Solve, reference: Solve, naive: Solve | None) -> Certificate:
    """Return the certificate of ``method`` on the float64 problem that ``build`` makes, afresh for each gradient.

    Parameters
    ----------
    build
        Makes the problem in float64; every call gives the same one.
    method
        The gradient method with its solver.
    reference
        Naive backprop with a solver at tolerances near rounding.
    naive
        Naive backprop with the method's solver; None if the method does not stand on the shared loop.
    """
    found, true = parameter_gradient(build(), method), parameter_gradient(build(), reference)
    same_grid = None if naive is None else parameter_gradient(build(), naive)
    norm = torch.linalg.vector_norm
    cosine = torch.dot(found, true) / (norm(found) * norm(true))
    return Certificate(
        relative_error=float(norm(found - true) / norm(true)),
        method_error=None if same_grid is None else float(norm(found - same_grid) / norm(same_grid)),
        cosine=float(cosine),
        digest=digest(found),
        norm=float(norm(found)),
        sketch=sketch(found),
    )
