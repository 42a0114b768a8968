"""The end time t1 of an ODE as a trained variable, with a quadratic penalty (Liu et al. 2021, section 3.4).

With the loss ``L(t1, theta) + (c/2) t1^2``, its slope ``m = dL/dt1`` and that of each sample ``m_i = F_i . dPhi_i/dz``
at the end: ``Q_T = c t1 + m``, ``Q_TT ~ c + E[m_i^2]`` (Gauss-Newton) and ``Q_Ttheta ~ m dL/dtheta``, all as running
averages. Of ``Q_Ttheta = E[m_i dPhi_i/dtheta]`` that is the part of the means: the rest would take every sample's own
gradient. ``E[m_i^2]`` instead of ``m^2`` keeps the step small where samples disagree about the slope.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import StateDict

from odegrad.contracts import Tap
from odegrad.errors import NonFiniteError, UsageError
from odegrad.methods.optimizers.snopt.end_slope import EndSlope
from odegrad.states import HostNumber

Policy = Literal["baseline", "feedback"]
"""``baseline``: ``dt1 = -lr Q_T``. ``feedback``: ``dt1 = -(lr Q_T + Q_Ttheta . dtheta) / Q_TT`` with the parameters'
step just taken: where the parameters have already lowered the slope in t1, t1 need not."""


class IntegrationTime:
    """Moves ``end_time`` every ``update_freq`` steps of an optimizer, which calls ``before_step`` and ``after_step``.

    The loss's gradient with respect to ``end_time`` costs two f calls in each forward pass. ``feedback`` needs every
    sample's slope too: ``tap`` must watch the backward pass of each iteration, for one more f call.

    Parameters
    ----------
    end_time
        0-d tensor that the ODE is solved up to; made to require a gradient, moved in place.
    policy
        ``baseline`` (first order) or ``feedback`` (second order, answers to the parameters' step).
    lr
        Step size: of the slope for ``baseline``, a fraction of the Newton step for ``feedback``.
    penalty
        ``c``, in units of the loss by time squared.
    update_freq
        Steps of the optimizer between two moves.
    memory
        Of the running averages, in [0, 1).
    least
        Least end time.

    Raises
    ------
    UsageError
        If an option is out of range.
    """

    def __init__(
        self,
        end_time: Tensor,
        policy: Policy,
        *,
        lr: float = 0.1,
        penalty: float = 6e-4,
        update_freq: int = 50,
        memory: float = 0.99,
        least: float = 0.1,
    ) -> None:
        _check(end_time, policy, lr, penalty, update_freq, memory, least)
        self.end_time = end_time.requires_grad_()
        self._known = HostNumber(self.end_time)
        self.policy = policy
        self.lr, self.penalty, self.update_freq, self.memory, self.least = lr, penalty, update_freq, memory, least
        self.steps = 0
        self.slope, self.square = (torch.zeros((), dtype=torch.float64, device=end_time.device) for _ in range(2))
        self.seen = 0
        """Batches in ``square``: one fewer than ``steps`` for each iteration that no tap has watched."""
        self.mixed: list[Tensor] | None = None
        """``memory``'s averages, which start from zero, of m, the mean of m_i^2, and m dL/dtheta."""
        self._before: list[Tensor] | None = None
        self._noted: Tensor | None = None

    def tap(self, beside: Tap | None) -> Tap | None:
        """Return the tap for the coming backward pass, which feeds ``beside`` along; ``baseline`` needs none itself."""
        return beside if self.policy == "baseline" else EndSlope(self._known, self._note, beside)

    def forget(self) -> None:
        """Drop what the tap has seen since the last step: it was of another backward pass than the loss's."""
        self._noted = None

    def _note(self, slopes: Tensor) -> None:
        self._noted = slopes.double().square().mean()

    @torch.no_grad()
    def before_step(self, parameters: Iterable[Tensor]) -> None:
        """Read the gradients, before the optimizer moves the parameters.

        Raises
        ------
        UsageError
            If the loss has left no gradient on ``end_time``, or no tap of ``feedback`` has watched until a move is due.
        NonFiniteError
            If that gradient is not finite; on a GPU, where each look would be a wait, it is looked at when a move is
            due.
        """
        if self.end_time.grad is None:
            raise UsageError(
                "end_time: expected a gradient, found none: the loss does not depend on it; solve the ODE up to "
                "end_time itself, not up to a copy of its number, and call backward() before step()"
            )
        m, self.end_time.grad = self.end_time.grad.double(), None
        slope = self._averaged(self.slope, m)
        due = (self.steps + 1) % self.update_freq == 0
        if (due or m.device.type == "cpu") and not math.isfinite(slope.item()):
            raise NonFiniteError(
                f"end_time: its gradient is {m.item()} at t1 = {self._known.read():g} and its average {slope.item()}; "
                "lower t1_lr"
            )
        self.steps, self.slope = self.steps + 1, slope
        if self._noted is not None:
            self.square, self.seen, self._noted = self._averaged(self.square, self._noted), self.seen + 1, None
        elif self.policy == "feedback" and self.seen == 0 and self.steps % self.update_freq == 0:
            raise UsageError(
                "t1_policy: 'feedback' expected a tap to watch the backward pass, got no sample of the end: call "
                "next_tap() before each forward pass and give it to the solve (odeint(..., tap=tap))"
            )
        if self.policy == "feedback":
            self._average_mixed(list(parameters), m)

    @torch.no_grad()
    def after_step(self, parameters: Iterable[Tensor]) -> None:
        """Move ``end_time`` if it is time to, after the optimizer has moved the parameters."""
        if self.steps % self.update_freq != 0:
            return
        # Averages that start from zero are short by this factor, as Adam's are.
        counted = 1.0 - self.memory**self.steps
        answer = self._answer(list(parameters)) if self.policy == "feedback" else torch.zeros_like(self.slope)
        averaged, square, answered = torch.stack([self.slope, self.square, answer]).tolist()
        t1 = self._known.read()
        slope = self.penalty * t1 + averaged / counted
        move = -self.lr * slope
        if self.policy == "feedback":
            curvature = self.penalty + square / (1.0 - self.memory**self.seen)
            move = (move - answered / counted) / curvature
        self.end_time.fill_(max(self.least, t1 + move))

    def state_dict(self) -> StateDict:
        """Return the end time and the averages; between two steps."""
        mixed = None if self.mixed is None else [x.clone() for x in self.mixed]
        slope, square = torch.stack([self.slope, self.square]).tolist()
        averages = {"slope": slope, "square": square, "seen": self.seen, "mixed": mixed}
        return {"end_time": self.end_time.item(), "steps": self.steps, **averages}

    @torch.no_grad()
    def load_state_dict(self, state_dict: StateDict) -> None:
        """Continue from ``state_dict()``."""
        self.end_time.fill_(state_dict["end_time"])
        self.steps, self.seen = state_dict["steps"], state_dict["seen"]
        self.slope.fill_(state_dict["slope"])
        self.square.fill_(state_dict["square"])
        mixed = state_dict["mixed"]
        self.mixed = None if mixed is None else [x.to(self.end_time.device, copy=True) for x in mixed]

    def _averaged(self, average: Tensor, value: Tensor) -> Tensor:
        return self.memory * average + (1.0 - self.memory) * value

    def _average_mixed(self, parameters: Sequence[Tensor], m: Tensor) -> None:
        if self.mixed is None:
            self.mixed = [torch.zeros_like(p) for p in parameters]
        share = (1.0 - self.memory) * m
        for average, p in zip(self.mixed, parameters, strict=True):
            average.mul_(self.memory)
            if p.grad is not None:
                average.addcmul_(p.grad, share.to(p.dtype))
        due = self.steps % self.update_freq == 0
        self._before = [p.detach().clone() for p in parameters] if due else None

    def _answer(self, parameters: Sequence[Tensor]) -> Tensor:
        """Return the average of ``Q_Ttheta . dtheta`` for the step just taken, 0-d in float64."""
        before, self._before = self._before or [], None
        moves = zip(self.mixed or [], parameters, before, strict=True)
        total = torch.zeros_like(self.slope)
        for average, p, old in moves:
            total += torch.sum(average * (p - old))
        return total


def _check(
    end_time: Tensor, policy: str, lr: float, penalty: float, update_freq: int, memory: float, least: float
) -> None:
    if end_time.dim() != 0 or not end_time.is_floating_point() or not end_time.is_leaf:
        raise UsageError(f"end_time: expected a 0-d floating-point leaf tensor, got shape {tuple(end_time.shape)}")
    if policy not in get_args(Policy):
        raise UsageError(f"t1_policy: expected 'baseline' or 'feedback', got {policy!r}; leave it out to fix t1")
    if not (math.isfinite(lr) and lr > 0):
        raise UsageError(f"t1_lr: expected a positive number, got {lr!r}; 0.1 is usual")
    if not (math.isfinite(penalty) and (penalty > 0 or (penalty == 0 and policy == "baseline"))):
        raise UsageError(
            f"t1_penalty: expected a positive number (or 0 with policy 'baseline'), got {penalty!r}; 5e-4 is usual"
        )
    if isinstance(update_freq, bool) or not isinstance(update_freq, int) or update_freq < 1:
        raise UsageError(f"t1_update_freq: expected a positive whole number, got {update_freq!r}; 50 is usual")
    if not 0 <= memory < 1:
        raise UsageError(f"memory: expected a number in [0, 1), got {memory!r}; 0.99 is usual")
    if not least > 0:
        raise UsageError(f"least: expected a positive time, got {least!r}; 0.1 is usual")
