"""Penalties that are integrals along the solution: ``kinetic``, ``jacobian`` and ``taylor``.

With n numbers per sample and means over the batch: ``int |f|^2 / n dt`` and ``int |e^T f_y|^2 / n dt`` (Finlay et al.,
"How to Train Your Neural ODE: the World of Jacobian and Kinetic Regularization", ICML 2020, arXiv 2002.02798), and
``int |d^K y / dt^K|^2 / n dt`` (Kelly et al., "Learning Differential Equations that are Easy to Solve", NeurIPS 2020,
arXiv 2007.04504).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odegrad.contracts import State, VectorField, unjudged_parts
from odegrad.methods.fields.surroundings import with_second_derivatives
from odegrad.methods.fields.twice import pulled_with_graph
from odegrad.states import parts


@dataclass(frozen=True)
class FieldCall:
    """One f call, with the graph that leads from its result to time and state."""

    t: Tensor
    y: Sequence[Tensor]
    """The moving parts of the state."""
    dy: Sequence[Tensor]
    """Their derivatives."""
    probe: Sequence[Tensor]
    """Signs, of the parts' shapes; the same for a whole solve."""
    zero: Tensor
    """A 0-d zero that leads to the state: what is added to it is differentiable, and no leaf of its own."""


def per_sample_mean_square(rates: Sequence[Tensor]) -> Tensor:
    """Return the mean square over the numbers of each sample of all parts together, ``[batch]``."""
    return torch.cat([r.reshape(len(r), -1) for r in rates], dim=1).square().mean(1)


def kinetic(call: FieldCall) -> Tensor:
    """Return ``|f|^2 / n`` of each sample, ``[batch]``."""
    return per_sample_mean_square(call.dy)


def jacobian(call: FieldCall) -> Tensor:
    """Return ``|e^T f_y|^2 / n`` of each sample, ``[batch]``: its mean over signs is ``norm_F(f_y)^2 / n``."""
    # With a graph of their own the signs tell of an operation that can be differentiated only once.
    return per_sample_mean_square(pulled_back(call.dy, call.y, [e + call.zero for e in call.probe]))


def pulled_back(outputs: Sequence[Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the products of ``weights`` with the Jacobian from the left, with their graph."""
    found = pulled_with_graph(outputs, inputs, weights)
    # Not materialize_grads, whose zeros are leaves of the graph: what looks for closures would stumble over them.
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def taylor(order: int) -> Callable[[FieldCall], Tensor]:
    """Return the integrand ``|d^K y / dt^K|^2 / n`` for ``K = order``; for 1 it is that of ``kinetic``."""

    def integrand(call: FieldCall) -> Tensor:
        rates = call.dy
        for _ in range(order - 1):
            rates = along_solution(rates, call)
        return per_sample_mean_square(rates)

    return integrand


def along_solution(rates: Sequence[Tensor], call: FieldCall) -> Sequence[Tensor]:
    """Return ``d/dt`` of ``rates(t, y(t))``: the derivative along ``(1, f)``, by two pull-backs and no f call."""
    # The derivative of w -> J^T w is J: so autograd's products from the left give one from the right, for a field
    # that calls autograd itself too, which forward mode would refuse.
    weights = [torch.zeros_like(r) + call.zero for r in rates]
    inputs, direction = (call.t, *call.y), (torch.ones_like(call.t), *call.dy)
    linked = [(r, w) for r, w in zip(rates, weights, strict=True) if r.requires_grad]
    if not linked:
        return [torch.zeros_like(r) for r in rates]
    pulled = pulled_with_graph([r for r, _ in linked], inputs, [w for _, w in linked])
    pairs = [(g, v) for g, v in zip(pulled, direction, strict=True) if g is not None and g.requires_grad]
    if not pairs:
        return [torch.zeros_like(r) for r in rates]
    return pulled_back([g for g, _ in pairs], weights, [v for _, v in pairs])


class PenalisedField(nn.Module):
    """The dynamics with the penalties' parts behind the state: integrals, and sums that only steps add to.

    The state is ``(*parts, integrals [batch, m], sums [k])``, of which the last two are there where m and k are not 0.
    The penalties' parts feed nothing back and are outside of the error norm, so the accepted grid is that without them.

    Parameters
    ----------
    field
        The user's dynamics.
    is_tuple
        Whether its state is a tuple.
    integrands
        From one f call to ``[batch]``, m of them.
    probe
        Signs ``e`` of the moving parts' shapes.
    sums
        Number k of the sums over steps.
    direction
        The sign of ``ts[-1] - ts[0]``: integrals are over the length of the interval, and never negative.
    """

    def __init__(
        self,
        field: VectorField,
        *,
        is_tuple: bool,
        integrands: Sequence[Callable[[FieldCall], Tensor]] = (),
        probe: Sequence[Tensor] = (),
        sums: int = 0,
        direction: float = 1.0,
    ) -> None:
        super().__init__()
        self.field = field
        self.is_tuple = is_tuple
        self.integrands = tuple(integrands)
        self.probe = tuple(probe)
        self.direction = direction
        self.more = (1 if integrands else 0) + (1 if sums else 0)
        self.unjudged = self.more + unjudged_parts(field)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield what the user's field says that it depends on."""
        yield from self.field.parameters(recurse)

    def forward(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the derivatives of the user's state, the integrands, and zeros for the sums."""
        own, more = state[: -self.more], state[-self.more :]
        rates: list[Tensor] = []
        if self.integrands:
            dy, integrands = self._with_integrands(t, own)
            rates.append(integrands)
            more = more[1:]
        else:
            dy = parts(self.field(t, self._user_state(own)))
        return (*dy, *rates, *(torch.zeros_like(x) for x in more))

    def _user_state(self, own: Sequence[Tensor]) -> State:
        return tuple(own) if self.is_tuple else own[0]

    def _with_integrands(self, t: Tensor, own: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            # Views of its own: a product with the Jacobian must end at this call, not walk the history of the state.
            y = [p.view_as(p) if wanted and p.requires_grad else p.detach().requires_grad_() for p in own]
            # A leaf of our own would do for time and weights, but a graph that ends in it looks like a closure.
            zero = zero_of(y[0])
            time = t + zero
            with with_second_derivatives():
                dy = parts(self.field(time, self._user_state(y)))
            count = moving_parts(self.field, len(y))
            call = FieldCall(time, y[:count], linked(dy[:count], zero), self.probe, zero)
            values = torch.stack([integrand(call) for integrand in self.integrands], dim=1)
        if not wanted:
            return [d.detach() for d in dy], values.detach() * self.direction
        return dy, values * self.direction


def moving_parts(field: object, count: int) -> int:
    """Return how many of the first parts of a state of ``count`` move: all of them unless the field says otherwise."""
    return int(getattr(field, "moving", count))


def zero_of(y: Tensor) -> Tensor:
    """Return a 0-d zero with a graph to ``y``."""
    return 0.0 * y.reshape(-1)[:1].sum()


def linked(rates: Sequence[Tensor], zero: Tensor) -> Sequence[Tensor]:
    """Return ``rates`` with a graph: that of a constant field has none, and its products are zero."""
    return [rate if rate.requires_grad else rate + zero for rate in rates]
