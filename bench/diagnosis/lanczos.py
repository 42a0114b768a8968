"""Extreme eigenvalues of one symmetric matrix for each sample, all samples in parallel, from products alone.

The Lanczos method with full orthogonalisation (Parlett, The Symmetric Eigenvalue Problem, 1998, chapter 13) and thick
restarts (Wu and Simon, SIAM J. Matrix Anal. Appl. 22, 2000). Each step takes one product for the whole batch and
serves both ends of every spectrum. All arithmetic but the product is in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odegrad.errors import UsageError

Product = Callable[[Tensor], Tensor]
"""Symmetric matrices times vectors, ``[batch, n] -> [batch, n]``."""

BASIS_BYTES = 1 << 30
"""The basis takes at most this much memory (three vectors at least)."""
LARGEST_BASIS = 160
CLUSTER = 4
"""So many Ritz values nearest to an end may count as one."""
CHECK_EVERY = 3
"""Products between looks at convergence, which cost about one product each on a small net."""
SETTLED_EIGENVALUE = 12
"""So many products must not have moved a value by more than is allowed."""
AIM = 0.1
"""The part of the tolerance that an estimated error may have: it is that of *an* eigenvalue, maybe not the last one."""
RESIDUAL_MARGIN = 10.0
SMALL_EIGENVALUE = 1e-3
"""Below this part of the matrix's norm an eigenvalue's accuracy is relative to this part, not to itself."""


@dataclass(frozen=True)
class Extremes:
    """The two ends of each sample's spectrum."""

    largest: Tensor
    """``[batch]``."""
    smallest: Tensor
    """``[batch]``."""
    converged: Tensor
    """Whether the wanted ends are within the tolerance, or were not to be waited for, ``[batch]``."""
    products: int
    """How many products were taken, each one for the whole batch."""
    start: Tensor
    """Where to start on matrices near by: the sum of the wanted ends' unit vectors, ``[batch, n]``."""


@dataclass(frozen=True)
class _Ritz:
    """Eigenvalues ``[batch, j]`` in rising order and eigenvectors ``[batch, j, j]`` of the projected matrices."""

    values: Tensor
    vectors: Tensor
    beta: Tensor
    """Norm of what sticks out of the space, ``[batch]``."""
    products: int

    def error(self, end: int) -> Tensor:
        """Return an estimate of the error of the smallest (end 0) or largest value (end -1), ``[batch]``.

        The residual ``r`` always bounds the distance to an eigenvalue, ``r^2 / gap`` where the others are a gap off
        (Parlett, theorem 11.7.1). The gap is that to the other Ritz values; those nearest may count as one with the
        value itself, which adds their distance to the error.
        """
        residual = self.beta * self.vectors[:, -1, end].abs()
        distance = (self.values - self.values[:, [end]]).abs().sort(dim=1).values[:, : CLUSTER + 1]
        width, gap = distance[:, :-1], distance[:, 1:]
        outside = width + residual[:, None] ** 2 / gap.clamp_min(torch.finfo(gap.dtype).tiny)
        return torch.cat([outside, residual[:, None]], dim=1).amin(1)

    def converged(self, before: "_Ritz", tolerance: float, ends: tuple[int, ...]) -> Tensor:
        """Return whether the values at ``ends`` are within the tolerance, ``[batch]``.

        The residual must say so to an order of magnitude (measured on nets, it overestimates the error a hundredfold:
        most of a residual lies along eigenvalues far off), and the value must have stood still since ``before``.
        """
        norm = torch.maximum(self.values[:, 0].abs(), self.values[:, -1].abs())
        done = torch.ones_like(norm, dtype=torch.bool)
        for end in ends:
            allowed = tolerance * torch.maximum(self.values[:, end].abs(), SMALL_EIGENVALUE * norm)
            moved = (self.values[:, end] - before.values[:, end]).abs()
            error = self.error(end)
            done &= (error <= allowed) | ((error <= RESIDUAL_MARGIN * allowed) & (moved <= allowed))
        return done

    def beaten(self) -> Tensor:
        """Return whether the largest value, with its residual, stays below that of another sample, ``[batch]``."""
        high = self.values[:, -1]
        return high + self.beta * self.vectors[:, -1, -1].abs() < high.amax()


def extreme_eigenvalues(
    product: Product,
    shape: tuple[int, int],
    *,
    tolerance: float = 1e-6,
    limit: int = 1000,
    device: torch.device | None = None,
    start: Tensor | None = None,
    smallest: bool = True,
    all_samples: bool = True,
) -> Extremes:
    """Return the largest and smallest eigenvalue of each sample's matrix.

    No method that takes products alone can be sure of an end: where the start happens to have little of the last
    eigenvector, the values settle on the one before for a while (Kuczynski and Wozniakowski, SIAM J. Matrix Anal.
    Appl. 13, 1992). One at a time at a tolerance of 1e-3, that befell 2 of 400 random symmetric 100x100 matrices, and
    2 of 120 of 300x300; the last two eigenvalues of such matrices lie close together.

    Parameters
    ----------
    product
        The matrices times vectors ``[batch, n]`` in float64.
    shape
        ``(batch, n)``.
    tolerance
        Wanted accuracy, relative to the eigenvalue (or to ``SMALL_EIGENVALUE`` of the norm, if that is more).
    limit
        Most products; what has not converged by then is marked so.
    device
        Where vectors live; the CPU if left out.
    start
        The ``start`` of matrices near by, ``[batch, n]``; random numbers are added, so that nothing is left out.
    smallest
        Whether to wait for the smallest too; otherwise it is only as good as the largest leaves it.
    all_samples
        Whether every sample must converge; otherwise those need not whose largest value cannot be the batch's largest.

    Raises
    ------
    UsageError
        If tolerance or limit is not positive.
    """
    if not (0 < tolerance < 1 and limit >= 1):
        raise UsageError(
            f"tolerance, limit: expected a tolerance between 0 and 1 and a limit of at least 1 product, got "
            f"{tolerance!r} and {limit!r}; 1e-6 and 1000 are usual"
        )
    n = shape[1]
    space = _KrylovSpace(product, shape, device, start)
    ends = (0, -1) if smallest else (-1,)
    seen: list[_Ritz] = []
    while True:
        space.grow()
        exhausted, over = space.size == n, space.products >= limit
        full = space.size == space.capacity
        if not (exhausted or over or full or space.products % CHECK_EVERY == 0):
            continue
        ritz = space.ritz(exhausted=exhausted)
        before = next((r for r in reversed(seen) if r.products <= ritz.products - SETTLED_EIGENVALUE), None)
        converged = ritz.error(-1) <= 0 if before is None else ritz.converged(before, AIM * tolerance, ends)
        converged |= exhausted
        settled = converged if all_samples or before is None else converged | ritz.beaten()
        if exhausted or over or bool(settled.all()):
            low, high = ritz.values[:, 0].cpu(), ritz.values[:, -1].cpu()
            return Extremes(high, low, settled.cpu(), space.products, space.start(ritz, ends))
        seen.append(ritz)
        if full:
            space.restart(ritz)


