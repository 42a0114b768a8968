"""What stands around a low field: each kind of field, solve and caller works, or is refused in a sentence."""

from functools import partial

import pytest
import torch
from torch import nn

from odegrad import odeint, odeint_adjoint, odeint_event
from odegrad.errors import NonFiniteError, UnsupportedError, UsageError
from odegrad.methods.fields.precision import PRECISIONS
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

TIMES = torch.tensor([0.0, 0.4, 1.0])
SOLVES = {
    "per sample": {"batch": "per_sample"},
    "jump": {"jump_t": [0.5]},
    "norm": {"norm": lambda y: y.abs().amax()},
}


def _odeint(field, y0, t=TIMES, precision="bfloat16", gradient="aca", **options):
    return odeint(field, y0, t, rtol=1e-2, atol=1e-2, gradient=gradient, options={"precision": precision, **options})


def _gradient(field, y0, ys):
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(ys[-1].pow(2).sum(), [y0, *field.parameters()])])


@pytest.mark.parametrize("options", SOLVES.values(), ids=SOLVES)
@pytest.mark.parametrize("gradient", ["naive", "aca", "adjoint"])
def test_other_solves_take_a_low_field(options, gradient, precision, tools):
    """As near to the high field as its rounding is, and not nearer."""
    found = {}
    for low in ("", precision):
        field, y0 = tools.Net(), tools.start()
        field.sample_time = True
        found[low] = _gradient(field, y0, _odeint(field, y0, precision=low, gradient=gradient, **options))
    assert 0.0 < tools.off(found[precision], found[""]) < 3.0 * tools.ROUNDOFF[precision]


@pytest.mark.parametrize("gradient", ["naive", "aca", "adjoint"])
def test_events_and_their_times_have_gradients(gradient, precision, tools):
    """The time of a crossing depends on start and weights as in float32, to rounding."""
    found = {}
    for low in ("", precision):
        field, y0 = tools.Net(), tools.start()
        time, ys = odeint_event(
            field, y0, torch.tensor(0.0), event_fn=lambda t, y: y[0, 0] + 0.95 + 0.2 * t, rtol=1e-2, atol=1e-2,
            gradient=gradient, options={"precision": low},
        )  # fmt: skip
        grads = torch.autograd.grad(time + ys[-1].sum(), [y0, *field.parameters()])
        found[low] = torch.cat([time.detach().reshape(1), *(g.reshape(-1) for g in grads)])
    assert 0.0 < tools.off(found[precision], found[""]) < 10.0 * tools.ROUNDOFF[precision]


@pytest.mark.parametrize("gradient", ["naive", "aca"])
def test_resets_and_times_have_gradients(gradient, precision, tools):
    """A field is lent to each of several solves, and f at the outputs is low too."""
    found = {}
    for low in ("", precision):
        field, y0 = tools.Net(), tools.start()
        t, at = TIMES.clone().requires_grad_(), torch.tensor(0.5, requires_grad=True)
        ys = odeint(
            field, y0, t, method="rk4", options={"precision": low, "num_steps": 4}, gradient=gradient,
            jumps=[(at, lambda t, y: y * (1.0 - t))],
        )  # fmt: skip
        found[low] = torch.cat(
            [g.reshape(-1) for g in torch.autograd.grad(ys[-1].pow(2).sum(), [t, at, y0, *field.parameters()])]
        )
    assert 0.0 < tools.off(found[precision], found[""]) < 3.0 * tools.ROUNDOFF[precision]


class _Context(nn.Module):
    """A net plus a context that may have been computed before the solve, in a tuple and in a buffer."""

    def __init__(self, inner, context):
        super().__init__()
        self.inner, self.held = inner, (None, context)
        self.register_buffer("table", torch.tensor([0.3, 0.1, -0.2, 0.4]))

    def forward(self, t, y):
        return self.inner(t, y) + self.held[1] * self.table * torch.sin(t)


def test_attributes_and_buffers_are_lent_too(low, tools):
    """A trained context, computed before the solve, has its gradient, and naive's."""

    def pulled(solve):
        leaf, y0 = torch.tensor([0.5, -0.5, 0.2, 0.1], requires_grad=True), tools.start()
        ys = solve(_Context(tools.Net(), torch.tanh(leaf)), y0, TIMES)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(ys.pow(2).sum(), [leaf, y0])])

    near = 1e-6 if low.method.traits.state_from in ("graph", "replay") else 2.0 * tools.ROUNDOFF[low.precision]
    assert tools.off(pulled(low), pulled(low.naive())) <= near


