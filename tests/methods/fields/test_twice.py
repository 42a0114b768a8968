"""Operations that can be differentiated only once are refused wherever a second derivative is taken."""

import pytest
import torch
from torch import nn

from odegrad.diagnosis.jacobian import JacobianProducts
from odegrad.errors import UnsupportedError
from odegrad.interface.penalties import regularised
from odegrad.methods.fields.twice import pulled_with_graph
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class Once(nn.Module):
    """``y' = -(p y)^2`` by an operation that can be differentiated only once."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, t, y):
        return -_Square.apply(y * self.p)


START, TIMES = torch.ones(3, 2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("forward_sensitivity", make_solver("dopri5", rtol=1e-5, atol=1e-7)),
        ("naive", make_solver("dopri5", rtol=1e-5, atol=1e-7, sees="tangent")),
        ("naive", make_solver("kencarp4", rtol=1e-4, atol=1e-6, linear="krylov")),
        ("naive", make_solver("rodas5p", rtol=1e-4, atol=1e-6)),
    ],
    ids=["forward_sensitivity", "tangent", "krylov", "rodas5p"],
)
def test_methods_and_solvers_say_so(name, solver):
    """Zero in the place of a product with the Jacobian would be a wrong gradient, or wrong steps, in silence."""
    with pytest.raises(UnsupportedError, match="differentiated only once"):
        build_gradient(name)(Once(), solver, START.clone().requires_grad_(), TIMES)[-1].sum().backward()


@pytest.mark.parametrize("name", ["naive", "aca"])
def test_methods_that_take_no_second_derivative_are_right(name):
    """``1 / (1 + t)`` from 1: the derivative at the end by the start is ``1 / (1 + t)^2``."""
    y0 = START.clone().requires_grad_()
    build_gradient(name)(Once(), make_solver("dopri5", rtol=1e-8, atol=1e-10), y0, TIMES)[-1].sum().backward()
    assert torch.allclose(y0.grad, torch.full_like(START, 0.25), atol=1e-7)


def test_a_product_with_weights_that_need_gradients_is_checked():
    """The node that raises lies on no way to the inputs."""
    x, w = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with pytest.raises(UnsupportedError, match="once_differentiable"):
        pulled_with_graph([_Square.apply(x)], [x], [w])
    (found,) = pulled_with_graph([x**2], [x], [w])
    assert torch.equal(torch.autograd.grad(found.sum(), w)[0], torch.full((2,), 2.0))


def test_the_diagnosis_says_so():
    """Its products with the Jacobian from the right are second derivatives."""
    with pytest.raises(UnsupportedError, match="differentiated only once"):
        JacobianProducts(Once(), TIMES[0], START)


@pytest.mark.parametrize("gradient", ["naive", "aca"])
@pytest.mark.parametrize("penalty", [{"jacobian": 1.0}, {"taylor": 1.0, "taylor.order": 2}])
def test_penalties_on_derivatives_say_so(gradient, penalty):
    """Their gradient would lack a part."""
    solve = regularised(penalty, gradient=gradient, rtol=1e-4, atol=1e-6)

    def loss():
        return solve(Once(), START, TIMES)[-1].sum() + solve.penalty()

    with pytest.raises(UnsupportedError, match="differentiated only once"):
        loss().backward()
