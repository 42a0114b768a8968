"""Step control that sees sensitivities: one random tangent is solved along, and its error counts in the step's.

A controller that looks at the state alone takes any step where the state rests, and the derivative of a step that is
too large for the stability limit is far from that of the flow. With ``v' = f_y v + f_theta u``, ``v`` holds some of
every mode of the linearised equation, so that its error estimate bounds the step by all of them; it is no proof. The
state's own stages stay what they are without it, bit for bit, so that a replay of the recorded steps knows no tangent.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from odegrad.methods.fields.closures import leaves
from odegrad.methods.fields.twice import pulled_with_graph
from odegrad.methods.solvers.dynamics import FlatField, Tolerances
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.step import GraphStages, PlainStages, StageBuffer
from odegrad.methods.solvers.stepper import Stepper
from odegrad.methods.solvers.steppers import RungeKuttaStepper, graph_stepper, plain_stepper
from odegrad.methods.solvers.tableau import Tableau
from odegrad.states import sent_to

FLOOR = 1e-3
"""Added to the root mean square of a parameter: one that starts at zero moves too."""


class Tangent:
    """The tangent's equation on ``(y, v) [2d]``: what the first step is chosen by, and one product with J per f call.

    Parameters
    ----------
    field
        The field; a function that is no ``nn.Module`` has no known parameters, and ``v' = f_y v``.
    like
        A state ``[d]``.
    seed
        Draws ``v0 [d]``, normal of variance 1, and ``u``, normal times each parameter's root mean square plus
        ``FLOOR``; the same numbers on every device and in every type, up to rounding.
    """

    def __init__(self, field: FlatField, like: Tensor, seed: int) -> None:
        self.field = field
        field.differentiated_twice = True
        self.d = like.numel()
        generator = torch.Generator().manual_seed(seed)
        self.start = _drawn(like, generator)
        named = field.field.named_parameters() if isinstance(field.field, nn.Module) else ()
        self.parameters = {name: p for name, p in named if p.requires_grad}
        self.directions = [_drawn(p, generator) * (_root_mean_square(p) + FLOOR) for p in self.parameters.values()]

    def call(self, t: float, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``f(t, y)`` with the graph that the caller wants of it, and ``f_y v + f_theta u``, ``[d]`` each.

        One f call.
        """
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            # Views of its own: the state depends on the parameters too, and its history is not to be walked here.
            own = y.view_as(y) if wanted and y.requires_grad else y.detach().requires_grad_()
            held = {name: p.view_as(p) for name, p in self.parameters.items()}
            dy = self.field(t, own, held)
        along = self._product(dy, (own, *held.values()), (v, *self.directions))
        depends = wanted and (y.requires_grad or any(x is not own for x in leaves([dy])))
        return dy if depends else dy.detach(), along

    def _product(self, dy: Tensor, inputs: Sequence[Tensor], directions: Sequence[Tensor]) -> Tensor:
        """Return ``J v``: the derivative of ``w -> J^T w`` is ``J``, so two pull-backs give it."""
        if not dy.requires_grad:
            return torch.zeros_like(dy)
        with torch.enable_grad():
            w = torch.zeros_like(dy, requires_grad=True)
            pulled = pulled_with_graph([dy], inputs, [w])
        pairs = [(g, x) for g, x in zip(pulled, directions, strict=True) if g is not None and g.requires_grad]
        if not pairs:
            return torch.zeros_like(dy)
        (out,) = torch.autograd.grad([g for g, _ in pairs], w, [x for _, x in pairs], materialize_grads=True)
        return out.detach()

    @property
    def tolerances(self) -> Tolerances | None:
        """Return those of the state, for both halves."""
        known = self.field.tolerances
        return known and (torch.cat([known[0]] * 2), torch.cat([known[1]] * 2))

    def prepare(self, times: Sequence[float]) -> None:
        """Need nothing before a step."""

    def write(self, t: float, y: Tensor, out: Tensor, stage: int) -> None:  # noqa: ARG002
        """Write ``(f, f_y v + f_theta u)`` at ``y = (y, v) [2d]`` into ``out [2d]``."""
        with torch.no_grad():
            dy, dv = self.call(t, *y.tensor_split(2))
        out[: self.d].copy_(dy.detach())
        out[self.d :].copy_(dv)

    def norm(self, x: Tensor) -> Tensor:
        """Return the larger of the norms of both halves of ``x [2d]``."""
        of_state, of_tangent = x.tensor_split(2)
        return torch.maximum(self.field.norm(of_state), self.field.norm(of_tangent))


