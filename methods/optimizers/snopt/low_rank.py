"""Curvature of rank R > 1: terminal vectors whose outer products sum to the loss's Gauss-Newton curvature.

If ``Q_zz(t1) = sum_i y_i y_i^T``, each ``y_i`` obeys the adjoint's own equation, so each costs one more backward pass
(Liu et al. 2021, section 3.1). For a loss of the model's outputs o the vectors are ``(do/dz)^T s_i`` with square roots
``s_i`` of the loss's Hessian in o: ``d^2 L / do^2 = sum_i s_i s_i^T`` per sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from odegrad.contracts import Batch, Solve
from odegrad.errors import UsageError


def cross_entropy_roots(scores: Tensor) -> Tensor:
    """Return ``s_c = sqrt(p_c) (e_c - p)`` of the softmax cross-entropy, ``[classes, batch, classes]``.

    They sum to ``diag(p) - p p^T`` for ``scores [batch, classes]``, whatever the labels are.
    """
    p = torch.softmax(scores, dim=-1)
    eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    roots: Tensor = p.T.sqrt()[..., None] * (eye[:, None] - p)
    return roots


def squared_error_roots(outputs: Tensor) -> Tensor:
    """Return ``s_i = sqrt(2/n) e_i`` of the mean squared error over n outputs, ``[n, batch, n]``."""
    n = outputs.shape[-1]
    eye = torch.eye(n, dtype=outputs.dtype, device=outputs.device)
    scale: float = (2.0 / n) ** 0.5
    return scale * eye[:, None].expand(n, len(outputs), n)


@dataclass(frozen=True)
class LowRank(Generic[Batch]):
    """What SNOpt needs for R > 1.

    Parameters
    ----------
    outputs
        ``(solve, batch) -> [batch, n]``: the outputs that the loss is a batch mean over, with their graph.
    roots
        ``[batch, n] -> [R, batch, n]``: square roots of the loss's Hessian in them, per sample.
    """

    outputs: Callable[[Solve, Batch], Tensor]
    roots: Callable[[Tensor], Tensor] = cross_entropy_roots

    def terms(self, solve: Solve, batch: Batch) -> Tensor:
        """Return R scalars ``mean_batch(s_i . o)`` with their graph: their costates are the ``y_i``, by ``1 / batch``.

        Raises
        ------
        UsageError
            If outputs or roots have other shapes.
        """
        outputs = self.outputs(solve, batch)
        if outputs.dim() != 2:
            raise UsageError(
                f"low_rank: expected outputs [batch, n], got {tuple(outputs.shape)}; return one row of them a sample"
            )
        roots = self.roots(outputs.detach())
        if roots.dim() != 3 or roots.shape[1:] != outputs.shape:
            raise UsageError(
                f"low_rank: expected roots [R, {outputs.shape[0]}, {outputs.shape[1]}], got {tuple(roots.shape)}; "
                "return R vectors for each sample"
            )
        # The roots are numbers: differentiated too, they would add a term that is no part of Gauss and Newton's matrix.
        return (roots * outputs).sum(-1).mean(-1)


def pull_back_each(terms: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Walk the graph back from each of ``terms [R]`` in turn; return ``q_i = d terms_i / d theta``, ``[R]`` of ``[p]``.

    Nothing is left in ``.grad``.
    """
    pulled = []
    for i, term in enumerate(terms):
        last = i == len(terms) - 1
        grads = torch.autograd.grad(term, parameters, retain_graph=not last, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]
        pulled.append(torch.cat([g.reshape(-1) for g in filled]))
    return pulled
