"""The steps of a solver that switches, with or without a graph as those of its two methods have one."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from odegrad.contracts import ImplicitWork, StepObserver
from odegrad.methods.solvers.control import Controller
from odegrad.methods.solvers.implicit.linear import Linearisation
from odegrad.methods.solvers.implicit.pullback import tell
from odegrad.methods.solvers.implicit.samples import Samples
from odegrad.methods.solvers.implicit.stepper import ImplicitStepper
from odegrad.methods.solvers.step import RatedStages
from odegrad.methods.solvers.stepper import GridStep, Stepper
from odegrad.methods.solvers.switching.rule import Switch, stability_interval
from odegrad.methods.solvers.switching.scheme import Switching

SQUARINGS = 2
"""Of a Jacobian: ``|J^4|^(1/4)`` bounds its spectral radius, and by little, whatever its rows are scaled by."""
AS_ROUNDING = 16.0
"""Machine epsilons of the state below which the distance of two stages is rounding."""


class ExplicitSteps(Protocol):
    """The steps of the explicit method."""

    fresh: bool
    """Whether the first stage is not known yet."""

    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:
        """Return the state after the step."""
        ...

    def error(self, h: float) -> Tensor:
        """Return the embedded estimate."""
        ...

    def accept(self) -> None:
        """Let go of the last step."""
        ...

    def dense(self, x: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the continuous extension."""
        ...

    def polynomial(self, x: Tensor, h: float) -> Tensor:
        """Return its coefficients."""
        ...


