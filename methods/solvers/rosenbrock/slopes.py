"""``f``, ``f_y`` and ``f_t`` at the start of a step, exactly: they are part of a Rosenbrock method."""

import torch
from torch import Tensor

from odegrad.methods.fields.closures import explained
from odegrad.methods.fields.twice import pulled_with_graph, refuse_once_differentiable
from odegrad.methods.solvers.implicit.linear import Jacobians, Linearisation


class Slopes(Linearisation):
    """``f`` and its derivatives by state and time at one ``(t, y [batch, n, 1])``: one f call with a graph.

    The derivative by time is the derivative, by a cotangent ``v``, of ``f_t^T v``: one product whose graph is pulled
    back, and no f call; a field that does not use its time costs none.

    Parameters
    ----------
    jacobians
        Of the solve.
    t, y
        Where.
    graph
        Keep the graph of the derivatives, for the pull-back through the step.

    Raises
    ------
    UnsupportedError
        If an operation of the field has no second derivative, where one is needed.
    """

    def __init__(self, jacobians: Jacobians, t: float, y: Tensor, *, graph: bool = False) -> None:
        super().__init__(jacobians, jacobians.field.time(t).requires_grad_(), y, formed=False)
        self.graph = graph
        self.seed = torch.zeros_like(self.dy, requires_grad=True)
        self.rows: tuple[Tensor, ...] = ()
        """The cotangents of the Jacobian's rows, leaves of its graph."""
        try:
            with torch.set_grad_enabled(graph):
                self.jacobian = self._by_state()
            self.of_time = self._by_time()
        except RuntimeError as error:
            raise explained(error) from error
        self.matrix = self.jacobian.detach()

    @property
    def products(self) -> int:
        """Return the vector-Jacobian products that the derivatives have cost."""
        return self.jacobians.products + int(self.of_time is not None)

    def _by_state(self) -> Tensor:
        """Return ``f_y [batch, n, n]``."""
        if not (self.graph and self.depends):
            return self.jacobians.rows(self)
        # With cotangents that need gradients an operation that can be differentiated only once says so; with others
        # its derivative would be taken for a constant.
        basis = self.jacobians.basis(self.dy).detach().clone().requires_grad_()
        self.rows = (basis,)
        found = self.jacobians.rows(self, basis)
        refuse_once_differentiable([found], (self.y, self.t, basis))
        return found

    def _by_time(self) -> Tensor | None:
        """Return ``f_t [batch, n, 1]``, None where f does not depend on its time."""
        if not self.depends:
            return None
        with torch.enable_grad():
            (of_seed,) = pulled_with_graph([self.dy], [self.t], [self.seed])
            if of_seed is None or not of_seed.requires_grad:
                return None
            (found,) = torch.autograd.grad(
                of_seed, self.seed, create_graph=self.graph, retain_graph=True, materialize_grads=True
            )
        return found