class _KrylovSpace:
    """Orthonormal vectors of each sample, the matrices projected on them, and what sticks out of their span."""

    def __init__(
        self, product: Product, shape: tuple[int, int], device: torch.device | None, start: Tensor | None
    ) -> None:
        batch, n = shape
        self._product = product
        self._generator = torch.Generator().manual_seed(0)  # any start will do; one that repeats makes results repeat
        self._device = device or torch.device("cpu")
        room = BASIS_BYTES // (8 * batch * n)
        self.capacity = min(n, max(3, min(room, LARGEST_BASIS)))
        self._basis = torch.zeros(batch, self.capacity, n, dtype=torch.float64, device=self._device)
        self._projected = torch.zeros(batch, self.capacity, self.capacity, dtype=torch.float64, device=self._device)
        self.size = 0
        self.products = 0
        self._next = self._random((batch, n)) / n**0.5
        if start is not None:
            self._next = start + 0.5 * self._next
        self.beta = self._next.norm(dim=1)

    def grow(self) -> None:
        """Add the vector that sticks out, and take the product with it."""
        j = self.size
        self._basis[:, j] = self._direction()
        self.size, self.products = j + 1, self.products + 1
        rest = self._product(self._basis[:, j])
        rest, h = self._orthogonal(rest)
        self._projected[:, : j + 1, j] = h
        self._projected[:, j, : j + 1] = h
        self._next, self.beta = rest, rest.norm(dim=1)

    def ritz(self, *, exhausted: bool) -> _Ritz:
        """Return eigenvalues and eigenvectors of the projected matrices; in the whole space nothing sticks out."""
        values, vectors = torch.linalg.eigh(self._projected[:, : self.size, : self.size])
        return _Ritz(values, vectors, torch.zeros_like(self.beta) if exhausted else self.beta, self.products)

    def start(self, ritz: _Ritz, ends: tuple[int, ...]) -> Tensor:
        """Return the sum of the Ritz vectors of the wanted ends at length 1, ``[batch, n]``."""
        total = ritz.vectors[:, :, list(ends)].sum(2)
        out = (total[:, None] @ self._basis[:, : self.size])[:, 0]
        return nn.functional.normalize(out, dim=1)

    def restart(self, ritz: _Ritz) -> None:
        """Keep the Ritz vectors nearest to both ends, half of the space; what sticks out stays the same."""
        keep = max(1, self.capacity // 4)
        ends = [*range(keep), *range(self.size - keep, self.size)] if 2 * keep < self.size else [self.size - 1]
        values, vectors = ritz.values[:, ends], ritz.vectors[:, :, ends]
        self._basis[:, : len(ends)] = vectors.mT @ self._basis[:, : self.size]
        self._projected.zero_()
        self._projected[:, : len(ends), : len(ends)] = torch.diag_embed(values)
        self.size = len(ends)

    def _direction(self) -> Tensor:
        """Return what sticks out at length 1; where nothing does, a random vector orthogonal to all.

        There the space is invariant under the matrix (one of low rank, or zero), and the eigenvalues found are exact.
        """
        scale = self._projected.abs().amax((1, 2)) if self.size else torch.zeros_like(self.beta)
        stuck = self.beta <= 10 * torch.finfo(torch.float64).eps * scale
        out = self._next / self.beta.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        if bool(stuck.any()):
            fresh, _ = self._orthogonal(self._random(tuple(out.shape)))
            out = torch.where(stuck[:, None], fresh, out)
        if bool((self.beta <= 1e-4 * scale).any()):  # a short remainder is orthogonal up to rounding over its length
            out, _ = self._orthogonal(out)
        return nn.functional.normalize(out, dim=1)

    def _orthogonal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``x [batch, n]`` without its part in the space, and that part's coordinates ``[batch, size]``.

        Gram-Schmidt twice: once leaves rounding (Parlett, section 6.9).
        """
        basis = self._basis[:, : self.size]
        coordinates = torch.zeros(len(x), self.size, dtype=x.dtype, device=x.device)
        for _ in range(2):
            part = (basis @ x[..., None])[..., 0]
            x = x - (part[:, None] @ basis)[:, 0]
            coordinates = coordinates + part
        return x, coordinates

    def _random(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._generator, dtype=torch.float64).to(self._device)
