"""One solve with its penalties: what is integrated, summed over steps and sampled along it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from odegrad.contracts import GradientMethod, State, StepObserver, VectorField
from odegrad.errors import UsageError
from odegrad.methods.regularisers.chosen import Regularisers
from odegrad.methods.regularisers.integrands import PenalisedField, jacobian, kinetic, moving_parts, taylor
from odegrad.methods.regularisers.sampled import growth, local_error
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.states import parts


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


@dataclass(frozen=True)
class Penalised:
    """A gradient method, its solver, and the penalties that are gathered."""

    method: GradientMethod
    solver: OneStepSolver
    """As the method is given it: where penalties are sums over steps, it sums them."""
    plain_solver: OneStepSolver
    """The same without sums."""
    regularisers: Regularisers


class SolveWithPenalties:
    """One solve with its penalties, which are in ``found`` after ``run``."""

    def __init__(self, bound: Penalised, field: VectorField, y0: State, ts: Tensor, generator: torch.Generator) -> None:
        self.bound = bound
        self.regularisers = bound.regularisers
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
        recorder = _Recorder(self.bound.solver.observer)
        solver = self.bound.solver.observed_by(recorder) if "local" in wanted else self.bound.solver
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
                self.bound.method(self.field, self.bound.plain_solver.observed_by(recorder), self.y0, self.ts)
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
            return parts(self.bound.method(self.field, solver, self.y0, ts))
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
        ys = self.bound.method(penalised, solver, (*self.start, *more), ts)
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
        return local_error(self.field, self.bound.plain_solver, state, t, h, scaled=scaled)

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
