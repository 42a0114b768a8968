"""A regularised solve: a gradient method bound to its solver, which also gathers penalties on the dynamics."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from odegrad.contracts import GradientMethod, Scalar, State, StateT, StepObserver, VectorField
from odegrad.errors import UnknownNameError, UnsupportedError, UsageError
from odegrad.methods.regularisers.integrands import PenalisedField, jacobian, kinetic, moving_parts, taylor
from odegrad.methods.regularisers.sampled import growth, local_error
from odegrad.methods.regularisers.step_sums import SUMS, summing
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.states import parts

NAMES = ("kinetic", "jacobian", "taylor", "error", "stiffness", "local", "steer", "log_norm")
"""The regularisers."""

OPTIONS: Mapping[str, Scalar] = {
    "taylor.order": 2,
    "error.scaled": False,
    "local.scaled": False,
    "local.over": "time",
    "log_norm.of": "backward",
}
"""Their options with the defaults."""


@dataclass(frozen=True)
class Regularisers:
    """Which penalties, with which weights.

    Parameters
    ----------
    weights
        Name -> weight: what the penalty is multiplied by, and of ``steer`` the half-width b of the last time, in units
        of time. 0 leaves one out.
    options
        Of ``OPTIONS``: ``taylor.order`` (K, 1 to 4), ``error.scaled`` and ``local.scaled`` (E_j in units of the
        tolerance), ``local.over`` (t1 uniform over ``time`` or over accepted ``steps``), ``log_norm.of`` (the growth
        of the ``backward`` solve or of the ``forward`` one).

    Raises
    ------
    UsageError
        If a name is unknown or a value out of range.
    """

    weights: Mapping[str, float]
    options: Mapping[str, Scalar] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Scalar]) -> "Regularisers":
        """Return what ``{"kinetic": 0.01, "taylor.order": 3}`` says: weights by name, options behind a dot."""
        weights = {}
        for name, value in given.items():
            if "." in name:
                if name not in OPTIONS:
                    raise UnknownNameError("option", name, OPTIONS, of="the regularisers")
                continue
            if name not in NAMES:
                raise UnknownNameError("regulariser", name, NAMES)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise UsageError(f"regulariser {name}: expected a weight of at least 0, got {value!r}")
            weights[name] = float(value)
        options = {name: value for name, value in given.items() if "." in name}
        lonely = sorted(name for name in options if name.partition(".")[0] not in weights)
        if lonely:
            raise UsageError(f"regularisers: option {lonely[0]!r} belongs to a regulariser without a weight; add one")
        return cls({name: weight for name, weight in weights.items() if weight != 0.0}, options)

    def __post_init__(self) -> None:
        """Check the options."""
        order = self.option("taylor.order")
        if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= 4:
            raise UsageError(f"taylor.order: expected a whole number from 1 to 4, got {order!r}")
        for name, allowed in (("local.over", ("time", "steps")), ("log_norm.of", ("backward", "forward"))):
            if self.option(name) not in allowed:
                raise UsageError(f"{name}: expected one of {list(allowed)}, got {self.option(name)!r}")
        for name in ("error.scaled", "local.scaled"):
            if not isinstance(self.option(name), bool):
                raise UsageError(f"{name}: expected true or false, got {self.option(name)!r}")

    def option(self, name: str) -> Scalar:
        """Return an option's value."""
        return self.options.get(name, OPTIONS[name])

    @property
    def integrated(self) -> tuple[str, ...]:
        """Return those that are integrals along the solution."""
        return tuple(name for name in ("kinetic", "jacobian", "taylor") if name in self.weights)

    @property
    def summed(self) -> tuple[str, ...]:
        """Return those that are sums over the steps."""
        return tuple(name for name in SUMS if name in self.weights)

    def refuses(self, method: GradientMethod) -> str | None:
        """Return why these penalties cannot go with ``method``, or None if they can."""
        traits = method.traits
        if self.summed and not (traits.shared_loop and traits.exact and traits.state_from in ("graph", "replay")):
            return f"{self.summed[0]} sums over computed steps, whose gradient {traits.name} does not take; use aca"
        if self.integrated and traits.peer is not None and not traits.peer.takes_norm:
            return f"{self.integrated[0]} must stay out of the error norm, which {traits.name} cannot be told; use aca"
        return None


def check_regularised(method: GradientMethod, regularisers: Regularisers) -> None:
    """Raise UnsupportedError with the reason if ``method`` cannot be trained with ``regularisers``."""
    reason = regularisers.refuses(method)
    if reason is not None:
        raise UnsupportedError(f"regulariser: {reason}")


