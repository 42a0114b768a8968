"""Which layers can be preconditioned, and their inputs and cotangents as rows of a matrix."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Layer = nn.Linear | nn.Conv2d
"""Layers with a Kronecker-factored curvature: ``h = W x + b``, or the same over patches."""


def preconditionable(roots: Sequence[nn.Module], named: nn.Module) -> dict[str, Layer]:
    """Return the linear and convolutional layers inside ``roots`` that are trained, by their names in ``named``."""
    names = {id(m): n for n, m in named.named_modules()}
    found: dict[str, Layer] = {}
    for root in roots:
        for module in root.modules():
            if not isinstance(module, (nn.Linear, nn.Conv2d)) or not module.weight.requires_grad:
                continue
            if isinstance(module, nn.Conv2d) and (module.groups != 1 or module.padding_mode != "zeros"):
                continue
            found.setdefault(names.get(id(module), type(module).__name__), module)
    return found


def name_the_rest(model: nn.Module, layers: Sequence[Layer]) -> None:
    """Log once which trained parameters are left to the base optimizer."""
    covered = {id(p) for layer in layers for p in (layer.weight, layer.bias) if p is not None}
    rest = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in covered]
    if rest:
        log.info("SNOpt leaves to the base optimizer: %s", ", ".join(rest))


def input_rows(layer: Layer, x: Tensor) -> Tensor:
    """Return the layer's input as rows ``[batch, locations, n_in]``, a 1 appended if it has a bias.

    A convolution's rows are its unfolded patches; a linear layer's locations are the dimensions between batch and
    features.
    """
    if isinstance(layer, nn.Conv2d):
        padding = _conv_padding(layer)
        patches = nn.functional.unfold(
            nn.functional.pad(x, padding), layer.kernel_size, layer.dilation, 0, layer.stride
        )
        rows = patches.transpose(1, 2)
    else:
        rows = x.reshape(x.shape[0], -1, x.shape[-1]) if x.dim() > 1 else x[None, None]
    if layer.bias is None:
        return rows
    return torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], dim=2)


def cotangent_rows(layer: Layer, g: Tensor) -> Tensor:
    """Return the cotangent of the layer's output as rows ``[batch, locations, n_out]``."""
    if isinstance(layer, nn.Conv2d):
        return g.flatten(2).transpose(1, 2)
    return g.reshape(g.shape[0], -1, g.shape[-1]) if g.dim() > 1 else g[None, None]


def gradient_matrix(layer: Layer) -> Tensor | None:
    """Return ``dL/d[W, b]`` as a matrix ``[n_out, n_in]``, or None if a part has no gradient."""
    parts = [layer.weight.grad, *([layer.bias.grad] if layer.bias is not None else [])]
    if any(p is None for p in parts):
        return None
    return torch.cat([p.reshape(layer.weight.shape[0], -1) for p in parts if p is not None], dim=1)


def split_matrix(layer: Layer, matrix: Tensor) -> list[Tensor]:
    """Return ``matrix [n_out, n_in]`` as tensors of the shapes of weight and bias."""
    if layer.bias is None:
        return [matrix.reshape(layer.weight.shape)]
    return [matrix[:, :-1].reshape(layer.weight.shape), matrix[:, -1].reshape(layer.bias.shape)]


def _conv_padding(layer: nn.Conv2d) -> list[int]:
    """Return (left, right, top, bottom) of zero padding."""
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return [0, 0, 0, 0]
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        (top, left) = (t // 2 for t in total)
        return [left, total[1] - left, top, total[0] - top]
    rows, columns = layer.padding
    return [columns, columns, rows, rows]
