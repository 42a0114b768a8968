"""When a solver that switches takes its other method: by the share of the stability interval that its steps fill.

Which share that is, the steps tell themselves: an explicit one by its last two stages, which stand at one time (Hairer
and Wanner, Solving ODEs II, IV.2, equation 2.26), an implicit one by the Jacobian that it has formed.
"""

import functools
from dataclasses import dataclass

import torch

from odegrad.methods.solvers.tableau import Tableau

FILLED = 0.7
"""A step that fills this share of the stability interval is bound by it: step control wavers about its end."""
SPARED = 0.35
"""An implicit step of which an explicit one would fill at most this share could have been one."""
STEPS_TO_IMPLICIT, STEPS_TO_EXPLICIT = 6, 3
"""So many accepted steps more that speak for the other method than do not, and it is taken."""


@dataclass
class Switch:
    """Which method is taken, and how many accepted steps speak against it."""

    stiff: bool = False
    """Whether steps are implicit."""
    against: int = 0
    """Steps that speak for the other method, less those that do not; 0 at least."""

    def hear(self, share: float) -> None:
        """Hear of the share of the explicit method's stability interval that an accepted step has filled, or would."""
        # A share that is not a number says nothing for the other method.
        speaks = share <= SPARED if self.stiff else share >= FILLED
        self.against = self.against + 1 if speaks else max(0, self.against - 1)
        if self.against >= (STEPS_TO_EXPLICIT if self.stiff else STEPS_TO_IMPLICIT):
            self.stiff, self.against = not self.stiff, 0


@functools.lru_cache(maxsize=32)
def stability_interval(tableau: Tableau) -> float:
    """Return the length of the stability interval on the negative real axis: where ``|R(-x)|`` first exceeds 1."""
    s = tableau.stages
    a = torch.zeros(s, s, dtype=torch.float64)
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    b, vector = torch.tensor(tableau.b, dtype=torch.float64), torch.ones(s, dtype=torch.float64)
    x = torch.linspace(0.0, 60.0, 60_001, dtype=torch.float64)
    r, power = torch.ones_like(x), torch.ones_like(x)
    for _ in range(s):
        power = power * -x
        r = r + float(b @ vector) * power
        vector = a @ vector
    return float(x[int((r.abs() > 1.0 + 1e-9).int().argmax())])
