"""Solves inside of ``torch.func``, and many cotangents at once: autograd's own gradients, or a sentence."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.gradients.anode import Anode
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver

TIMES = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)


class _Model(nn.Module):
    """What ends in a solve, as a meta-learner or a Laplace approximation differentiates it."""

    def __init__(self, solving, field):
        super().__init__()
        self.solving, self.field = [solving], field

    def forward(self, y, times=TIMES):
        return self.solving[0](self.field, y, times)[1:]


def _loss(model, parameters, y, times):
    return functional_call(model, parameters, (y, times)).pow(2).sum()


@pytest.fixture
def model(solving, net):
    """Return a solve of the small net by every method."""
    return _Model(solving, net())


@pytest.fixture
def values(model):
    """Return its parameters, detached."""
    return {name: p.detach() for name, p in model.named_parameters()}


def test_grad_is_autograds_gradient(model, values, start, apart):
    """By start, output times and parameters that come through ``functional_call``."""
    found = grad(lambda p, y, t: _loss(model, p, y, t), argnums=(0, 1, 2))(values, start().detach(), TIMES)
    leaves = {name: x.clone().requires_grad_() for name, x in values.items()}
    y0, times = start(), TIMES.clone().requires_grad_()
    true = torch.autograd.grad(_loss(model, leaves, y0, times), [*leaves.values(), y0, times])
    assert apart([*found[0].values(), *found[1:]], true) < 1e-12


def test_jacobians_are_autograds(model, start):
    """Row by row, vectorised by autograd, and by ``jacrev``, of a batch of cotangents each."""
    y0 = start().detach()
    rows = torch.autograd.functional.jacobian(model, y0)
    torch.testing.assert_close(torch.autograd.functional.jacobian(model, y0, vectorize=True), rows)
    torch.testing.assert_close(jacrev(model)(y0), rows)


def test_the_fields_own_parameters_stay_trained(model, start, apart):
    """A value that leaves a transform still leads to the parameters that no transform has wrapped."""
    value, _ = vjp(lambda y: model(y).pow(2).sum(), start().detach())
    true = torch.autograd.grad(model(start()).pow(2).sum(), list(model.parameters()))
    assert apart(torch.autograd.grad(value, list(model.parameters())), true) < 1e-12


def test_states_of_parts(model, values, start, apart):
    """A tuple is taken as well."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model.field

        def forward(self, t, y):
            return self.inner(t, y[0]) * y[1], -y[1]

    def loss(y):
        ys = model.solving[0](Two(), (y, y.square()[:, :1]), TIMES)
        return ys[0][-1].pow(2).sum() + ys[1][-1].sum()

    y0 = start()
    assert apart([grad(loss)(y0.detach())], torch.autograd.grad(loss(y0), [y0])) < 1e-12


def test_a_closure_over_what_a_transform_has_wrapped(solving, net, start):
    """Outside of the transform it would count as a constant: naive alone sees it, the others refuse, late or not."""
    inner, y0 = net(), start().detach()

    def loss(scale, begin):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = inner

            def forward(self, t, y):
                return self.inner(t, y) * (scale if float(t) >= begin else 1.0)

        return solving(Scaled(), y0).pow(2).sum()

    scale = torch.tensor(1.3, dtype=torch.float64)
    for begin in (0.0, 0.8):
        if solving.method.traits.state_from == "graph":
            leaf = scale.clone().requires_grad_()
            (true,) = torch.autograd.grad(loss(leaf, begin), leaf)
            torch.testing.assert_close(grad(loss)(scale, begin), true)
        else:
            with pytest.raises(UsageError, match=r"under torch\.func .* closure"):
                grad(loss)(scale, begin)


def test_a_batch_of_solves_is_refused(model, values, start):
    """Step control reads numbers, which a batch has not: of states, and of parameters."""
    y0 = start().detach()
    with pytest.raises(UnsupportedError, match=r"cannot be batched by torch\.func's vmap.*per_sample"):
        vmap(model)(y0)
    many = {name: torch.stack([x, 2 * x]) for name, x in values.items()}
    with pytest.raises(UnsupportedError, match=r"cannot be batched by torch\.func's vmap"):
        vmap(lambda p: functional_call(model, p, (y0,)))(many)


def _pushed_by_dual_numbers(f, y, v):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(y, v))).tangent