@dataclass
class _Recorder(StepObserver):
    """The accepted steps, and whoever else listens."""

    other: StepObserver | None
    steps: list[tuple[float, float]] = field(default_factory=list)

    def accepted(self, t: float, h: float) -> None:
        self.steps.append((t, h))
        if self.other is not None:
            self.other.accepted(t, h)

    def rejected(self, t: float, h: float) -> None:
        if self.other is not None:
            self.other.rejected(t, h)


class RegularisedSolve:
    """A gradient method bound to its solver that gathers penalties: take it for ``solve`` while training.

    After every loss, ``loss + solve.penalty()`` is what is to be pulled back; the next iteration begins there. Random
    numbers come from ``(seed, iteration)``, never from torch's own generator. Several solves of one loss add up.

    Parameters
    ----------
    method, solver
        As they are without penalties.
    regularisers
        The penalties. With none, or with weights of 0 alone, a solve is that without, bit for bit.
    seed
        Of the random numbers.

    Raises
    ------
    UnsupportedError
        If a penalty cannot go with the method or the solver.
    """

    def __init__(
        self, method: GradientMethod, solver: OneStepSolver, regularisers: Regularisers, seed: int = 0
    ) -> None:
        check_regularised(method, regularisers)
        if solver.per_sample and regularisers.weights:
            raise UnsupportedError(
                "regulariser: penalties are gathered along steps that the samples of a batch share; use batch = 'joint'"
            )
        self.method = method
        self.regularisers = regularisers
        self.seed = seed
        self.iteration = 0
        self.solver = solver
        if regularisers.summed:
            scaled = bool(regularisers.option("error.scaled"))
            self.solver = summing(solver, regularisers.summed, scaled=scaled)
        self.plain_solver = solver
        self._solves = 0
        self._gathered: dict[str, Tensor] = {}

    def penalty(self) -> Tensor | float:
        """Return the weighted sum of what was gathered, with its graph; the next iteration begins."""
        weights = self.regularisers.weights
        total = sum((weights[name] * value for name, value in self._gathered.items()), 0.0)
        self._gathered, self._solves = {}, 0
        self.iteration += 1
        return total

    @property
    def gathered(self) -> Mapping[str, float]:
        """Return each penalty of this iteration so far, without its weight."""
        return {name: float(value.detach()) for name, value in self._gathered.items()}

    def __call__(self, field: VectorField, y0: StateT, ts: Tensor, /) -> StateT:
        """Return the solution at ``ts``, as the method without penalties does; see ``odegrad.contracts.Solve``."""
        if not self.regularisers.weights:
            return self.method(field, self.solver, y0, ts)
        if ts.dim() != 1:
            raise UnsupportedError(
                "regulariser: penalties are gathered over one interval that all samples share, got times of shape "
                f"{tuple(ts.shape)}; train without regularisers, or on a task whose samples share their times"
            )
        solve = _OneSolve(self, field, y0, ts, self._generator())
        ys = solve.run()
        for name, value in solve.found.items():
            self._gathered[name] = self._gathered[name] + value if name in self._gathered else value
        self._solves += 1
        return ys  # type: ignore[return-value]

    def _generator(self) -> torch.Generator:
        """Return the generator of this solve."""
        digest = hashlib.sha256(f"{self.seed} {self.iteration} {self._solves}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


class _OneSolve:
    """One solve with its penalties."""

    def __init__(
        self, outer: RegularisedSolve, field: VectorField, y0: State, ts: Tensor, generator: torch.Generator
    ) -> None:
        self.outer = outer
        self.regularisers = outer.regularisers
        self.field = field
        self.y0 = y0
        self.ts = ts
        self.times: list[float] = ts.tolist()
        self.generator = generator
        self.found: dict[str, Tensor] = {}
        self.start = parts(y0)
        self.direction = 1.0 if self.times[-1] >= self.times[0] else -1.0

    def run(self) -> State:
        """Solve, gather the penalties, and return what the caller asked for."""
        weights = self.regularisers.weights
        if "steer" in weights:
            self._steer(weights["steer"])
        wanted = {name: self._sampled_time(name) for name in ("local", "log_norm") if name in weights}
        times, index, kept = _with_times(self.times, wanted)
        ts = self.ts if times == self.times else self._joined(times)
        recorder = _Recorder(self.outer.solver.observer)
        solver = self.outer.solver.observed_by(recorder) if "local" in wanted else self.outer.solver
        ys = self._solve(solver, ts)
        steps = list(recorder.steps)
        for name, t in wanted.items():
            at = [p[index[name]] for p in ys]
            self.found[name] = self._local(at, t, steps) if name == "local" else self._growth(at, ts[index[name]])
        outputs = tuple(p[kept] if len(kept) != len(p) else p for p in ys)
        return outputs[0] if isinstance(self.y0, Tensor) else outputs

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def _signs(self) -> list[Tensor]:
        count = moving_parts(self.field, len(self.start))
        draws = (torch.randint(0, 2, p.shape, generator=self.generator) for p in self.start[:count])
        return [d.mul(2).sub(1).to(p) for d, p in zip(draws, self.start, strict=False)]

    def _steer(self, half_width: float) -> None:
        last = abs(self.times[-1] - self.times[-2])
        if not half_width < last:
            raise UsageError(
                f"steer: expected a half-width below the length {last:g} of the last interval, got {half_width:g}"
            )
        moved = self._uniform(-half_width, half_width)
        self.ts = torch.cat([self.ts[:-1], self.ts[-1:] + moved])
        self.times = self.ts.tolist()

    def _sampled_time(self, name: str) -> float:
        """Return the time of a sampled penalty, inside of the interval."""
        if name == "local" and self.regularisers.option("local.over") == "steps":
            recorder = _Recorder(None)
            with torch.no_grad():
                self.outer.method(self.field, self.outer.plain_solver.observed_by(recorder), self.y0, self.ts)
            pick = int(torch.randint(len(recorder.steps), (), generator=self.generator))
            return recorder.steps[pick][0]
        # As the times' type holds it: the solve knows no finer time.
        return float(self.ts.new_tensor(self._uniform(self.times[0], self.times[-1])))

    def _joined(self, times: Sequence[float]) -> Tensor:
        """Return ``times`` as a tensor, in which those of the caller keep their graph."""
        mine = {t: i for i, t in enumerate(self.times)}
        rows = [self.ts[mine[t]] if t in mine else self.ts.new_tensor(t) for t in times]
        return torch.stack(rows)

    def _solve(self, solver: OneStepSolver, ts: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the caller's parts, and gather what was integrated and summed."""
        chosen = self.regularisers
        integrands = {"kinetic": kinetic, "jacobian": jacobian, "taylor": taylor(int(chosen.option("taylor.order")))}
        m, k = len(chosen.integrated), len(chosen.summed)
        if not (m or k):
            return parts(self.outer.method(self.field, solver, self.y0, ts))
        penalised = PenalisedField(
            self.field,
            is_tuple=not isinstance(self.y0, Tensor),
            integrands=[integrands[name] for name in chosen.integrated],
            probe=self._signs() if "jacobian" in chosen.weights else (),
            sums=k,
            direction=self.direction,
        )
        like = self.start[0]
        more = ([like.new_zeros(len(like), m)] if m else []) + ([like.new_zeros(k)] if k else [])
        ys = self.outer.method(penalised, solver, (*self.start, *more), ts)
        if m:
            means = ys[len(self.start)][-1].mean(0)
            self.found.update(zip(chosen.integrated, means.unbind(), strict=True))
        if k:
            self.found.update(zip(chosen.summed, ys[-1][-1].unbind(), strict=True))
        return ys[: len(self.start)]

    def _local(self, y: Sequence[Tensor], t: float, steps: Sequence[tuple[float, float]]) -> Tensor:
        """Return the penalty of one step as large as that which the solve took at ``t``."""
        h = next((h for start, h in steps if (start + h - t) * h > 0), steps[-1][1])
        state = y[0] if isinstance(self.y0, Tensor) else tuple(y)
        scaled = bool(self.regularisers.option("local.scaled"))
        return local_error(self.field, self.outer.plain_solver, state, t, h, scaled=scaled)

    def _growth(self, y: Sequence[Tensor], t: Tensor) -> Tensor:
        """Return the sampled growth times the interval's length: unbiased for the integral."""
        state = y[0] if isinstance(self.y0, Tensor) else tuple(y)
        backward = self.regularisers.option("log_norm.of") == "backward"
        length = abs(self.times[-1] - self.times[0])
        # Along a solve that runs down in time the flow's growth is that of -J.
        sign = backward if self.direction > 0 else not backward
        return growth(self.field, state, t.detach(), self._signs(), backward=sign).mean() * length


def _with_times(times: Sequence[float], more: Mapping[str, float]) -> tuple[list[float], dict[str, int], list[int]]:
    """Return ``times`` with more among them, where these are, and where the first ones are now."""
    joined = sorted({*times, *more.values()}, reverse=times[-1] < times[0])
    place = {t: i for i, t in enumerate(joined)}
    return joined, {name: place[t] for name, t in more.items()}, [place[t] for t in times]
