"""Two closed forms that fool a step control which sees the state alone: the state rests, its sensitivity does not."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from odegrad.contracts import Problem, TaskInfo
from odegrad.datasets.problems.resting import ForcedDecay, QuietNet, RestingProblem, RestingSettings
from odegrad.datasets.problems.sizes import Sized, trained
from odegrad.datasets.sources.seeding import PARAMETERS, generator

NOISE = 0.1
"""Spread of the targets, relative to their own size."""


class Equilibrium(Sized[RestingSettings]):
    """``y' = -k (y - c)(2 + sin 20 t)`` from ``y = c``, with k = 5, 10, 20; the centre ``c`` is fitted."""

    info: ClassVar[TaskInfo] = TaskInfo(
        name="equilibrium",
        kind="closed form",
        summary="a forced decay that starts at its centre and rests there; the centre is fitted",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 0.02, "default": 0.02, "paper": 0.02},
        offline=True,
        citation="generated; the decay of Prothero and Robinson, On the stability and accuracy of one-step methods for "
        "solving stiff systems, Mathematics of Computation 28, 1974, with a rate that oscillates",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, RestingSettings]] = {
        name: RestingSettings(stiffness, dim=2, batch_size=32, training=trained(80, adam=5e-2, sgd=0.1, snopt=None))
        for name, stiffness in (("tiny", 5.0), ("default", 10.0), ("paper", 20.0))
    }

    def built(self, s: RestingSettings, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the field, its centre drawn from the seed, and the targets around 1."""
        wanted = torch.ones(2, dtype=torch.float64)
        centre = wanted + torch.randn(s.dim, dtype=torch.float64, generator=generator(seed, PARAMETERS))
        field = ForcedDecay(centre.to(device, dtype), s.stiffness)
        return RestingProblem(field, wanted, NOISE, s, seed)


class QuietStart(Sized[RestingSettings]):
    """A net of one hidden layer with biases of 0, from a state of 0; its Jacobian's least eigenvalue: -9, -36, -139."""

    hidden: ClassVar[int] = 16

    info: ClassVar[TaskInfo] = TaskInfo(
        name="quiet_start",
        kind="closed form",
        summary="a net with fixed weights that starts from zeros, as augmented components do; its biases are fitted",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 0.02, "default": 0.02, "paper": 0.02},
        offline=True,
        citation="generated; zeros as a start after Dupont, Doucet and Teh, Augmented Neural ODEs, NeurIPS 2019",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, RestingSettings]] = {
        name: RestingSettings(least, dim=4, batch_size=32, training=trained(80, adam=rate, sgd=rate, snopt=None))
        for name, least, rate in (("tiny", -9.0, 0.1), ("default", -36.0, 0.3), ("paper", -139.0, 1.0))
    }

    def built(self, s: RestingSettings, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the field, its weights drawn from the seed, and targets that some biases reach."""
        weight = torch.randn(self.hidden, s.dim, dtype=torch.float64, generator=generator(seed, PARAMETERS))
        wanted = torch.tensor([1.0, -1.0, 0.5, -0.5], dtype=torch.float64)
        return RestingProblem(QuietNet(weight, s.stiffness).to(device, dtype), wanted, NOISE, s, seed)
