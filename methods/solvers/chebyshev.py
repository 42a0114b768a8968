"""Barycentric interpolation on Chebyshev nodes: nodes and weights as a matched pair, always.

Berrut and Trefethen, Barycentric Lagrange Interpolation, SIAM Review 2004, sections 4 and 5. Coefficients are computed
in float64 on the host, whatever the state's dtype.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from odegrad.errors import UsageError
from odegrad.states import sent_to

Kind = Literal["first", "second"]
"""Roots of the Chebyshev polynomial (first kind), or its extrema, which hold the end points (second kind)."""


@dataclass(frozen=True)
class ChebyshevNodes:
    """``n`` nodes on the interval from ``t0`` to ``t1`` (either direction), with their barycentric weights.

    Raises
    ------
    UsageError
        If there are too few nodes or the kind is unknown.
    """

    t0: float
    t1: float
    n: int
    kind: Kind = "second"

    def __post_init__(self) -> None:
        """Check the options."""
        check_nodes(self.n, self.kind)

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Return the nodes ``[n]`` from ``t0`` to ``t1``; end points of the second kind are exact."""
        # The minus puts them in the order of t0 to t1, the cosine's own runs the other way; weights follow the same j.
        j = np.arange(self.n)
        if self.kind == "second":
            x = -np.cos(j * math.pi / (self.n - 1))
        else:
            x = -np.cos((2 * j + 1) * math.pi / (2 * self.n))
        times = 0.5 * (self.t0 + self.t1) + 0.5 * (self.t1 - self.t0) * x
        if self.kind == "second":
            # The affine map may miss the ends by an ulp, and no step would hold such a node.
            times[0], times[-1] = self.t0, self.t1
        return np.asarray(times)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """Return the barycentric weights ``[n]`` that belong to these nodes."""
        # Closed forms of 1 / prod (x_j - x_k) up to a factor, which cancels. With those of the other kind of nodes not
        # even a quadratic is reproduced.
        j = np.arange(self.n)
        signs = np.where(j % 2 == 0, 1.0, -1.0)
        if self.kind == "first":
            return np.asarray(signs * np.sin((2 * j + 1) * math.pi / (2 * self.n)))
        signs[0] *= 0.5
        signs[-1] *= 0.5
        return np.asarray(signs)

    def coefficients(self, times: Sequence[float]) -> npt.NDArray[np.float64]:
        """Return ``C [m, n]`` with ``y(times) = C V`` for node values ``V [n, d]``; exact at a node."""
        nodes, weights = self.times, self.weights
        distance = np.asarray(times, dtype=np.float64)[:, None] - nodes[None, :]
        # Within rounding of a node its term is all there is; at the node itself it would be infinite.
        hit = np.abs(distance) <= 4 * np.finfo(np.float64).eps * abs(self.t1 - self.t0)
        terms = weights / np.where(hit, 1.0, distance)
        at_node = hit.any(axis=1)
        terms[at_node] = np.eye(self.n)[hit[at_node].argmax(axis=1)]  # before the sum, which may be 0 there
        # The second barycentric form: with the same weights in the denominator their rounding errors cancel.
        return np.asarray(terms / terms.sum(axis=1, keepdims=True))

    def evaluate(self, values: Tensor, times: Sequence[float]) -> Tensor:
        """Return the interpolant of ``values [n, d]`` at ``times``, ``[m, d]``, in one product."""
        return sent_to(values.device, torch.from_numpy(self.coefficients(times)), values.dtype) @ values


def check_nodes(n: int, kind: str) -> None:
    """Check a number of nodes and their kind.

    Raises
    ------
    UsageError
        If ``n`` is not a whole number of at least 2, or ``kind`` is unknown.
    """
    if not isinstance(n, int) or n < 2:
        raise UsageError(f"num_nodes: expected a whole number of at least 2, got {n!r}; 8 to 32 are usual")
    if kind not in ("first", "second"):
        raise UsageError(f"kind: expected 'first' or 'second' (Chebyshev nodes), got {kind!r}")
