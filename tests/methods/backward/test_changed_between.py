"""What happens to a field between the forward and the backward pass: naive's gradient, or an error that names it."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from odegrad.errors import UsageError


def _gradients(solving, field, y0, between, trained):
    loss = solving(field, y0).pow(2).sum()
    between(field)
    return torch.autograd.grad(loss, trained, allow_unused=True)


def _multiply(field):
    with torch.no_grad():
        field.first.weight.mul_(-2.0)


def test_parameters_changed_in_place_raise_as_in_any_graph(solving, net, start):
    """An optimizer's step between the passes: autograd's own error, since the old values are gone."""
    field, y0 = net(), start()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        _gradients(solving, field, y0, _multiply, [y0])


def test_weights_loaded_in_place_raise(solving, net, start):
    """``load_state_dict`` copies into the parameters."""
    field, y0 = net(), start()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        _gradients(solving, field, y0, lambda f: f.load_state_dict({k: 2 * v for k, v in f.state_dict().items()}), [y0])


def test_numbers_exchanged_under_a_parameter_are_refused(solving, net, start):
    """``.data =`` hides from autograd's versions."""
    field, y0 = net(), start()

    def exchange(f):
        f.first.weight.data = f.first.weight.data * -2.0

    if solving.calls_again:
        with pytest.raises(UsageError, match=r"'first.weight' were exchanged"):
            _gradients(solving, field, y0, exchange, [y0])


def _assign(field):
    field.first.weight = nn.Parameter(-2.0 * field.first.weight.detach())


def _load(field):
    field.load_state_dict({k: 2 * v for k, v in field.state_dict().items()}, assign=True)


def _replace_layer(field):
    field.first = nn.Linear(3, 6).double()


def _rescale(field):
    field.scale = 3.0


def _swap_context(field):
    field.context = -field.context


def _swap_in_a_list(field):
    field.several[0] = -field.several[0]


def _swap_buffer(field):
    field.probe = -field.probe


def _evaluate(field):
    field.eval()


def _hook_a_forward(field):
    field.first.register_forward_hook(lambda _m, _given, out: 2 * out)


def _hook_before_a_forward(field):
    field.last.register_forward_pre_hook(lambda _m, given: (2 * given[0],))


def _unhook(field):
    field.hook.remove()


def _another_class(field):
    class Louder(nn.Linear):
        def forward(self, x):
            return 3 * super().forward(x)

    field.last.__class__ = Louder


class _Everything(nn.Module):
    """A net with a scale, a context, a list, a buffer and a mode."""

    def __init__(self, inner):
        super().__init__()
        self.first, self.last, self.scale = inner.first, inner.last, 0.7
        self.context = torch.full((6,), 0.5, dtype=torch.float64)
        self.several = [torch.full((3,), 0.1, dtype=torch.float64)]
        self.register_buffer("probe", torch.full((3,), 0.2, dtype=torch.float64))
        self.calls = 0
        self.hook = self.last.register_forward_hook(lambda _m, _given, out: 0.9 * out)

    def forward(self, t, y):
        self.calls += 1
        dy = self.last(torch.tanh(self.first(y) + self.context)) * self.scale + self.several[0] + self.probe
        return dy * (1.5 if self.training else 1.0)


CHANGES = [_assign, _load, _replace_layer, _rescale, _swap_context, _swap_in_a_list, _swap_buffer, _evaluate]
CHANGES += [_hook_a_forward, _hook_before_a_forward, _unhook, _another_class]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__.strip("_"))
def test_what_is_replaced_is_put_back_for_the_backward_pass(solving, change, net, start, apart):
    """The gradient is naive's, and behind it the field is as the caller left it."""
    field, y0 = _Everything(net()), start()
    trained = [y0, *field.parameters()]
    found = _gradients(solving, field, y0, change, trained)
    twin, y1 = _Everything(net()), start()
    weight = field.first.weight
    true = _gradients(solving.naive(), twin, y1, change, [y1, *twin.parameters()])
    assert apart(found, true) < solving.near
    for name in ("scale", "training", "context", "probe"):
        assert torch.equal(torch.as_tensor(getattr(field, name)), torch.as_tensor(getattr(twin, name)))
    assert torch.equal(field.several[0], twin.several[0])
    for layer, same in ((field.first, twin.first), (field.last, twin.last)):
        assert type(layer).__name__ == type(same).__name__
        assert len(layer._forward_hooks) == len(same._forward_hooks)
        assert len(layer._forward_pre_hooks) == len(same._forward_pre_hooks)
    assert (weight is trained[1]) == (change not in (_assign, _load, _replace_layer))