class SwitchingStepper(Stepper):
    """Takes each step by one of two methods.

    Given its method a step is a function of ``(t, h, x)`` alone, bit for bit; which it was, its ``GridStep`` says. In a
    first solve accepted steps decide on the method of the next one; a replay is told.

    Parameters
    ----------
    scheme
        Both methods.
    explicit, implicit
        Their steps.
    stages
        Of the explicit ones.
    observer
        Hears of the work, if it listens.
    """

    def __init__(
        self,
        scheme: Switching,
        explicit: ExplicitSteps,
        stages: RatedStages,
        implicit: ImplicitStepper,
        observer: StepObserver | None,
    ) -> None:
        self.explicit, self.stages, self.implicit = explicit, stages, implicit
        self.interval = stability_interval(scheme.explicit)
        self.explicit_order = scheme.explicit.order
        self.observer = observer
        self.d = implicit.d
        self.switch = Switch()
        self._y_next: Tensor | None = None
        self._direction: Tensor | None = None
        """Near the fastest mode, where only products with the Jacobian are known."""
        self._share: float | None = None
        self._untold: ImplicitWork | None = None

    @property
    def stiff(self) -> bool:
        """Return whether the next step is implicit."""
        return self.switch.stiff

    def repeat(self, step: GridStep) -> None:
        """Take the next step by the method that has taken this one."""
        self.switch.stiff = step.stiff

    def start(self, t: float, y0: Tensor) -> Tensor:
        """Return ``(y0, f(t0, y0))``."""
        self.switch = Switch()
        return self.implicit.start(t, y0)

    def rate(self, t: float, x: Tensor) -> Tensor:
        """Return the carried rate."""
        return self.implicit.rate(t, x)

    def control(self, solvers: Controller, order: int) -> tuple[Controller, int]:
        """Return the control of the next step; an explicit one's is elementary where the solver's is for implicit."""
        return (solvers, order) if self.stiff else (solvers.for_explicit(), self.explicit_order)

    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:
        """Return the carried vector after a step from ``x``; see ``ImplicitStepper``."""
        if self.stiff:
            return self.implicit.attempt(t, h, t_next, x, whole=whole)
        if self._untold is not None:
            tell(self.observer, self._untold.lost())
        self.stages.begin(x[self.d :])
        self.explicit.fresh = False
        # The last stage too: it is the rate that is carried on.
        y_next = self.explicit.attempt(t, h, t_next, x[: self.d])
        self._y_next = y_next.detach()
        self._untold = ImplicitWork(explicit_steps=1)
        return torch.cat([y_next, self.stages.rate(self.stages.buffer.tableau.stages - 1)])

    def error(self, h: float) -> Tensor:
        """Return the estimate of the method that the last attempt was made by."""
        return self.implicit.error(h) if self.stiff else self.explicit.error(h)

    def read(self, ratio: Tensor, h: float, x: Tensor) -> float:
        """Return the error ratio; with it the share of the stability interval is read that the attempt fills."""
        radius = self._radius_by_jacobian() if self.stiff else self._radius_by_stages(h, x.detach()[: self.d])
        found, share = torch.stack([ratio, (radius * (abs(h) / self.interval)).to(ratio)]).tolist()
        self._share = share
        return float(found)

    def _radius_by_stages(self, h: float, y: Tensor) -> Tensor:
        """Return the largest ``|k_s - k_(s-1)| / |Y_s - Y_(s-1)|`` of a sample, of two stages at one time."""
        buffer, samples = self.stages.buffer, self._samples
        end = y if self._y_next is None else self._y_next
        # Row i is the input of stage i + 1.
        before = buffer.combine(y, buffer.tableau.stages - 3, h)
        apart = [samples.of(v).flatten(1) for v in (buffer.k[-1] - buffer.k[-2], end - before, end)]
        of_rate, of_state, size = (torch.linalg.vector_norm(v, dim=1) for v in apart)
        rounding = AS_ROUNDING * torch.finfo(y.dtype).eps
        apart_by = torch.add(of_state, size, alpha=rounding).clamp_min(torch.finfo(y.dtype).tiny)
        return torch.amax(of_rate / apart_by)

    @property
    def _samples(self) -> Samples:
        return self.implicit.jacobians.apart

    def _radius_by_jacobian(self) -> Tensor:
        """Return a bound of the largest spectral radius of a sample's Jacobian at the start of the step.

        Where no Jacobian is formed it is an estimate: how much one product makes of the product at the step before.
        """
        at = self.implicit.at_start
        if at.matrix is None:
            return self._radius_by_product(at)
        matrix = at.matrix
        size = torch.linalg.matrix_norm(matrix)
        power = matrix / size.clamp_min(torch.finfo(matrix.dtype).tiny)[:, None, None]
        for _ in range(SQUARINGS):
            power = power @ power
        return torch.amax(size * torch.linalg.matrix_norm(power).pow(2.0**-SQUARINGS))

    def _radius_by_product(self, at: Linearisation) -> Tensor:
        if self._direction is None:
            self._direction = at.dy.detach()
        pushed = at.push(self._direction)
        sizes = (self._samples.of(v.reshape(-1)).flatten(1) for v in (pushed, self._direction))
        after, before = (torch.linalg.vector_norm(v, dim=1) for v in sizes)
        tiny = torch.finfo(pushed.dtype).tiny
        self._direction = pushed / torch.linalg.vector_norm(pushed).clamp_min(tiny)
        return torch.amax(after / before.clamp_min(tiny))

    def accept(self) -> None:
        """Stand on the new state, and decide on the method of the next step."""
        if self.stiff:
            self.implicit.accept()
        else:
            self.explicit.accept()
            if self._untold is not None:
                tell(self.observer, self._untold)
                self._untold = None
        if self._share is not None:
            self.switch.hear(self._share)
            self._share = None

    def dense(self, x: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the states ``[m, d]`` inside the last attempt."""
        return self.implicit.dense(x, h, thetas) if self.stiff else self.explicit.dense(x[: self.d], h, thetas)

    def polynomial(self, x: Tensor, h: float) -> Tensor:
        """Return the coefficients ``[q + 1, d]`` of the dense output in powers of theta."""
        return self.implicit.polynomial(x, h) if self.stiff else self.explicit.polynomial(x[: self.d], h)
