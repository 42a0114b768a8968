"""The gradient certificate: distance to the float64 reference, and to naive backprop on the same grid."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.contracts import Solve
from odegrad.reference.accuracy import Accuracy, accuracy, largest_error
from odegrad.reference.reference import Reference
from odegrad.reference.sketch import sketch
from odegrad.reference.subject import Subject
from odegrad.reference.two_ways import relative_distance


@dataclass(frozen=True)
class Certificate:
    """How far a gradient is from the truth, relative to its size."""

    relative_error: float | None
    """``||g - g_ref|| / ||g_ref||``: discretisation and method together; None without a reference."""
    method_error: float | None
    """``||g - g_naive|| / ||g_naive||`` on the same accepted grid: the method alone; None on another loop's grid."""
    cosine: float | None
    """Cosine of the angle between ``g`` and ``g_ref``; None without a reference."""
    accuracy: Accuracy
    digest: str
    """First 16 hexadecimal digits of the SHA-256 of the bits of ``g``."""
    norm: float
    """``||g||``."""
    sketch: list[float]
    """64 numbers from which the distance of ``g`` to another method's gradient can be told."""
    non_finite: int
    """How many numbers of ``g`` are NaN or infinite."""


def digest(vector: Tensor) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the bits of a vector on the CPU."""
    return hashlib.sha256(vector.numpy().tobytes()).hexdigest()[:16]


def certify(
    build: Callable[[], Subject],
    method: Solve,
    reference: Reference,
    naive: Solve,
    rtol: float,
    *,
    same_grid: bool = True,
) -> Certificate:
    """Return the certificate of ``method`` on the subject that ``build`` makes, afresh for each gradient.

    Parameters
    ----------
    build
        Makes the subject, in float64 where rounding is not to show; every call gives the same one.
    method
        The gradient method with its solver.
    reference
        Of the same subject in float64.
    naive
        Naive backprop with the method's solver: what an exact gradient of these steps is off by.
    rtol
        The solver's tolerance, by which it is judged what is accurate.
    same_grid
        Whether the method takes naive's steps; a peer's own loop does not.
    """
    found, exact = build().gradient(method), build().gradient(naive)
    true = reference.gradient
    error = None if true is None else relative_distance(found, true)
    limit = largest_error(None if true is None else relative_distance(exact, true), rtol)
    return Certificate(
        relative_error=error,
        method_error=relative_distance(found, exact) if same_grid else None,
        cosine=None if true is None else float(found @ true / (found.norm() * true.norm())),
        accuracy=accuracy(error, reference.error, limit),
        digest=digest(found),
        norm=float(torch.linalg.vector_norm(found)),
        sketch=sketch(found),
        non_finite=int((~torch.isfinite(found)).sum()),
    )