def test_a_layer_frozen_before_the_backward_pass(solving, net, start, apart):
    """It gets no gradient any more, as with naive; the others get theirs."""

    def gradients(solve):
        field, y0 = net(), start()
        loss = solve(field, y0).pow(2).sum()
        field.first.requires_grad_(False)
        loss.backward()
        assert not field.first.weight.requires_grad
        assert field.first.weight.grad is None
        return [y0.grad, *(p.grad for p in field.last.parameters())]

    assert apart(gradients(solving), gradients(solving.naive())) < solving.near


def test_one_field_with_another_context_for_each_solve(solving, net, start, apart):
    """Two solves before one backward pass, the context swapped between them."""

    def gradients(solve):
        field, y0 = _Everything(net()), start()
        loss = solve(field, y0).pow(2).sum()
        field.context = torch.full((6,), -1.0, dtype=torch.float64)
        loss = loss + solve(field, y0)[-1].sum()
        return torch.autograd.grad(loss, [y0, *field.parameters()])

    assert apart(gradients(solving), gradients(solving.naive())) < solving.near


@pytest.mark.parametrize("computed", [False, True], ids=["leaves", "computed"])
def test_parameters_swapped_for_a_call(solving, computed, net, start, apart):
    """MAML: adapted weights through ``functional_call`` are gone by the backward pass, and get their gradients."""

    class Model(nn.Module):
        def __init__(self, solve):
            super().__init__()
            self.field, self.solve = net(), solve

        def forward(self, y):
            return self.solve(self.field, y)

    def gradients(solve):
        model, y0 = Model(solve), start()
        leaves = {k: (1.5 * v.detach()).requires_grad_() for k, v in model.named_parameters()}
        adapted = {k: v.exp() * 0.2 for k, v in leaves.items()} if computed else leaves
        loss = functional_call(model, adapted, (y0,)).pow(2).sum()
        return torch.autograd.grad(loss, [y0, *leaves.values()])

    assert apart(gradients(solving), gradients(solving.naive())) < solving.near


@pytest.mark.parametrize("name", ["probe", "context", "frozen"])
def test_what_is_overwritten_is_refused_by_its_name(solving, name, net, start):
    """The old numbers of a buffer, an attribute and a frozen parameter are gone."""
    field, y0 = _Everything(net()), start()
    field.first.bias.requires_grad_(False)
    tensor = {"probe": field.probe, "context": field.context, "frozen": field.first.bias}[name]
    loss = solving(field, y0).pow(2).sum()
    tensor.data.mul_(1.0)
    torch._C._autograd._unsafe_set_version_counter((tensor,), (tensor._version + 1,))
    if solving.calls_again:
        said = {"probe": "'probe'", "context": "'context'", "frozen": r"'first\.bias'"}[name]
        with pytest.raises(UsageError, match=f"{said} was changed in place"):
            torch.autograd.grad(loss, y0)


def test_a_cache_that_the_field_fills_itself_is_its_own(solving, net, start, apart):
    """A probe drawn at the first call of a batch, and dropped before the next: the backward pass sees the first one."""

    class Probed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.probe = net(), None

        def forward(self, t, y):
            if self.probe is None:
                self.probe = torch.randn_like(y)
            return self.inner(t, y) * self.probe

    def gradients(solve):
        torch.manual_seed(5)
        field, y0 = Probed(), start()
        loss = solve(field, y0).pow(2).sum()
        field.probe = None
        return torch.autograd.grad(loss, [y0, *field.parameters()])

    assert apart(gradients(solving), gradients(solving.naive())) < solving.near


def test_counters_of_the_field_count_on(solving, net, start):
    """A number that the field writes itself is not put back: calls of the backward pass are seen in it."""
    field, y0 = _Everything(net()), start()
    loss = solving(field, y0).pow(2).sum()
    field.calls = 0
    torch.autograd.grad(loss, y0)
    assert (field.calls > 0) == solving.calls_again


def test_statistics_at_rest_that_another_forward_moves_are_refused(solving, start):
    """Batch normalisation in evaluation mode, then trained for a batch: versions do not tell, the numbers do."""

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3).double()

        def forward(self, t, y):
            return torch.tanh(self.norm(y))

    field, y0 = Normed().eval(), start()
    loss = solving(field, y0).pow(2).sum()
    field.train()(torch.tensor(0.0), torch.randn(4, 3).double())
    if solving.calls_again:
        with pytest.raises(UsageError, match=r"'norm\.\w+' was changed in place"):
            torch.autograd.grad(loss, y0)