class _TangentStages:
    """The stages of the state, ``stages``, and beside them those of the tangent."""

    def __init__(self, stages: PlainStages | GraphStages, tangent: Tangent, like: Tensor) -> None:
        self.stages = stages
        self.tangent = tangent
        self.buffer = stages.buffer
        self.dense = stages.dense
        self.prepare: Callable[[Sequence[float]], None] = stages.prepare
        self.along = StageBuffer(self.buffer.tableau, like)
        self.v = tangent.start
        self.v_next = tangent.start
        """The tangent's last combination: where the coming stage stands, and at last the end of the step."""

    def evaluate(self, stage: int, t: float, y: Tensor) -> None:
        """Evaluate the stage of both at ``(t, y [d])``: one f call."""
        k, along = self.tangent.call(t, y, self.v if stage == 0 else self.v_next)
        self.buffer.k[stage].copy_(k.detach())
        self.along.k[stage].copy_(along)
        if isinstance(self.stages, GraphStages):
            self.stages.ks[stage] = k

    def combine(self, y: Tensor, row: int, h: float) -> Tensor:
        """Return the state's combination, and keep the tangent's."""
        with torch.no_grad():
            self.v_next = self.along.combine(self.v, row, h)
        return self.stages.combine(y, row, h)

    def roll(self) -> None:
        """Make the last stage of both the first."""
        self.stages.roll()
        self.along.k[0].copy_(self.along.k[-1])


class _TangentStepper(RungeKuttaStepper):
    """Runge-Kutta steps of the state, judged by the state's error and the tangent's."""

    stages: _TangentStages

    def __init__(self, stages: _TangentStages) -> None:
        super().__init__(stages)

    @property
    def controlled_by(self) -> Tangent:
        """Return the tangent's equation, which has the norm of both."""
        return self.stages.tangent

    def rate(self, t: float, x: Tensor) -> Tensor:
        """Return the rates of state and tangent, ``[2d]``: the first step is chosen by both."""
        return torch.cat([super().rate(t, x).detach(), self.stages.along.k[0]])

    def judged(self, h: float, x: Tensor, x_next: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return error, start and end of state and tangent, ``[2d]`` each."""
        stages = self.stages
        parts = zip(super().judged(h, x, x_next, d), (stages.along.error(h), stages.v, stages.v_next), strict=True)
        error, start, end = (torch.cat(pair) for pair in parts)
        return error, start, end

    def standing(self, x: Tensor, d: int) -> Tensor:
        """Return state and tangent, ``[2d]``."""
        return torch.cat([super().standing(x, d), self.stages.v])

    def accept(self) -> None:
        """Stand on the new state with the new tangent."""
        self.stages.v = self.stages.v_next
        super().accept()


def controlled_stepper(solver: OneStepSolver, field: FlatField, like: Tensor, *, with_graph: bool) -> Stepper:
    """Return the stepper whose steps ``solver`` chooses on ``field``, with what its control sees."""
    if not (solver.adaptive and solver.sees == "tangent"):
        make = graph_stepper if with_graph else plain_stepper
        return make(solver, field, like, first=True)
    tableau: Tableau = solver.tableau
    stages = GraphStages(field, tableau, like) if with_graph else PlainStages(field, tableau, like)
    return _TangentStepper(_TangentStages(stages, Tangent(field, like, solver.tangent_seed), like))


def _drawn(like: Tensor, generator: torch.Generator) -> Tensor:
    return sent_to(like.device, torch.randn(like.shape, generator=generator, dtype=torch.float64), like.dtype)


def _root_mean_square(p: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(p.detach())
    scaled: Tensor = norm / max(p.numel(), 1) ** 0.5
    return scaled
