"""A solve as one node of autograd's graph: forward without a graph, and a pull-back that stands in for it."""

import abc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from odegrad.contracts import Tap
from odegrad.errors import UsageError
from odegrad.methods.backward.precision.scaling import pulled_until_finite
from odegrad.methods.backward.transforms import each_cotangent
from odegrad.methods.fields.closures import leaves
from odegrad.methods.fields.held import Held
from odegrad.methods.fields.surroundings import autocast_off, out_of_inference, usable
from odegrad.methods.solvers.dynamics import FlatField, trained_parameters
from odegrad.methods.solvers.ends.landing import OpenTimes
from odegrad.methods.solvers.opaque import Context, without_derivative
from odegrad.methods.solvers.solver import OneStepSolver

Gradients = tuple[Tensor, Sequence[Tensor | None]]
"""``dL/dy0 [d]``, and ``dL/dtheta`` per parameter; None where there is none."""


class SolveNode(abc.ABC):
    """A forward solve without a graph, and its pull-back."""

    tap: Tap | None = None
    """What watches the pull-back."""

    repeats_calls = True
    """Whether the pull-back calls the field again."""

    def __init__(self, field: FlatField, solver: OneStepSolver, times: Sequence[float]) -> None:
        self.field = field
        self.solver = solver
        # Where the solve finds its end, it tells so in the times that it was given.
        self.times = times if isinstance(times, OpenTimes) else list(times)
        known = trained_parameters(field.field)
        if any(map(is_lazy, known)):
            raise UsageError(
                "field: a lazy layer has not been called yet, so its parameters have no shape; call the field once, "
                "field(t0, y0), before the first solve and before building the optimizer"
            )
        self.registered = len(known)
        """The first so many of the trained tensors are parameters of the field; the others are attributes of it."""
        self.inputs: tuple[Tensor, ...] = known
        """The trained tensors, as autograd knows them outside."""
        self.parameters: tuple[Tensor, ...] = known
        """What the pull-back differentiates by: the same tensors, or leaves that stand in for computed ones."""
        self.stand_ins: dict[int, Tensor] = {}

    @abc.abstractmethod
    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve from ``y0 [d]``; return the states ``[K, d]`` at ``times`` and the tensors to keep."""

    @abc.abstractmethod
    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> Gradients:
        """Return the gradients from ``grads = dL/dys [K, d]`` and what was kept."""

    def apply(self, y0: Tensor) -> Tensor:
        """Return the states ``[K, d]`` with the method's graph.

        Raises
        ------
        UsageError
            If the field depends on a tensor that requires a gradient and is neither one of its parameters nor an
            attribute of it.
        """
        if not torch.is_grad_enabled():
            out: Tensor = _Solve.apply(self, y0)  # type: ignore[no-untyped-call]
            return out
        self._find_trained(y0)
        with self.field_as_held():
            out = _Solve.apply(self, y0, *self.inputs)  # type: ignore[no-untyped-call]
        self.held.settle(self.inputs)
        if self.repeats_calls and self.held.written:
            with self.field_as_held():
                self.field.refuse_memory(lambda: self.first_call(y0.detach()))
        return out

    def first_call(self, y0: Tensor) -> Tensor:
        """Return f at the start, ``y0`` in the form that the node solves from."""
        return self.field(self.times[0], y0)

    @property
    def held(self) -> Held:
        """Return what the field holds; that it is a module has been checked."""
        return cast("Held", self.field.held)

    def field_as_held(self) -> AbstractContextManager[None]:
        """Let the field hold inside what it held at the start, the stand-ins in the places of computed tensors."""
        return self.held.as_it_was(self.stand_ins, self.inputs)

    def repeated_calls(self) -> AbstractContextManager[None]:
        """Let the calls inside repeat those of the forward solve, of which nothing but their gradients is left."""
        return self._repeated()

    @contextmanager
    def _repeated(self) -> Iterator[None]:
        # Running statistics must not move a second time.
        with self.field_as_held(), self.field.undisturbed(), self.field.no_new_draws(watched=self.tap is not None):
            yield

    def _find_trained(self, y0: Tensor) -> None:
        """Find what is trained beside the parameters: tensors with a gradient among the field's attributes."""
        known = {id(p) for p in (*self.inputs, *getattr(self.field.field, "left_out", ()))}
        found = [x for key, x in self.held.tensors.items() if x.requires_grad and key not in known]
        if any(not x.is_leaf for x in (*self.inputs, *found)):
            found = self._told_apart(found, y0)
        self.inputs = (*self.inputs, *found)
        self.parameters = tuple(self.stand_ins.get(id(x), x) for x in self.inputs)
        self.field.differentiated = self.parameters
        self.field.refuse_closures_at_first_call(self.parameters)

    def _told_apart(self, found: Sequence[Tensor], y0: Tensor) -> list[Tensor]:
        """Return those of the attributes ``found`` that are trained here; make stand-ins for computed tensors.

        The graph of a call must end at a tensor that was computed before the solve, since its history is pulled back
        once, by autograd, with all that it has a gradient from. One f call tells which of them f reads.
        """
        computed = [x for x in (*self.inputs, *found) if not x.is_leaf]
        self.stand_ins = {id(x): x.detach().requires_grad_() for x in computed}
        if self.field.low is not None:
            self.field.low.stand_in(self.stand_ins)
        with self.field_as_held(), self.field.undisturbed(), torch.enable_grad():
            dy = self.first_call(y0.detach().requires_grad_())
            reached = {id(leaf) for leaf in leaves([dy])}
        read = {id(x) for x in computed if id(self.stand_ins[id(x)]) in reached}
        # A parameter that f has from elsewhere (adjoint_params of a function) cannot be stood in for.
        self.stand_ins = {key: leaf for key, leaf in self.stand_ins.items() if key in read}
        for x in computed:
            if id(x) not in read:
                self.held.forget(x)
        return [x for x in found if x.is_leaf or id(x) in read]


