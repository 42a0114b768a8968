"""Which layers can be preconditioned, and their inputs and cotangents as rows of a matrix."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from odegrad.errors import UsageError

log = logging.getLogger(__name__)

Layer = nn.Linear | nn.Conv2d
"""Layers with a Kronecker-factored curvature: ``h = W x + b``, or the same over patches."""


def preconditionable(roots: Sequence[nn.Module], named: nn.Module) -> dict[str, Layer]:
    """Return the linear and convolutional layers inside ``roots`` that are trained, by their names in ``named``.

    Layers that share a parameter are left out: each would precondition the same gradient with its own factors.

    Raises
    ------
    UsageError
        If a layer inside ``roots`` is not part of ``named``, so that no optimizer would move it.
    """
    names = {id(m): n for n, m in named.named_modules()}
    holders = Counter(id(p) for m in named.modules() if _has_factors(m) for p in trained_parameters(m))
    found: dict[str, Layer] = {}
    for root in roots:
        for module in root.modules():
            if not _has_factors(module):
                continue
            if id(module) not in names:
                raise UsageError(
                    f"fields: expected vector fields inside of model, got {type(root).__name__} with a layer {module} "
                    "that model does not hold; pass the model that contains the field"
                )
            if all(holders[id(p)] == 1 for p in trained_parameters(module)):
                found[names[id(module)]] = module
    return found


def trained_parameters(layer: Layer) -> list[Tensor]:
    """Return the weight, and the bias if it is there and trained."""
    bias = layer.bias
    return [layer.weight, bias] if bias is not None and bias.requires_grad else [layer.weight]


def _has_factors(module: nn.Module) -> TypeGuard[Layer]:
    """Return whether ``module`` is a layer of the right kind whose own weight is trained.

    A reparametrised weight (weight norm, spectral norm) is no parameter: its gradient belongs to other tensors.
    """
    if not isinstance(module, (nn.Linear, nn.Conv2d)) or not isinstance(module.weight, nn.Parameter):
        return False
    return module.weight.requires_grad


def name_the_rest(model: nn.Module, roots: Sequence[nn.Module], layers: Sequence[Layer]) -> None:
    """Warn once of trained parameters inside ``roots`` that cannot be preconditioned; tell of those outside."""
    covered = {id(p) for layer in layers for p in trained_parameters(layer)}
    inside = {id(p) for root in roots for p in root.parameters()}
    rest = [(n, id(p)) for n, p in model.named_parameters() if p.requires_grad and id(p) not in covered]
    named = [n for n, p in rest if p in inside]
    if named:
        log.warning("SNOpt cannot precondition %s: left to the base optimizer", ", ".join(named))
    others = [n for n, p in rest if p not in inside]
    if others:
        log.info(
            "outside of the fields, not preconditioned by SNOpt but stepped by its base optimizer: %s",
            ", ".join(others),
        )


def input_rows(layer: Layer, x: Tensor) -> Tensor:
    """Return the layer's input as rows ``[batch, locations, n_in]``, a 1 appended if its bias is trained.

    A convolution's rows are its patches, row by row with the channels innermost (so they are copied in long runs), of
    each group apart where it has several (``[groups, batch, locations, n_in]``); a linear layer's locations are the
    dimensions between batch and features.
    """
    if not isinstance(layer, nn.Conv2d):
        rows = x.reshape(x.shape[0], -1, x.shape[-1]) if x.dim() > 1 else x[None, None]
        return torch.cat([rows, rows.new_ones(*rows.shape[:-1], 1)], dim=-1) if _has_one(layer) else rows
    patches = _patches(layer, x if x.dim() == 4 else x[None])
    groups, batch, height, width = patches.shape[:4]
    n = patches[0, 0, 0, 0].numel()
    rows = x.new_ones(groups, batch, height * width, n + _has_one(layer))
    rows[..., :n].view(patches.shape).copy_(patches)
    return rows[0] if groups == 1 else rows


def cotangent_rows(layer: Layer, g: Tensor) -> Tensor:
    """Return the cotangent of the layer's output as rows ``[batch, locations, n_out]``, of each group apart."""
    if isinstance(layer, nn.Conv2d):
        return _by_group(layer, (g if g.dim() == 4 else g[None]).flatten(2).transpose(1, 2))
    return g.reshape(g.shape[0], -1, g.shape[-1]) if g.dim() > 1 else g[None, None]


def gradient_matrix(layer: Layer) -> Tensor | None:
    """Return ``dL/d[W, b]`` as a matrix of ``matrix_shape``, or None if a part has no gradient."""
    parts = [p.grad for p in trained_parameters(layer)]
    if any(p is None for p in parts):
        return None
    rows = matrix_shape(layer)[:-1]
    matrices = [(p.movedim(1, -1) if p.dim() == 4 else p).reshape(*rows, -1) for p in parts if p is not None]
    return torch.cat(matrices, dim=-1)


def split_matrix(layer: Layer, matrix: Tensor) -> list[Tensor]:
    """Return a matrix of ``matrix_shape`` as tensors of the shapes of weight and bias."""
    weight, *bias = trained_parameters(layer)
    of_weight = matrix[..., :-1] if bias else matrix
    if isinstance(layer, nn.Conv2d):
        out, channels, *kernel = weight.shape
        parts = [of_weight.reshape(out, *kernel, channels).movedim(-1, 1)]
    else:
        parts = [of_weight]
    return [*parts, matrix[..., -1].reshape(bias[0].shape)] if bias else parts


def matrix_shape(layer: Layer) -> tuple[int, ...]:
    """Return ``(n_out, n_in)``, the shape of the layer's gradient as a matrix; ``(groups, n_out, n_in)`` with groups.

    A grouped convolution is as many layers side by side, each with its own factors.
    """
    n_out = layer.weight.shape[0]
    n_in = sum(p.numel() for p in trained_parameters(layer)) // n_out
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return (n_out, n_in) if groups == 1 else (groups, n_out // groups, n_in)


def _has_one(layer: Layer) -> bool:
    """Return whether the layer's bias is trained, so that a 1 belongs to its input."""
    return len(trained_parameters(layer)) == 2


def _patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the patches of ``x [batch, channels, ...]``, a view ``[groups, batch, height, width, *kernel, n]``."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    view = nn.functional.pad(x, _conv_padding(layer), mode).movedim(1, -1).contiguous()
    for dim in (1, 2):
        reach, dilation = layer.kernel_size[dim - 1] - 1, layer.dilation[dim - 1]
        view = view.unfold(dim, dilation * reach + 1, layer.stride[dim - 1])[..., ::dilation]
    batch, height, width, channels, *kernel = view.shape
    apart = view.view(batch, height, width, layer.groups, channels // layer.groups, *kernel)
    return apart.permute(3, 0, 1, 2, 5, 6, 4)


def _by_group(layer: nn.Conv2d, rows: Tensor) -> Tensor:
    """Return ``rows [batch, locations, n]``, or ``[groups, batch, locations, n / groups]`` with groups."""
    return rows if layer.groups == 1 else rows.reshape(*rows.shape[:-1], layer.groups, -1).movedim(-2, 0)


def _conv_padding(layer: nn.Conv2d) -> list[int]:
    """Return the padding (left, right, top, bottom)."""
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return [0, 0, 0, 0]
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        (top, left) = (t // 2 for t in total)
        return [left, total[1] - left, top, total[0] - top]
    rows, columns = layer.padding
    return [columns, columns, rows, rows]
