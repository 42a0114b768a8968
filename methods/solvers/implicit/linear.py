"""The linear systems of an implicit step: ``W = I - h gamma f_y``, solved by blocks, as one matrix, or by GMRES."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from odegrad.errors import NewtonError, UnsupportedError, is_out_of_memory
from odegrad.methods.fields.twice import pulled_with_graph
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.krylov import gmres
from odegrad.methods.solvers.implicit.samples import LinearisedField, Samples
from odegrad.methods.solvers.implicit.tableau import LinearSolve
from odegrad.states import sent_to

MAX_IN_BLOCK = 64
MAX_IN_MATRIX = 512
"""Numbers of a sample up to which its Jacobian is formed, and of a whole batch up to which one matrix is."""

ROWS_IN_A_LOOP = 6
"""Up to this many rows of a Jacobian one pull-back after another is faster than one vectorised over the rows."""

CYCLES = 10
"""Spaces of GMRES in one Newton iteration, which gives up then and shortens the step."""
EXACT_CYCLES = 200
"""Spaces of GMRES for a pull-back, which must be exact."""


class System(Protocol):
    """A factorised ``W [batch, n, n]``; vectors are ``[batch, n, 1]``."""

    def solve(self, r: Tensor) -> Tensor:
        """Return ``W^-1 r``."""
        ...

    def solve_transposed(self, r: Tensor) -> Tensor:
        """Return ``W^-T r``."""
        ...


class Linearisation:
    """``f`` and its Jacobian at one ``(t, y [batch, n, 1])``: one f call with a graph.

    Parameters
    ----------
    jacobians
        Of the solve.
    t, y
        Where; ``t`` is the 0-d tensor that the field sees.
    formed
        Form the Jacobian, where systems are solved by its matrix; False if only a product is wanted.
    """

    def __init__(self, jacobians: "Jacobians", t: Tensor, y: Tensor, *, formed: bool = True) -> None:
        self.jacobians = jacobians
        self.t = t
        with torch.enable_grad():
            self.y = y.detach().requires_grad_()
            self.dy = jacobians.samples.call(jacobians.field, t, self.y)
        jacobians.field.refuse_unchecked(self.dy, t, self.y)
        self.matrix = jacobians.rows(self) if formed and jacobians.kind != "krylov" else None
        self._seed: Tensor | None = None
        self._pulled: Tensor | None = None

    @property
    def depends(self) -> bool:
        """Return whether autograd can pull anything back."""
        return self.dy.requires_grad

    def pull(
        self, c: Tensor, parameters: Sequence[Tensor], *, keep: bool = False
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return ``f_y^T c`` and ``f_theta^T c``: one vector-Jacobian product; ``keep`` keeps the graph."""
        if not self.dy.requires_grad:
            return torch.zeros_like(c), [None] * len(parameters)
        if not parameters:
            # A product of many with one graph: what it reaches is looked at where the parameters are asked for.
            (product,) = torch.autograd.grad(self.dy, self.y, c, retain_graph=keep, materialize_grads=True)
            return product, []
        of_y, *of_parameters = self.jacobians.field.pulled_through([self.dy], (self.y, *parameters), [c], keep=keep)
        return torch.zeros_like(c) if of_y is None else of_y, list(of_parameters)

    def push(self, v: Tensor) -> Tensor:
        """Return ``f_y v``: the derivative of ``u -> f_y^T u`` is ``f_y``."""
        if not self.dy.requires_grad:
            return torch.zeros_like(v)
        if self._seed is None:
            with torch.enable_grad():
                self._seed = torch.zeros_like(self.dy, requires_grad=True)
                (self._pulled,) = pulled_with_graph([self.dy], [self.y], [self._seed])
        if self._pulled is None or not self._pulled.requires_grad:
            return torch.zeros_like(v)
        (out,) = torch.autograd.grad(self._pulled, self._seed, v, retain_graph=True, materialize_grads=True)
        return out

    def system(self, hg: float | Tensor, scale: Tensor | None = None, tolerance: float = 0.0) -> System:
        """Return ``I - hg f_y``, factorised; ``hg`` is a number, or one for each sample ``[batch, 1, 1]``.

        ``scale [batch, n, 1]`` and ``tolerance`` say how exactly GMRES solves: until the residual's root mean square,
        in units of the scale, is at most the tolerance.
        """
        if self.matrix is None:
            if isinstance(hg, Tensor):
                raise UnsupportedError("linear = 'krylov': samples of sizes of their own are solved for by blocks")
            return _Products(self, hg, scale, tolerance)
        w = torch.mul(self.matrix, -hg)
        w.diagonal(dim1=1, dim2=2).add_(1.0)
        return _Factors(w)

    def is_singular(self, hg: float) -> bool:
        """Return whether ``I - hg f_y`` has no inverse for some sample; of products nothing is known."""
        return isinstance(found := self.system(hg), _Factors) and bool((found.info > 0).any())

    def is_finite(self) -> bool:
        """Return whether the Jacobian is finite; of products nothing is known."""
        return self.matrix is None or bool(torch.isfinite(self.matrix).all())