class _SolveContext(Context, Protocol):
    node: SolveNode


class _Solve(torch.autograd.Function):
    """The autograd function of a node. Its pull-back is no graph, so a second derivative raises, and is never wrong."""

    @staticmethod
    def forward(ctx: _SolveContext, node: SolveNode, y0: Tensor, *inputs: Tensor) -> Tensor:
        ys, kept = node.forward(y0.detach())
        ctx.node = node
        # Saved by autograd, not on the node: it frees them with the graph, and counts them as the memory that they are.
        # The trained tensors too, since it knows whether one has been changed in place when it hands them out again.
        ctx.save_for_backward(y0, *inputs, *kept)
        return ys

    @staticmethod
    def backward(ctx: _SolveContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        node = ctx.node
        y0, *saved = ctx.saved_tensors
        kept = tuple(saved[len(node.inputs) :])

        def pull_back(grad: Tensor) -> Sequence[Tensor | None]:
            device_type, own = node.field.layout.device.type, usable(grad)

            def pull() -> Sequence[Tensor | None]:
                a0, found = node.pull_back(own, kept)
                return a0, *found

            with out_of_inference(), torch.no_grad(), autocast_off(device_type), node.repeated_calls():
                a0, *found = pulled_until_finite(pull, own, node.field.low, node.solver, watched=node.tap is not None)
            # A parameter that nothing depends on gets zeros; an attribute nothing, as it may be trained by nobody.
            pulled = [
                torch.zeros_like(p) if g is None and i < node.registered else g
                for i, (p, g) in enumerate(zip(node.parameters, found, strict=True))
            ]
            inputs = (grad, y0, *node.inputs)
            return without_derivative([a0, *pulled], inputs, "this gradient method")

        return None, *each_cotangent(pull_back, grads[0])