class _Normalised(nn.Module):
    """Batch normalisation, weight normalisation and layer normalisation before a net."""

    def __init__(self, inner):
        super().__init__()
        self.batch, self.layer, self.inner = nn.BatchNorm1d(4), nn.LayerNorm(4), inner
        nn.utils.parametrizations.weight_norm(inner.first)

    def forward(self, t, y):
        return self.inner(t, self.layer(self.batch(y)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gradient", ["naive", "aca", "symplectic_adjoint"])
def test_normalised_fields(gradient, training, precision, tools):
    """Running statistics stay float32 and move as they do; parametrized weights are computed low."""
    found = {}
    for low in ("", precision):
        field = _Normalised(tools.Net()).train(training)
        y0 = torch.randn(8, 4, generator=torch.Generator().manual_seed(3)).requires_grad_()
        ys = odeint(field, y0, TIMES, method="rk4", gradient=gradient, options={"precision": low, "num_steps": 2})
        found[low] = torch.cat([_gradient(field, y0, ys), field.batch.running_mean])
        assert field.batch.running_mean.dtype == torch.float32
    # A normalisation divides what the rounding of its input is of by a small spread.
    assert 0.0 < tools.off(found[precision], found[""]) < 20.0 * tools.ROUNDOFF[precision]


def test_second_derivatives_in_bfloat16(tools):
    """By naive alone, of start and weights; the graph may be gone back through again."""
    found = {}
    for low in ("", "bfloat16"):
        field, y0 = tools.Net(), tools.start()
        ys = odeint(field, y0, TIMES, method="rk4", options={"precision": low, "num_steps": 2})
        (first,) = torch.autograd.grad(ys[-1].pow(2).sum(), y0, create_graph=True)
        grads = torch.autograd.grad(first.pow(2).sum(), [y0, *field.parameters()])
        found[low] = torch.cat([g.reshape(-1) for g in grads])
    assert 0.0 < tools.off(found["bfloat16"], found[""]) < 2.0 * tools.ROUNDOFF["bfloat16"]


def test_second_derivatives_in_float16_are_refused(tools):
    """They would underflow in silence."""
    y0 = tools.start()
    ys = odeint(tools.Net(), y0, TIMES, method="rk4", options={"precision": "float16", "num_steps": 2})
    with pytest.raises(UnsupportedError, match=r"second derivative.*bfloat16"):
        torch.autograd.grad(ys.pow(2).sum(), y0, create_graph=True)


def test_a_graph_is_gone_back_through_once_unless_it_is_retained(precision, tools):
    """As PyTorch has it."""
    y0 = tools.start()
    loss = odeint(tools.Net(), y0, TIMES, method="rk4", options={"precision": precision, "num_steps": 2}).sum()
    (first,) = torch.autograd.grad(loss, y0, retain_graph=True)
    (second,) = torch.autograd.grad(loss, y0)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, y0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of PyTorch's own forward mode
@pytest.mark.parametrize("gradient", ["naive", "aca"])
def test_inside_of_torch_func(gradient, precision, tools):
    """Grad and jacrev are autograd's; forward mode is refused, for naive as well."""
    field = tools.Net()

    def end(y):
        return odeint(field, y, TIMES, method="rk4", options={"precision": precision, "num_steps": 2},
                      gradient=gradient)[-1]  # fmt: skip

    y0 = tools.start()
    (true,) = torch.autograd.grad(end(y0).pow(2).sum(), y0)
    assert torch.equal(torch.func.grad(lambda y: end(y).pow(2).sum())(y0.detach()), true)
    rows = torch.func.jacrev(lambda y: end(y).sum(0))(y0.detach())
    (first,) = torch.autograd.grad(end(y0).sum(0)[0], y0)
    assert tools.off(rows[0].detach(), first) <= 1e-6
    with pytest.raises(UnsupportedError, match=r"forward derivatives.*without precision"):
        torch.func.jvp(end, (y0.detach(),), (y0.detach(),))


def test_no_graph_is_made_where_none_is_wanted(precision, tools):
    """Under no_grad and in inference mode."""
    field, y0 = tools.Net(), tools.start().detach()
    true = _odeint(field, y0, precision=precision).detach()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert torch.equal(_odeint(field, y0, precision=precision), true)


class _Makes(nn.Module):
    """A field that makes a number of its own in float32."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("calls", torch.zeros(4))

    def forward(self, t, y):
        return self.inner(t, y) @ torch.eye(4)


class _Writes(_Makes):
    def forward(self, t, y):
        self.calls.add_(1.0)
        return self.inner(t, y)


class _Overflows(_Makes):
    def forward(self, t, y):
        return self.inner(t, y) * 1e6


WEIGHT = torch.ones(4, requires_grad=True)


class _Closure(_Makes):
    def forward(self, t, y):
        return self.inner(t, y) * WEIGHT.to(y.dtype)


def test_what_does_not_go_is_refused_in_a_sentence(tools):
    """Names, types of states, solvers, functions, fields: what was expected, what came, what to do."""
    net, y0 = tools.Net(), tools.start()
    assert ("", *tools.ROUNDOFF) == PRECISIONS
    for given, options, kind, said in (
        (net, {"precision": "bf16"}, UsageError, r"expected 'bfloat16' or 'float16'.*'bf16'"),
        (net, {"precision": torch.bfloat16}, UsageError, r"expected 'bfloat16' or 'float16'"),
        (net, {"compile": True}, UsageError, "compile or precision"),
        (net, {"sees": "tangent"}, UsageError, "sees: .*or precision"),
        (partial(net), {}, UsageError, r"nn.Module.*got partial; wrap"),
        (_Makes(net), {}, UsageError, r"two types.*dtype=y.dtype"),
        (_Writes(net), {}, UsageError, r"writes in place into the tensor 'calls', .*leave precision out"),
        (_Closure(net), {}, UsageError, r"reached through a closure"),
        (_Overflows(net), {"precision": "float16"}, NonFiniteError, r"bfloat16.*overflows at 65504"),
    ):
        with pytest.raises(kind, match=said):
            _odeint(given, y0, **{"precision": "bfloat16", **options})
    for state in (y0.bfloat16(), y0.half()):
        with pytest.raises(UsageError, match=r"y0: expected float32 or float64 .*call y0.float\(\)"):
            odeint(net, state, TIMES, method="rk4", options={"precision": "bfloat16"})
    with pytest.raises(UsageError, match=r"y0: expected floating-point states"):
        _odeint(net, torch.ones(8, 4, dtype=torch.int64))


def test_what_computes_in_the_states_type_is_refused(tools):
    """Implicit solvers, forward sensitivities, other libraries: by the method, before the solve."""
    net, y0 = tools.Net(), tools.start()
    for name in ("kencarp4", "rodas5p", "kencarp4_imex", "auto_stiff"):
        solver = make_solver(name, rtol=1e-2, atol=1e-2, precision="float16")
        assert "use an explicit solver" in build_gradient("aca").refuses(solver)
    for name in ("forward_sensitivity", "torchdiffeq_naive"):
        assert "leave" in build_gradient(name).refuses(make_solver("dopri5", precision="float16"))
    for call in (
        lambda: odeint(net, y0, TIMES, method="implicit_adams", options={"precision": "float16"}, rtol=1e-2, atol=1e-2),
        lambda: odeint_adjoint(net, y0, TIMES, adjoint_options={"precision": "float16"}, rtol=1e-2, atol=1e-2),
    ):
        with pytest.raises(UnsupportedError, match="precision"):
            call()
    with pytest.raises(UsageError, match=r"nn.Module.*got function"):
        odeint_adjoint(
            lambda t, y: y * WEIGHT, y0, TIMES, rtol=1e-2, atol=1e-2, options={"precision": "float16"},
            adjoint_params=(WEIGHT,),
        )  # fmt: skip


def test_a_field_that_returns_low_numbers_is_told_of_the_option(tools):
    """The message names it."""

    class Half(_Makes):
        def forward(self, t, y):
            return self.inner(t, y).bfloat16()

    with pytest.raises(UsageError, match=r"option precision = 'bfloat16'"):
        _odeint(Half(tools.Net()), tools.start(), precision="", gradient="naive")


def test_a_field_that_casts_itself_is_left_to(precision, tools):
    """Its float32 inside of the low call, and its float32 result."""

    class Own(_Makes):
        def forward(self, t, y):
            return self.inner(t, y).float().tanh()

    class Plain(_Makes):
        def forward(self, t, y):
            return self.inner(t, y).tanh()

    y0 = tools.start()
    low, high = _odeint(Own(tools.Net()), y0, precision=precision), _odeint(Plain(tools.Net()), y0, precision="")
    assert 0.0 < tools.off(low[-1], high[-1]) < tools.ROUNDOFF[precision]
