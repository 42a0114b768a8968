"""Stiff equations whose constants are trained: vector fields ``[batch, n]``."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Reaction = tuple[tuple[int, ...], tuple[int, ...]]
"""The species that a reaction takes, and those that it makes, numbered from 1."""


class RobertsonField(nn.Module):
    """Robertson's reaction ``A -> B``, ``2 B -> B + C``, ``B + C -> A + C`` of states ``[batch, 3]``.

    Parameters
    ----------
    rates
        The three rate constants ``[3]``, 0.04, 3e7 and 1e4 as published, or one set for each sample, ``[batch, 3]``.
    """

    def __init__(self, rates: Sequence[float] | Tensor = (0.04, 3e7, 1e4)) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.as_tensor(rates, dtype=torch.float64).clone())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Return ``dy/dt [batch, 3]``."""
        a, b, c = y.unbind(-1)
        k1, k2, k3 = self.rates.unbind(-1)
        first, second, third = k1 * a, k2 * b * b, k3 * b * c
        return torch.stack([third - first, first - second - third, second], dim=-1)


class VanDerPolField(nn.Module):
    """Van der Pol's oscillator ``x' = v``, ``v' = mu (1 - x^2) v - x`` of states ``(x, v) [batch, 2]``.

    Parameters
    ----------
    mu
        The damping, 0-d.
    """

    sample_time = True

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(float(mu), dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Return ``dy/dt [batch, 2]``."""
        x, v = y.unbind(-1)
        return torch.stack([v, self.mu * (1.0 - x * x) * v - x], dim=-1)


class RelaxationField(nn.Module):
    """Van der Pol's oscillator in Lienard's plane, ``x' = mu^2 (a x - b x^3 / 3 - c z)``, ``z' = d x``.

    The logarithms of the four coefficients are trained; with all of them 1 it is the oscillator.

    Parameters
    ----------
    mu
        The damping: ``x`` jumps ``mu^2`` times as fast as ``z`` moves.
    """

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = mu
        self.log_coefficients = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Return ``dy/dt [batch, 2]`` of ``y = (x, z)``."""
        x, z = y.unbind(-1)
        a, b, c, d = self.log_coefficients.exp().unbind()
        return torch.stack([self.mu**2 * (a * x - b * x * x * x / 3.0 - c * z), d * x], dim=-1)


class SpreadVanDerPolField(nn.Module):
    """Van der Pol's oscillator in Lienard's plane, with a stiffness of its own for each sample.

    ``x' = mu (a x - b x^3 / 3 - z)``, ``z' = c x / mu`` of states ``(x, z, log10 mu) [batch, 3]``, of which the last
    rests; a, b and c are trained. With a = b = c = 1 it is van der Pol's equation.

    Parameters
    ----------
    coefficients
        a, b and c, ``[3]``.
    """

    sample_time = True

    def __init__(self, coefficients: Tensor) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(coefficients.clone())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Return ``dy/dt [batch, 3]``."""
        x, z, decades = y.unbind(-1)
        a, b, c = self.coefficients.unbind(-1)
        mu = torch.pow(10.0, decades)
        return torch.stack([mu * (a * x - b * x**3 / 3.0 - z), c * x / mu, torch.zeros_like(x)], dim=-1)


class ProtheroRobinsonField(nn.Module):
    """``y' = -rate (y - cos t) - sin t``, whose solution is ``cos t + (y0 - 1) exp(-rate t)``; states ``[batch, n]``.

    Prothero and Robinson, On the stability and accuracy of one-step methods for solving stiff systems of ordinary
    differential equations, Mathematics of Computation 28, 1974.

    Parameters
    ----------
    rate
        How fast a disturbance is forgotten, 0-d.
    """

    sample_time = True

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(float(rate), dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return ``dy/dt [batch, n]``."""
        return -self.rate * (y - torch.cos(t)) - torch.sin(t)


POLLU_RATES = (
    0.35, 26.6, 1.23e4, 8.6e-4, 8.2e-4, 1.5e4, 1.3e-4, 2.4e4, 1.65e4, 9e3, 2.2e-2, 1.2e4, 1.88, 1.63e4, 4.8e6, 3.5e-4,
    1.75e-2, 1e8, 4.44e11, 1.24e3, 2.1, 5.78, 4.74e-2, 1.78e3, 3.12,
)  # fmt: skip
"""The rate constants of the 25 reactions."""
POLLU_REACTIONS: tuple[Reaction, ...] = (
    ((1,), (2, 3)), ((2, 4), (1,)), ((2, 5), (1, 6)), ((7,), (5, 5, 8)), ((7,), (8,)), ((6, 7), (5, 8)),
    ((9,), (5, 8, 10)), ((6, 9), (11,)), ((2, 11), (1, 10, 12)), ((1, 11), (13,)), ((13,), (1, 11)), ((2, 10), (1, 14)),
    ((14,), (5, 7)), ((1, 6), (15,)), ((3,), (4,)), ((4,), (16,)), ((4,), (3,)), ((16,), (6, 6)), ((16,), (3,)),
    ((6, 17), (5, 18)), ((19,), (2,)), ((19,), (1, 3)), ((1, 4), (19,)), ((1, 19), (20,)), ((20,), (1, 19)),
)  # fmt: skip
"""A species that is no part of the model is left out."""
POLLU_SCALES = (
    0.056, 0.2, 4.1e-9, 0.04, 4.4e-7, 5.8e-7, 0.1, 0.32, 0.01, 5.9e-8, 4.3e-8, 2.2e-3, 2.1e-4, 3e-5, 9e-3, 3.2e-17,
    7e-3, 1e-4, 1.8e-6, 5.7e-5,
)  # fmt: skip
"""Units of its species: the largest amount of each in the hour from the published start."""


ROBERTSON_RATES = (0.04, 3e7, 1e4)
ROBERTSON_REACTIONS: tuple[Reaction, ...] = (((1,), (2,)), ((2, 2), (2, 3)), ((2, 3), (1, 3)))
ROBERTSON_SCALES = (1.0, 3.65e-5, 1.0)
"""Units of its species: of the rare second one its largest amount from the classical start."""


class MassActionField(nn.Module):
    """Chemical reactions by the law of mass action, states ``[batch, species]``; the rate constants are trained.

    Parameters
    ----------
    rates
        The rate constants ``[reactions]``, positive; their logarithms are trained.
    reactions
        For each reaction the one or two species that it takes, and those that it makes, numbered from 1.
    species
        Their number.
    scales
        The unit of each species ``[species]``, one for all if None. The rate constants stay those of the reactions.
    """

    def __init__(
        self,
        rates: Sequence[float],
        reactions: Sequence[Reaction],
        species: int,
        scales: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.log_rates = nn.Parameter(torch.tensor(rates, dtype=torch.float64).log())
        made = torch.zeros(len(reactions), species, dtype=torch.float64)
        for row, (takes, makes) in zip(made, reactions, strict=True):
            for each in takes:
                row[each - 1] -= 1.0
            for each in makes:
                row[each - 1] += 1.0
        # Behind the species stands a 1, which is the second partner of a reaction that takes one.
        pairs = [(takes[0] - 1, takes[1] - 1 if len(takes) > 1 else species) for takes, _ in reactions]
        units = torch.ones(species + 1, dtype=torch.float64)
        if scales is not None:
            units[:species] = torch.tensor(scales, dtype=torch.float64)
        made.div_(units[:species]).mul_(units[torch.tensor(pairs)].prod(1)[:, None])
        self.register_buffer("made", made)
        self.register_buffer("pairs", torch.tensor(pairs).T.contiguous())
        self.made: Tensor
        self.pairs: Tensor

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Return ``dy/dt [batch, species]``."""
        partners = torch.cat([y, torch.ones_like(y[:, :1])], dim=1)
        speeds = self.log_rates.exp() * partners[:, self.pairs[0]] * partners[:, self.pairs[1]]
        return speeds @ self.made

    def jacobian(self, y: Tensor) -> Tensor:
        """Return the derivative ``[batch, species, species]`` of the velocity by the state, in closed form."""
        partners = torch.cat([y, torch.ones_like(y[:, :1])], dim=1)
        first, second = torch.nn.functional.one_hot(self.pairs, partners.shape[1]).to(y.dtype)
        of_speeds = self.log_rates.exp()[:, None] * (
            first * partners[:, self.pairs[1], None] + second * partners[:, self.pairs[0], None]
        )
        # What stands behind the species is constant.
        return torch.einsum("brj,ri->bij", of_speeds[..., :-1], self.made)


def pollu_field() -> MassActionField:
    """Return the air pollution model of 20 species and 25 reactions.

    Verwer, Gauss-Seidel iteration for stiff ODEs from chemical kinetics, SIAM J. Sci. Comput. 15, 1994; rates,
    reactions and start as in the test set for initial value problems of Mazzia and Magherini, problem POLLU.
    """
    return MassActionField(POLLU_RATES, POLLU_REACTIONS, 20)


POLLU_START = {2: 0.2, 4: 0.04, 7: 0.1, 8: 0.3, 9: 0.01, 17: 0.007}
"""The species that are there at time 0, by number; the others are not."""
