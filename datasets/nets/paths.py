"""Paths through a series of observations, whose derivative forces a field; it has a kink or a jump at every knot.

A solve that lands on the knots, and sees the derivative's limits there, is one of smooth pieces: give ``knots`` as
``options={"jump_t": path.knots}`` to ``odeint``, or to ``across`` of a task's solve.
"""

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from odegrad.errors import UsageError
from odegrad.states import sent_to


class Path(nn.Module, abc.ABC):
    """A path ``X(t) [batch, channels]`` through ``values [batch, length, channels]`` at ``times [length]``.

    The values are data: buffers. Between two knots it is a polynomial, ``coefficients [batch, length - 1, q + 1,
    channels]`` in the time since the first of them.

    Parameters
    ----------
    times
        Strictly increasing, at least two; best on the CPU, where the host reads them.
    values
        Finite, of the same floating-point type.
    extrapolate
        Whether a solve may leave the knots, where the first and the last piece go on. Else it is refused before it
        starts: a cubic piece grows fast, and nothing was observed there.

    Raises
    ------
    UsageError
        If they are not what is said here.
    """

    times: Tensor
    coefficients: Tensor

    def __init__(self, times: Tensor, values: Tensor, *, extrapolate: bool = False) -> None:
        super().__init__()
        _check(times, values)
        self.knots: Sequence[float] = times.tolist()
        """The times, as the host knows them."""
        self.known_between = None if extrapolate else (self.knots[0], self.knots[-1])
        """See ``odegrad.contracts.Bounded``."""
        # Times may lie with the host, which then need not wait for another device.
        times = sent_to(values.device, times, values.dtype)
        self.register_buffer("times", times, persistent=False)
        self.register_buffer("coefficients", self.pieces(times, values), persistent=False)

    @abc.abstractmethod
    def pieces(self, times: Tensor, values: Tensor) -> Tensor:
        """Return the coefficients ``[batch, length - 1, q + 1, channels]``, the constant ones first."""

    def forward(self, t: Tensor) -> Tensor:
        """Return ``X(t) [batch, channels]`` at ``t``, 0-d."""
        piece, since = self._at(t)
        out = piece[:, -1]
        for k in range(piece.shape[1] - 2, -1, -1):
            out = out * since + piece[:, k]
        return out

    def derivative(self, t: Tensor) -> Tensor:
        """Return ``X'(t) [batch, channels]`` at ``t``, 0-d; at a knot that of the piece behind it, if there is one."""
        piece, since = self._at(t)
        degree = piece.shape[1] - 1
        out = degree * piece[:, -1]
        for k in range(degree - 1, 0, -1):
            out = out * since + k * piece[:, k]
        return out

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the piece ``[batch, q + 1, channels]`` that ``t`` lies in, and the time since it began, 0-d."""
        t = sent_to(self.times.device, t, self.times.dtype)
        # Of the device throughout: the host need not know which piece it is.
        index = torch.searchsorted(self.times, t.detach().reshape(1), right=True) - 1
        index = index.clamp(0, len(self.times) - 2)
        return self.coefficients.index_select(1, index)[:, 0], t - self.times.index_select(0, index)[0]


class HermitePath(Path):
    """Cubic Hermite pieces with backward differences: ``X'(t_k) = (x_k - x_{k-1}) / (t_k - t_{k-1})``.

    Known at ``t_k`` is what was observed up to then (Morrill et al., On the Choice of Interpolation Scheme for Neural
    CDEs, TMLR 2022, arXiv:2106.11028). The derivative is continuous and has a kink at every knot.
    """

    def pieces(self, times: Tensor, values: Tensor) -> Tensor:
        """Return the coefficients of the cubics."""
        steps = times.diff()[:, None]
        slope = values.diff(dim=1) / steps
        before = torch.cat([slope[:, :1], slope[:, :-1]], dim=1)
        bend = (slope - before) / steps
        return torch.stack([values[:, :-1], before, 2 * bend, -bend / steps], dim=2)


class LinearPath(Path):
    """Straight pieces: the derivative jumps at every knot."""

    def pieces(self, times: Tensor, values: Tensor) -> Tensor:
        """Return the coefficients of the lines."""
        return torch.stack([values[:, :-1], values.diff(dim=1) / times.diff()[:, None]], dim=2)


def rectilinear_path(times: Tensor, values: Tensor, *, extrapolate: bool = False) -> LinearPath:
    """Return the path over (time, channels) in which time and observations move in turn, each for a unit of its own.

    From ``(t_k, x_k)`` time goes on to ``(t_{k+1}, x_k)``, and then the observation to ``(t_{k+1}, x_{k+1})``. So
    nothing is known of an observation before its time (Morrill et al. 2022). Its knots are ``0, 1, ...``, ``2 length -
    1`` of them, and not ``times``: solve from 0 to ``path.knots[-1]``. Observation k stands at ``2 k``.

    Parameters
    ----------
    times
        ``[length]``, strictly increasing.
    values
        ``[batch, length, channels]``.
    extrapolate
        See ``Path``.

    Raises
    ------
    UsageError
        If they are not what is said here.
    """
    _check(times, values)
    stamped = with_time(times, values)
    waited = torch.cat([stamped[:, 1:, :1], stamped[:, :-1, 1:]], dim=2)
    moved = torch.stack([stamped[:, :-1], waited], dim=2).flatten(1, 2)
    corners = torch.cat([moved, stamped[:, -1:]], dim=1)
    return LinearPath(torch.arange(corners.shape[1], dtype=times.dtype), corners, extrapolate=extrapolate)


def with_time(times: Tensor, values: Tensor) -> Tensor:
    """Return ``values [batch, length, channels]`` with their ``times [length]`` as the first channel."""
    stamps = sent_to(values.device, times, values.dtype)[None, :, None].expand(len(values), -1, 1)
    return torch.cat([stamps, values], dim=2)


def _check(times: Tensor, values: Tensor) -> None:
    if times.dim() != 1 or len(times) < 2 or not bool((times.diff() > 0).all()):
        raise UsageError(f"times: expected at least two strictly increasing times, got {times.detach().tolist()!r:.80}")
    if values.dim() != 3 or values.shape[1] != len(times) or not values.is_floating_point():
        raise UsageError(
            f"values: expected floating-point numbers [batch, {len(times)}, channels], got {tuple(values.shape)} of "
            f"{values.dtype}; pad shorter series by their last observation"
        )
    # On a GPU this would be a wait; there the solve finds it out.
    if values.device.type == "cpu" and not bool(torch.isfinite(values.detach()).all()):
        raise UsageError("values: expected finite numbers, got NaN or infinity; fill gaps by the last observation")
    if values.requires_grad or times.requires_grad:
        raise UsageError(
            "times, values: expected data, got tensors that require a gradient, which a path does not hand on; detach "
            "them, or make what they are computed from a part of the state"
        )


class Controlled(nn.Module):
    """The field of a neural CDE along a path: ``dz/dt = F(z) X'(t)`` (Kidger et al., NeurIPS 2020, arXiv:2005.08926).

    Parameters
    ----------
    matrix
        ``F``: from ``z [batch, hidden]`` to ``[batch, hidden, channels]``.
    path
        ``X``, of as many samples.

    Raises
    ------
    UsageError
        At a call, if ``F`` does not have this shape.
    """

    def __init__(self, matrix: nn.Module, path: Path) -> None:
        super().__init__()
        self.matrix = matrix
        self.path = path

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt [batch, hidden]``."""
        matrix, slope = self.matrix(z), self.path.derivative(t)
        # einsum would take one channel, or one sample, for as many as there are.
        if matrix.shape != (len(slope), z.shape[-1], slope.shape[-1]) or len(z) != len(slope):
            samples, channels = slope.shape
            raise UsageError(
                f"matrix: expected F(z) of shape [batch, hidden, channels] = {[samples, z.shape[-1], channels]}, by "
                f"{samples} samples of {channels} channels of the path, got {list(matrix.shape)} for z {list(z.shape)}"
                "; rectilinear_path and with_time put the time in front as one channel more"
            )
        out: Tensor = torch.einsum("bhc,bc->bh", matrix, slope)
        return out
