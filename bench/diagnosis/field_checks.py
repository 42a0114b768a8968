"""What a vector field must be like before logarithmic norms say anything true of it, checked at one state."""

from collections.abc import Callable

import torch
from torch import Tensor

from odegrad.diagnosis.costates import BatchedField
from odegrad.diagnosis.jacobian import jacobian_products
from odegrad.errors import UsageError
from odegrad.states import undisturbed

NEAR = 1e-3
"""Distance from the initial state at which the field is checked: off a kink that it may lie on."""
STEP = 1e-6
AGREES = 1e-3
"""Relative difference between autograd's derivative and a central difference that is no fault."""
COUPLED = 1e-9


def check_field(field: BatchedField, t: Tensor, y0: Tensor) -> None:
    """Check that the field is a function of time and state, sample by sample, with the derivative that autograd takes.

    Parameters
    ----------
    field
        The dynamics on flat states, float64.
    t
        A time, 0-d.
    y0
        States ``[batch, n]``.

    Raises
    ------
    UsageError
        If two calls differ, samples depend on each other, or autograd's derivative is not that of the values.
    NonFiniteError
        If the derivative is not finite.
    """
    source = torch.Generator().manual_seed(0)
    direction = torch.randn(y0.shape, dtype=torch.float64, generator=source).to(y0.device)
    y = y0.detach() + NEAR * torch.randn(y0.shape, dtype=torch.float64, generator=source).to(y0.device)
    with undisturbed(y.device, field), torch.no_grad():
        try:
            first, second = field(t, y.clone()), field(t, y.clone())
            ahead, behind = field(t, y + STEP * direction), field(t, y - STEP * direction)
        except (TypeError, RuntimeError) as error:
            raise UsageError(
                f"func: {type(error).__name__} when called as func(t, y): {str(error).splitlines()[0]}; expected a "
                "forward(t, y) that returns dy/dt and does not change y"
            ) from error
    if not torch.equal(first, second):
        raise UsageError(
            "func: expected one value at one time and state, got two from two calls; take what it draws or counts out "
            "of it, or call eval() on it"
        )
    with jacobian_products(field, t, y) as products:
        _check_samples(products.push, direction)
        taken = products.push(direction)
    difference = (ahead - behind) / (2.0 * STEP)
    size = torch.maximum(difference.norm(), taken.norm())
    if float((difference - taken).norm()) > AGREES * float(size) + STEP:
        raise UsageError(
            f"func: autograd's derivative ({float(taken.norm()):.3g}) is not that of its values "
            f"({float(difference.norm()):.3g}); does it cut the graph by detach(), numpy or no_grad()?"
        )


def _check_samples(push: Callable[[Tensor], Tensor], direction: Tensor) -> None:
    """Raise UsageError if moving the first sample moves the derivative of another, or the other way round."""
    if len(direction) < 2:
        return
    alone = torch.zeros_like(direction)
    alone[0] = direction[0]
    by_first, by_rest = push(alone), push(direction - alone)
    if float(by_first[1:].norm() + by_rest[0].norm()) > COUPLED * max(float((by_first + by_rest).norm()), 1.0):
        raise UsageError(
            "y0: expected samples [batch, ...] that do not depend on each other, got ones that do; a state without a "
            "batch dimension is passed as y0[None], batch normalisation is put into eval() mode"
        )
