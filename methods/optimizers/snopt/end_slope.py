"""A tap at the end of the ODE: the loss's slope in the end time, sample by sample."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from odegrad.contracts import State, Tap, VectorField
from odegrad.methods.optimizers.snopt.tap import undisturbed
from odegrad.states import HostNumber


def sample_slopes(dy: State, a: State) -> Tensor:
    """Return ``m_i = F_i . dPhi_i/dz`` of each sample, ``[batch]``.

    ``dy`` is the field at the end, ``a`` the costate of a batch-mean loss there: states ``[batch, ...]``.
    """
    pairs = zip((dy,) if isinstance(dy, Tensor) else dy, (a,) if isinstance(a, Tensor) else a, strict=True)
    products = [(f * c).flatten(1).sum(1) if f.dim() > 1 else f * c for f, c in pairs]
    return torch.stack(products).sum(0) * len(products[0])


class EndSlope:
    """Tells ``tell`` the slopes of all samples at the end time, by one f call; another tap may watch along.

    Parameters
    ----------
    end_time
        0-d tensor that the ODE is solved up to, or that number as the host knows it.
    tell
        Takes the slopes ``[batch]``.
    beside
        A tap that gets every sample too, whose sample times hold the end of the interval; or None.
    """

    def __init__(
        self, end_time: Tensor | HostNumber, tell: Callable[[Tensor], None], beside: Tap | None = None
    ) -> None:
        self.end_time = end_time if isinstance(end_time, HostNumber) else HostNumber(end_time)
        self.tell = tell
        self.beside = beside

    def sample_times(self, t0: float, t1: float) -> Sequence[float]:
        """Return the end of the interval, or the sample times of the tap beside."""
        return [t1] if self.beside is None else self.beside.sample_times(t0, t1)

    def observe(self, field: VectorField, t: float, y: State, a: State, weight: float) -> None:
        """Take the sample if it is of the end time; the tap beside takes every one."""
        if self.beside is not None:
            self.beside.observe(field, t, y, a, weight)
        if not math.isclose(t, self.end_time.read(), rel_tol=1e-6):
            return
        first = y if isinstance(y, Tensor) else y[0]
        with undisturbed(field, first.device), torch.no_grad():
            dy = field(torch.full((), t, dtype=first.dtype, device=first.device), y)
        self.tell(sample_slopes(dy, a))
