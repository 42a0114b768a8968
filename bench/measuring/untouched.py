"""What one forward and backward pass must leave as it was: the model's parameters and everybody's hooks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from odegrad.errors import OdegradError

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class TouchedError(OdegradError):
    """A gradient method changed what is not its own: its figures would be of another problem."""


@contextmanager
def untouched(model: nn.Module, method: str) -> Iterator[None]:
    """Raise at the end if what happened inside changed a parameter of ``model`` or left a hook on one of its modules.

    Raises
    ------
    TouchedError
        If so; names the first parameter or module.
    """
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    hooks = _hooks(model)
    yield
    for name, p in model.named_parameters():
        if not _equal(p.detach(), before[name]):
            raise TouchedError(
                f"gradient method {method}: expected the parameters as they were after one forward and backward pass, "
                f"got {name} changed; a method computes gradients and leaves the update to the optimizer"
            )
    for place, number in _hooks(model).items():
        if number != hooks.get(place, 0):
            module, kind = place
            raise TouchedError(
                f"gradient method {method}: expected no hook left behind after one forward and backward pass, got "
                f"{number - hooks.get(place, 0)} in {kind.strip('_')} of {module or 'the model'}; remove hooks where "
                "they were set, by the handle's remove()"
            )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Compare bit for bit, so that NaN is equal to itself."""
    return (
        one.shape == other.shape
        and torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))
        and torch.equal(torch.isnan(one), torch.isnan(other))
    )


def _hooks(model: nn.Module) -> dict[tuple[str, str], int]:
    """Return the number of hooks of every kind on every module."""
    return {(name, kind): len(getattr(module, kind)) for name, module in model.named_modules() for kind in HOOKS}