class Jacobians:
    """Forms the Jacobians of one field for one solve, and knows how its systems are solved.

    Rows come from pull-backs of the whole batch, vectorised where there are many and autograd can, else one by one.
    ``units`` is where the unit matrix is kept that they come from: those of one solve on unlike batches share it.

    Raises
    ------
    UnsupportedError
        If a sample, or the batch, is larger than ``linear`` allows.
    """

    def __init__(self, field: LinearisedField, linear: LinearSolve, units: dict[str, Tensor] | None = None) -> None:
        apart, together = Samples(field.layout), Samples(field.layout, together=True)
        self.kind = _chosen(linear, apart.n, together.n)
        self.field = field
        self.apart = apart
        self.samples = apart if self.kind == "blocks" else together
        self.vectorised = self.samples.n > ROWS_IN_A_LOOP
        self._units = {} if units is None else units
        self._basis: Tensor | None = None

    @classmethod
    def of(cls, field: FlatField, linear: LinearSolve) -> "Jacobians":
        """Return those of ``field``, made once a solve."""
        found = field.kept.get(linear)
        if not isinstance(found, Jacobians):
            found = field.kept[linear] = cls(field, linear)
        return found

    def largest_sample(self, x: Tensor) -> float:
        """Return the largest root mean square of a sample of ``x [batch, n, 1]``: a read of the device."""
        # Of each sample by itself, however systems are solved: so they all iterate alike.
        each = x if self.samples.batch == self.apart.batch else self.apart.of(self.samples.flat(x))
        norms = torch.linalg.vector_norm(each, dim=1)
        return float(norms.amax() if self.apart.batch > 1 else norms) / math.sqrt(self.apart.n)

    def time(self, t: float | Tensor) -> Tensor:
        """Return a time as the field sees it; one that is a tensor already, of samples' own, as it is."""
        return t if isinstance(t, Tensor) else self.field.time(t)

    @property
    def products(self) -> int:
        """Return the pull-backs that form one Jacobian, one if vectorised over its rows; 0 if none is formed."""
        return 0 if self.kind == "krylov" else 1 if self.vectorised else self.samples.n

    def basis(self, like: Tensor) -> Tensor:
        """Return the cotangents ``[n, batch, n, 1]`` of the rows of all samples, like ``like [batch, n, 1]``."""
        if self._basis is None:
            batch, n = self.samples.batch, self.samples.n
            if "unit" not in self._units:
                self._units["unit"] = torch.eye(n, dtype=like.dtype, device=like.device)
            self._basis = self._units["unit"][:, None, :, None].expand(n, batch, n, 1)
        return self._basis

    def rows(self, at: Linearisation, basis: Tensor | None = None) -> Tensor:
        """Return the Jacobians ``[batch, n, n]``: row ``i`` of all samples is one product.

        With a ``basis`` of the caller's own they come with their graph, which reaches it.
        """
        batch, n = self.samples.batch, self.samples.n
        if not at.depends:
            return at.dy.new_zeros((batch, n, n))
        graph, cotangents = basis is not None, self.basis(at.dy) if basis is None else basis
        if self.vectorised:
            try:
                return self._product(at, cotangents, batched=True, graph=graph)[..., 0].transpose(0, 1)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self.vectorised = False  # an operation of the field has no rule for batches: one row after the other
        rows = [self._product(at, row, batched=False, graph=graph) for row in cotangents.unbind(0)]
        return torch.cat(rows, dim=2).transpose(1, 2)

    def _product(self, at: Linearisation, cotangents: Tensor, *, batched: bool, graph: bool = False) -> Tensor:
        (found,) = torch.autograd.grad(
            at.dy, at.y, cotangents, retain_graph=True, create_graph=graph, is_grads_batched=batched,
            materialize_grads=True,
        )  # fmt: skip
        return found

    def refuse_mixing(self, at: Linearisation) -> None:
        """Raise unless the blocks give the whole batch's product with a random cotangent: one more product.

        Raises
        ------
        UnsupportedError
            If samples mix.
        """
        if self.kind != "blocks" or self.samples.batch == 1 or at.matrix is None or not at.depends:
            return
        generator = torch.Generator().manual_seed(0)
        v = sent_to(at.dy.device, torch.randn(at.dy.shape, generator=generator, dtype=torch.float64), at.dy.dtype)
        whole = self._product(at, v, batched=False)
        blocks = torch.matmul(at.matrix.transpose(1, 2), v)
        off, size = torch.stack([torch.linalg.vector_norm(whole - blocks), torch.linalg.vector_norm(whole)]).tolist()
        bound = 1e-6 if at.dy.dtype == torch.float64 else 1e-3
        if math.isfinite(off) and off > bound * size:
            raise UnsupportedError(
                f"field: its samples depend on each other (a product with the whole batch's Jacobian is off by "
                f"{off / max(size, 1e-300):.1g} of it), as in batch normalisation or attention over the batch, and "
                "linear = 'blocks' takes one Jacobian for each; take linear = 'dense' for up to "
                f"{MAX_IN_MATRIX} numbers, or 'krylov'"
            )


