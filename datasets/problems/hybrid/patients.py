"""Patients who get doses at known times, and the concentrations in closed form."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve
from odegrad.datasets.problems.hybrid.problem import HybridModel


class Elimination(nn.Module):
    """Depot, central amount and two covariates ``[batch, 4]``: absorbed at the rate ka, eliminated at k(covariates)."""

    def __init__(self, weights: Sequence[float], log_absorption: float, *, oral: bool) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))
        """Of ``ln k``: that of 1, and of each covariate."""
        log_ka = torch.tensor(log_absorption)
        self.log_absorption = nn.Parameter(log_ka) if oral else None

    def forward(self, _t: Tensor, y: Tensor) -> Tensor:
        """Return the rates ``[batch, 4]``; covariates stay."""
        depot, central, *covariates = y.unbind(1)
        lost = log_linear(self.weights, torch.stack(covariates, dim=1)).exp() * central
        absorbed = torch.zeros_like(depot) if self.log_absorption is None else self.log_absorption.exp() * depot
        rest = torch.zeros_like(depot)
        return torch.stack([-absorbed, absorbed - lost, rest, rest], dim=1)


class Patients(HybridModel):
    """The logarithms of concentrations ``[batch, time]`` after doses at known times, by covariates ``[batch, 2]``."""

    def __init__(
        self,
        field: Elimination,
        volume: Sequence[float],
        doses: Sequence[tuple[float, float]],
        times: Sequence[float],
    ) -> None:
        super().__init__()
        self.field: Elimination = field
        self.volume = nn.Parameter(torch.tensor(volume))
        """Weights of ``ln V``."""
        self.doses, self.times = tuple(doses), tuple(times)

    def start(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state ``[batch, 4]`` behind the first dose, and the times up to the next one."""
        nothing = torch.zeros_like(inputs[:, 0])
        y = torch.stack([nothing, nothing, *inputs.unbind(1)], dim=1)
        return self._dosed(y, self.doses[0][1]), self._segment(0, inputs.dtype)

    def predicted(self, solve: Solve, inputs: Tensor) -> Tensor:
        """Return the logarithms of the concentrations at the times: one solve from each dose to the next."""
        y, ts = self.start(inputs)
        amounts = []
        for j in range(len(self.doses)):
            ys = solve(self.field, y, ts)
            observed = len(ts) - 1 - (j + 1 < len(self.doses))
            amounts.append(ys[1 : 1 + observed, :, 1])
            if j + 1 < len(self.doses):
                y, ts = self._dosed(ys[-1], self.doses[j + 1][1]), self._segment(j + 1, inputs.dtype)
        return torch.cat(amounts).log().t() - log_linear(self.volume, inputs)[:, None]

    def _dosed(self, y: Tensor, dose: float) -> Tensor:
        """Return the state behind a dose, into the depot where there is one."""
        where = 0 if self.field.log_absorption is not None else 1
        return torch.stack([part + dose if i == where else part for i, part in enumerate(y.unbind(1))], dim=1)

    def _segment(self, j: int, dtype: torch.dtype) -> Tensor:
        begin = self.doses[j][0]
        ends = [self.doses[j + 1][0]] if j + 1 < len(self.doses) else []
        end = ends[0] if ends else math.inf
        return torch.tensor([begin, *(t for t in self.times if begin < t < end), *ends], dtype=dtype)


def log_linear(weights: Tensor, covariates: Tensor) -> Tensor:
    """Return ``w0 + w1 c1 + w2 c2``, ``[batch]``."""
    return weights[0] + covariates @ weights[1:]


def log_concentrations(model: Patients, inputs: Tensor) -> Tensor:
    """Return what ``model`` predicts in closed form, ``[batch, time]``, with its graph."""
    k = log_linear(model.field.weights, inputs).exp()[:, None]
    times = torch.tensor(model.times, dtype=inputs.dtype)
    amount = torch.zeros(len(inputs), len(times), dtype=inputs.dtype)
    for at, dose in model.doses:
        since = (times - at).clamp(min=0.0)
        response = torch.exp(-k * since)
        if model.field.log_absorption is not None:
            ka = model.field.log_absorption.exp()
            response = ka / (ka - k) * (response - torch.exp(-ka * since))
        amount = amount + dose * response * (times > at)
    return amount.log() - log_linear(model.volume, inputs)[:, None]