FORWARD = {
    "jvp": lambda f, y, v: jvp(f, (y,), (v,))[1],
    "jvp without a graph": lambda f, y, v: torch.no_grad()(jvp)(f, (y,), (v,))[1],
    "jacfwd": lambda f, y, v: torch.tensordot(jacfwd(f)(y), v, 2),
    "dual numbers": _pushed_by_dual_numbers,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # PyTorch's own, of its forward derivatives
@pytest.mark.parametrize("way", sorted(FORWARD))
def test_forward_derivatives(model, values, start, way):
    """By start and parameters they are naive's, operation by operation; the others say so."""
    y, v = start().detach(), torch.linspace(0.5, 2.0, 12, dtype=torch.float64).reshape(4, 3)
    weight = values["field.first.weight"]

    def of(z):
        moved = {**values, "field.first.weight": weight + 0.1 * z[:2].reshape(6, 1)}
        return functional_call(model, moved, (z,))

    if model.solving[0].method.traits.state_from == "graph":
        true = torch.tensordot(torch.autograd.functional.jacobian(of, y), v, 2)
        torch.testing.assert_close(FORWARD[way](of, y, v), true, rtol=1e-12, atol=1e-12)
        return
    with pytest.raises(UnsupportedError, match=r"no forward derivatives .*'naive'"):
        FORWARD[way](of, y, v)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize(
    ("solver", "options"),
    [("dopri5", {"outputs": "dense"}), ("alf", {}), ("euler", {"num_steps": 3})],
    ids=["dense outputs", "leapfrog", "euler"],
)
def test_hessians_of_naive(net, start, solver, options):
    """Forward over backward, as ``torch.func.hessian`` takes it, is autograd's double backward."""
    made = make_solver(solver, **({"rtol": 1e-4, "atol": 1e-4} | options if solver != "euler" else options))

    field, y = net(), start().detach()

    def loss(z):
        return Naive()(field, made, z, TIMES).pow(2).sum()

    torch.testing.assert_close(hessian(loss)(y), torch.autograd.functional.hessian(loss, y), rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("way", ["jvp", "jacfwd", "dual numbers"])
def test_forward_derivatives_by_times_are_refused(net, start, way):
    """They would be lost: the steps take times as numbers."""
    solver, field, y0 = make_solver("rk4", num_steps=4), net(), start().detach()
    forward = {**FORWARD, "jacfwd": lambda f, y, _v: jacfwd(f)(y)}[way]
    with pytest.raises(UnsupportedError, match=r"forward derivatives .* by output times and times .* not offered"):
        forward(lambda t: Naive()(field, solver, y0, t), TIMES, torch.ones_like(TIMES))


def test_second_derivatives(model, values, start, apart):
    """They are naive's; the others say so, whether the outer derivative is a transform's or autograd's."""
    y0 = start()

    def slope(y):
        return grad(lambda z: functional_call(model, values, (z,)).pow(2).sum())(y).pow(2).sum()

    if model.solving[0].method.traits.state_from == "graph":
        (inner,) = torch.autograd.grad(model(y0).pow(2).sum(), y0, create_graph=True)
        true = torch.autograd.grad(inner.pow(2).sum(), [y0])
        assert apart([grad(slope)(y0.detach())], true) < 1e-12
        return
    with pytest.raises(UnsupportedError, match="second derivative"):
        grad(slope)(y0.detach())
    with pytest.raises(UnsupportedError, match="second derivative"):
        torch.autograd.grad(slope(y0), y0)


def test_a_function_under_naive(net, start, apart):
    """Its graph is one that transforms can walk: what a function closes over is found as well."""
    field = net()
    values, y0 = {name: p.detach() for name, p in field.named_parameters()}, start().detach()

    def loss(p):
        solver = make_solver("dopri5", rtol=1e-5, atol=1e-5)
        return Naive()(lambda t, y: functional_call(field, p, (t, y)), solver, y0, TIMES).pow(2).sum()

    leaves = {name: x.clone().requires_grad_() for name, x in values.items()}
    true = torch.autograd.grad(loss(leaves), list(leaves.values()))
    assert apart(list(grad(loss)(values).values()), true) < 1e-12


@pytest.mark.parametrize("method", [Naive(), Anode()], ids=["naive", "anode"])
def test_implicit_steps(method, net, start, apart):
    """Their pull-back is a node of its own, which calls the field again."""
    model = _Model(lambda f, y, t: method(f, make_solver("kencarp4", rtol=1e-4, atol=1e-4), y, t), net())
    values = {name: p.detach() for name, p in model.named_parameters()}
    y0 = start().detach()
    found = grad(lambda p: _loss(model, p, y0, TIMES))(values)
    leaves = {name: x.clone().requires_grad_() for name, x in values.items()}
    true = torch.autograd.grad(_loss(model, leaves, y0, TIMES), list(leaves.values()))
    assert apart(list(found.values()), true) < 1e-12


def test_a_field_that_transforms_by_itself(solving, net, start):
    """It is right outside of a transform; inside of another one naive alone can tell the two apart."""

    class Divergence(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, t, y):
            _, pull = vjp(lambda z: self.inner(t, z), y)
            return self.inner(t, y) + pull(torch.ones_like(y))[0]

    field = Divergence()
    if solving.method.traits.state_from == "graph":
        assert torch.isfinite(grad(lambda y: solving(field, y).sum())(start().detach())).all()
    else:
        with pytest.raises(UnsupportedError, match=r"uses torch\.func itself"):
            grad(lambda y: solving(field, y).sum())(start().detach())
