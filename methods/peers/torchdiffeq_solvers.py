"""torchdiffeq's multistep solvers and its wrapper of SciPy's: run as they are there, for they take no single steps."""

from collections.abc import Mapping

import torch
import torchdiffeq
from torch import Tensor, nn

from odegrad.contracts import GradientMethod, State
from odegrad.errors import SolverError, UnsupportedError, UsageError
from odegrad.methods.fields.interval import refuse_outside
from odegrad.methods.gradients.adjoint import Adjoint
from odegrad.methods.gradients.adjoint_seminorm import AdjointSeminorm
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.one_step.options import PerPart
from odegrad.methods.solvers.opaque import without_gradient
from odegrad.states import mapped, parts

OF_TORCHDIFFEQ = ("explicit_adams", "implicit_adams", "fixed_adams", "scipy_solver")
"""The solvers that are torchdiffeq's own."""

WITHOUT_GRAPH = frozenset({"scipy_solver"})
"""Those whose solution has no graph: naive backprop would lose every gradient in silence."""


def solve_as_torchdiffeq(
    gradient: GradientMethod,
    func: object,
    y0: State,
    t: Tensor,
    *,
    method: str,
    rtol: PerPart,
    atol: PerPart,
    options: Mapping[str, object] | None,
) -> State:
    """Return torchdiffeq's own solution at ``t``, with the gradient of its ``odeint`` or ``odeint_adjoint``.

    Raises
    ------
    UnsupportedError
        If ``gradient`` is neither naive backprop nor an adjoint method, or a tap watches.
    UsageError
        If the times leave what the field is known in, or the parameters of a function are not known.
    SolverError
        If the solver gives up.
    """
    if not isinstance(gradient, Naive | Adjoint) or gradient.tap is not None:
        raise UnsupportedError(
            f"method: {method} is torchdiffeq's own and takes no single steps, on which {gradient.traits.name} stands; "
            "take gradient naive or adjoint without a tap, or a solver of this package such as dopri5 or kencarp4"
        )
    refuse_outside(func, t)
    if isinstance(gradient, Adjoint) and not isinstance(func, nn.Module):
        raise UsageError(
            f"func: expected an nn.Module, a method of one, or adjoint_params beside it with method {method} under the "
            f"adjoint method, got {getattr(func, '__name__', type(func).__name__)}; give adjoint_params=(), or the "
            "tensors that it depends on"
        )
    told = {"method": method, "rtol": rtol, "atol": atol, "options": dict(options) if options else None}
    try:
        if isinstance(gradient, Naive):
            found = torchdiffeq.odeint(func, y0, t, **told)
        else:
            found = torchdiffeq.odeint_adjoint(func, y0, t, **told, **_of_adjoint(gradient, func))
    except AssertionError as error:
        raise SolverError(f"method {method}: torchdiffeq gave up: {error}") from error
    solution: State = found if isinstance(found, Tensor) else tuple(found)
    if isinstance(gradient, Naive) and method in WITHOUT_GRAPH and torch.is_grad_enabled():
        trained = [p for p in func.parameters() if p.requires_grad] if isinstance(func, nn.Module) else []
        inputs = [x for x in (*parts(y0), t, *trained) if x.requires_grad]
        message = f"method {method}: its solution has no graph; take odeint_adjoint, or a solver such as dopri5"
        solution = mapped(solution, lambda part: without_gradient(part, inputs, message)) if inputs else solution
    return solution


def _of_adjoint(gradient: Adjoint, func: object) -> dict[str, object]:
    """Return the arguments of ``odeint_adjoint`` that say what the method's options say."""
    said: dict[str, object] = {"adjoint_rtol": gradient.rtol, "adjoint_atol": gradient.atol}
    said["adjoint_method"] = gradient.solver
    if gradient.solver is not None:
        said["adjoint_options"] = {}
    if isinstance(gradient, AdjointSeminorm):
        said["adjoint_options"] = {"norm": "seminorm"}
    if isinstance(func, nn.Module):
        said["adjoint_params"] = tuple(func.parameters())
    return {key: value for key, value in said.items() if value is not None}