def _chosen(linear: LinearSolve, n: int, d: int) -> LinearSolve:
    if linear == "auto":
        return "blocks" if n <= MAX_IN_BLOCK else "dense" if d <= MAX_IN_MATRIX else "krylov"
    most, what, size = {"blocks": (MAX_IN_BLOCK, "a sample", n), "dense": (MAX_IN_MATRIX, "the batch", d)}.get(
        linear, (n, "", n)
    )
    if size > most:
        raise UnsupportedError(
            f"linear: {linear!r} forms Jacobians of at most {most} numbers, and {what} of this state holds {size}; "
            "take 'krylov', or 'auto'"
        )
    return linear


class _Factors:
    """LU factors of blocks."""

    def __init__(self, w: Tensor) -> None:
        # Without a check, which would wait for the device: a singular block gives numbers that are not finite.
        self.lu, self.pivots, self.info = torch.linalg.lu_factor_ex(w)

    def solve(self, r: Tensor) -> Tensor:
        """Return ``W^-1 r``."""
        found: Tensor = torch.linalg.lu_solve(self.lu, self.pivots, r)
        return found

    def solve_transposed(self, r: Tensor) -> Tensor:
        """Return ``W^-T r``."""
        found: Tensor = torch.linalg.lu_solve(self.lu, self.pivots, r, adjoint=True)
        return found


class _Products:
    """``W`` by products with the Jacobian, of the whole batch at once."""

    def __init__(self, at: Linearisation, hg: float, scale: Tensor | None, tolerance: float) -> None:
        self.at = at
        self.hg = hg
        self.scale = scale
        self.tolerance = tolerance

    def solve(self, r: Tensor) -> Tensor:
        """Return ``W^-1 r`` to the tolerance; NaN where GMRES does not come to it, so that Newton fails."""
        scale = torch.ones_like(r) if self.scale is None else self.scale
        shape = r.shape

        def apply(v: Tensor) -> Tensor:
            u = v.view(shape)
            return torch.sub(u, self.at.push(u * scale) / scale, alpha=self.hg).view(-1)

        bound = self.tolerance * math.sqrt(r.numel())
        found = gmres(apply, (r / scale).view(-1), bound, CYCLES)
        x = found.x.view(shape) * scale
        return x if found.converged else torch.full_like(x, math.nan)

    def solve_transposed(self, r: Tensor) -> Tensor:
        """Return ``W^-T r`` to rounding.

        Raises
        ------
        NewtonError
            If GMRES does not come to it.
        """
        shape = r.shape

        def apply(v: Tensor) -> Tensor:
            u = v.view(shape)
            return torch.sub(u, self.at.pull(u, (), keep=True)[0], alpha=self.hg).view(-1)

        flat = r.reshape(-1)
        bound = 1e3 * torch.finfo(r.dtype).eps * float(torch.linalg.vector_norm(flat))
        found = gmres(apply, flat, bound, EXACT_CYCLES)
        if not found.converged:
            raise NewtonError(
                f"linear = 'krylov': GMRES has not solved a pull-back of {flat.numel()} numbers in {found.products} "
                "products; take shorter steps (max_step), or linear = 'blocks' or 'dense' if the state allows"
            )
        return found.x.view(shape)
