"""What a solve cannot do is said in a sentence with a way out, before a number comes of it."""

import pytest
import torch
from torch import nn

import odegrad
from odegrad.errors import UnsupportedError, UsageError

TIMES = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)


class _Clamping(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, t, y):
        return -self.rate * y.clamp_(max=0.9)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_field_that_writes_into_its_state_is_refused_without_a_graph(solving, parts):
    """It would change y0 and every stage behind."""

    class Both(_Clamping):
        def forward(self, t, y):
            return super().forward(t, y) if parts == 1 else (y[0] * 0, super().forward(t, y[1]))

    y0 = torch.ones(3, 2, dtype=torch.float64)
    with torch.no_grad(), pytest.raises(UsageError, match=r"writes into the state.*y = y\.clone\(\)"):
        solving(Both(), y0 if parts == 1 else (y0.clone(), y0), TIMES)


def test_a_field_that_writes_into_its_state_is_right_in_inference_mode(solving):
    """Inference tensors have no versions: the field gets a state of its own."""
    with torch.inference_mode():
        y0 = torch.ones(3, 2, dtype=torch.float64)
        found = solving(_Clamping(), y0, TIMES)

    class Copying(_Clamping):
        def forward(self, t, y):
            return super().forward(t, y.clone())

    with torch.no_grad():
        assert torch.equal(found, solving(Copying(), torch.ones(3, 2, dtype=torch.float64), TIMES))


@pytest.mark.parametrize("name", ["callback_step_adjoint", "callback_reject_step_adjoint"])
def test_callbacks_of_torchdiffeqs_backward_solve_are_refused(solving, name, net, start):
    """Nobody would call them."""
    field = net()
    setattr(field, name, lambda t, y, h: None)
    with pytest.raises(UnsupportedError, match=f"{name} is a callback .* observer"):
        solving(field, start())


def test_lazy_layers_are_called_once_before(solving, start, apart):
    """Their parameters have no shape before, so a method cannot give them gradients; naive can."""

    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LazyLinear(3, dtype=torch.float64)

        def forward(self, t, y):
            return torch.tanh(self.layer(y))

    if solving.method.traits.state_from != "graph":
        with pytest.raises(UsageError, match=r"lazy layer .* field\(t0, y0\)"):
            solving(Lazy(), start())

    def gradients(solve):
        torch.manual_seed(0)
        field, y0 = Lazy(), start()
        field(torch.tensor(0.0), y0.detach())
        return torch.autograd.grad(solve(field, y0).pow(2).sum(), [y0, *field.parameters()])

    assert apart(gradients(solving), gradients(solving.naive())) < solving.near


def test_the_result_may_be_scaled_in_place(solving, net, start, apart):
    """Right where nothing of the result is needed, otherwise autograd's own error."""

    def gradients(solve):
        field, y0 = net(), start()
        ys = solve(field, y0)
        ys.mul_(2.0)
        return torch.autograd.grad(ys.pow(2).sum(), [y0, *field.parameters()])

    if solving.method.traits.state_from == "solve":  # it keeps the result itself, from which it solves back
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            gradients(solving)
    else:
        assert apart(gradients(solving), gradients(solving.naive())) < solving.near


def test_a_second_backward_pass_needs_the_graph(solving, net, start):
    """Without ``retain_graph`` PyTorch's own error, with it the same gradient again."""
    y0 = start()
    loss = solving(net(), y0).pow(2).sum()
    first = torch.autograd.grad(loss, y0, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, y0)[0])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, y0)


def test_options_of_torchdiffeq_are_answered():
    """What asks for what is so anyway is taken; of others it is said what to do."""
    y0, rate = torch.ones(2, dtype=torch.float64), lambda t, y: -y
    with pytest.raises(UnsupportedError, match=r"'grid_points' .* give an observer"):
        odegrad.odeint(rate, y0, TIMES, options={"grid_points": [0.5]})
    with pytest.raises(UnsupportedError, match="dtype: times and step sizes are float64"):
        odegrad.odeint(rate, y0, TIMES, options={"dtype": torch.float32})
    plain = odegrad.odeint(rate, y0, TIMES)
    for options in ({"dtype": torch.float64}, {"interp": "cubic"}, {"perturb": False}, {"min_step": 0}):
        assert torch.equal(odegrad.odeint(rate, y0, TIMES, options=options), plain)
    torch.testing.assert_close(
        odegrad.odeint(rate, y0, TIMES, options={"max_step": 0.1})[-1], torch.exp(-y0), rtol=1e-6, atol=1e-6
    )


def test_a_method_of_a_module_is_a_field(net, start, apart):
    """Its module's parameters are trained."""

    def gradients(gradient):
        module, y0 = net(), start()
        ys = odegrad.odeint(module.forward, y0, TIMES, gradient=gradient)
        return torch.autograd.grad(ys.pow(2).sum(), [y0, *module.parameters()])

    assert apart(gradients("aca"), gradients("naive")) < 1e-9
