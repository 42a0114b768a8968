"""A solve that gathers penalties on the dynamics, for a training loop of a user's own."""

from collections.abc import Mapping

from odegrad.contracts import Scalar
from odegrad.interface.arguments import solver_of
from odegrad.methods.regularisers.chosen import Regularisers
from odegrad.methods.regularisers.regularised import RegularisedSolve
from odegrad.registry import build_gradient


def regularised(
    regularisers: Mapping[str, Scalar],
    *,
    gradient: str = "naive",
    gradient_options: Mapping[str, Scalar] | None = None,
    method: str = "dopri5",
    rtol: float = 1e-7,
    atol: float = 1e-9,
    options: Mapping[str, object] | None = None,
    seed: int = 0,
) -> RegularisedSolve:
    """Return a solve that gathers penalties on the dynamics, for a training loop of one's own.

    ``ys = solve(func, y0, t)`` solves as ``odeint`` does; ``(loss + solve.penalty()).backward()`` pulls both back, and
    the next iteration begins. For evaluations take ``odeint``.

    Parameters
    ----------
    regularisers
        Name -> weight, of ``odegrad list regularisers``, and options behind a dot:
        ``{"kinetic": 0.01, "taylor": 0.01, "taylor.order": 3}``.
    gradient, gradient_options, method, rtol, atol, options
        As ``odeint``.
    seed
        Of the random numbers; they depend on it and on the iteration alone.

    Raises
    ------
    UsageError
        If an argument is not what is said here.
    UnsupportedError
        If a penalty cannot go with the gradient method or the solver.
    """
    built = build_gradient(gradient, gradient_options)
    return RegularisedSolve(built, solver_of(method, rtol, atol, options), Regularisers.of(regularisers), seed)
