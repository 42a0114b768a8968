"""A regularised solve: a gradient method bound to its solver, which also gathers penalties on the dynamics."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from odegrad.contracts import Ending, GradientMethod, StateT, VectorField, ending_at_events, taking_jumps
from odegrad.errors import UnsupportedError
from odegrad.event import Event
from odegrad.methods.regularisers.chosen import Regularisers, check_regularised
from odegrad.methods.regularisers.one_solve import Penalised, SolveWithPenalties
from odegrad.methods.regularisers.step_sums import summing
from odegrad.methods.solvers.solver import OneStepSolver


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
        bound = Penalised(self.method, self.solver, self.plain_solver, self.regularisers)
        solve = SolveWithPenalties(bound, field, y0, ts, self._generator())
        ys = solve.run()
        for name, value in solve.found.items():
            self._gathered[name] = self._gathered[name] + value if name in self._gathered else value
        self._solves += 1
        return ys  # type: ignore[return-value]

    def until(
        self, field: VectorField, y0: StateT, t0: Tensor, event: Event, /, *, reverse: bool = False
    ) -> Ending[StateT]:
        """Return where ``event`` is, as the method without penalties does.

        Raises
        ------
        UnsupportedError
            If there are penalties, or the method cannot end at an event.
        """
        self._refuse_unless_plain("a solve that ends at an event")
        return ending_at_events(self.method).until(field, self.solver, y0, t0, event, reverse=reverse)

    def across(self, field: VectorField, y0: StateT, ts: Tensor, jump_t: Sequence[float], /) -> StateT:
        """Return the solution at ``ts`` of a field that jumps at ``jump_t``, as the method without penalties does.

        Raises
        ------
        UnsupportedError
            If there are penalties, or the method does not see the limits of the field.
        """
        self._refuse_unless_plain("a solve over times at which the field jumps")
        return taking_jumps(self.method).across(field, self.solver, y0, ts, jump_t, self.method)

    def _refuse_unless_plain(self, what: str) -> None:
        if self.regularisers.weights:
            raise UnsupportedError(
                f"regulariser: penalties are gathered between known times, along one field, and not in {what}; leave "
                "the regularisers out, or choose another task"
            )

    def _generator(self) -> torch.Generator:
        """Return the generator of this solve."""
        digest = hashlib.sha256(f"{self.seed} {self.iteration} {self._solves}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7]))
