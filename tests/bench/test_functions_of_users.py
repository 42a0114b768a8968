"""What a user hands in as a function, each fault as one sentence: argument, expected, got, next step."""

import math

import pytest
import torch
from torch import nn

import odegrad
from odegrad.checks.conformance import shared_loop_methods
from odegrad.errors import NonFiniteError, UnsupportedError, UsageError

DTYPE = torch.float64
Y0 = torch.ones(1, 2, dtype=DTYPE)
T = torch.tensor([0.0, 1.0], dtype=DTYPE)
START = torch.tensor(0.0, dtype=DTYPE)


def number(x, *, trained=False):
    return torch.tensor(x, dtype=DTYPE, requires_grad=trained)


class Decay(nn.Module):
    """``y' = -a b y``."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(number(1.0)), nn.Parameter(number(2.0))

    def forward(self, t, y):
        return -self.a * self.b * y


def half(t, y):
    return y[0, 0] - 0.5


def told(field, name, function):
    setattr(field, name, function)
    return field


def writes(t, y):
    y -= 0.5
    return y[0, 0]


def writes_time(t, y):
    t -= 0.5
    return t


NAN = float("nan")
HALF = number(0.5)

EVENTS = {
    "state only": (
        lambda y: y[0, 0],
        r"event_fn: expected a function of 2 arguments, .* got <lambda>\(y\)",
    ),
    "three": (lambda t, y, p: y[0, 0], r"called as event_fn\(t, y\), got <lambda>\(t, y, p\); let it take these"),
    "module": (nn.Linear(2, 1).double(), r"called as event_fn\(t, y\), got Linear\(input"),
    "in place": (writes, r"event_fn: it writes into the time or the state .* y = y\.clone\(\)"),
    "time in place": (writes_time, "event_fn: it writes into the time or the state"),
}


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("name", EVENTS)
def test_event_functions(name, graph):
    g, message = EVENTS[name]
    with torch.set_grad_enabled(graph), pytest.raises(UsageError, match=message):
        odegrad.odeint_event(Decay(), Y0, START, event_fn=g)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"jumps": [(0.5, lambda y: y)]},
            UsageError,
            r"jumps: expected a function of 2 .* got <lambda>\(y\)",
        ),
        (
            {"jumps": [(0.5, lambda _t, y: y * NAN)]},
            NonFiniteError,
            r"jumps: the reset at t = 0\.5 .* finite",
        ),
        ({"jumps": [(0.5, lambda _t, y: y / 0)], "method": "rk4"}, NonFiniteError, r"jumps: the reset at t = 0\.5"),
        (
            {"options": {"norm": lambda y: y.mean() * NAN}},
            NonFiniteError,
            "norm: expected a finite .* got nan of y0",
        ),
        ({"options": {"norm": lambda y: y}}, UsageError, r"norm: expected one number, got shape \(1, 2\)"),
        ({"options": {"norm": lambda _y: None}}, UsageError, "norm: expected one number, got NoneType; reduce"),
        (
            {"options": {"norm": lambda: 0.0}},
            UsageError,
            r"norm: expected a function of 1 argument, .* norm\(y\)",
        ),
    ],
    ids=lambda v: None if isinstance(v, type | dict) else v[:30],
)
def test_resets_and_norms(settings, error, message):
    with pytest.raises(error, match=message):
        odegrad.odeint(Decay(), Y0, T, **settings)


def test_a_norm_that_fails_on_the_way():
    """NaN of one error estimate is not the field's fault alone."""
    calls = []

    def norm(y):
        calls.append(None)
        return y.norm() * (NAN if len(calls) > 3 else 1.0)

    with pytest.raises(NonFiniteError, match="the field or the state, or their norm, is not finite just after t = 0"):
        odegrad.odeint(Decay(), Y0, T, options={"norm": norm})


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (lambda y: y, r"field: expected a function of 2 arguments, called as field\(t, y\), got <lambda>\(y\)"),
        (nn.Linear(2, 2).double(), r"called as field\(t, y\), got Linear\(input"),
        (
            told(Decay(), "callback_step", lambda _t, _y: None),
            "callback_step: expected a function of 3 arguments",
        ),
        (told(Decay(), "callback_accept_step", 3), r"callback_accept_step\(t, y, h\), got int"),
    ],
)
@pytest.mark.parametrize("gradient", ["naive", "adjoint"])
def test_fields(field, message, gradient):
    with pytest.raises(UsageError, match=message):
        odegrad.odeint(
            field, Y0, T, gradient=gradient, **({} if isinstance(field, nn.Module) else {"adjoint_params": ()})
        )


def test_errors_inside_of_a_function_stay_what_they_are():
    """A fault of its own is Python's to tell."""
    for call in (
        lambda: odegrad.odeint(lambda _t, y: y + None, Y0, T),
        lambda: odegrad.odeint_event(Decay(), Y0, START, event_fn=lambda _t, y: y[0, 0] + None),
        lambda: odegrad.odeint(Decay(), Y0, T, jumps=[(0.5, lambda _t, y: y + None)]),
    ):
        with pytest.raises(TypeError, match="unsupported operand"):
            call()


@pytest.mark.parametrize("name", [*shared_loop_methods(), "torchdiffeq_adjoint"])
def test_adjoint_params_of_a_function(name):
    """``y' = -w y`` of a function has its gradient -y0 e^-w by every method; a tensor that is not listed is refused."""
    w = number(0.5, trained=True)
    by = {"gradient": name, "method": "alf" if name == "mali" else "dopri5", "rtol": 1e-6, "atol": 1e-6}
    ys = odegrad.odeint(lambda _t, y: -w * y, Y0, T, adjoint_params=(w,), **by)
    (found,) = torch.autograd.grad(ys[-1].sum(), w)
    torch.testing.assert_close(found, number(-2 * math.exp(-0.5)), rtol=1e-3 if name == "mali" else 1e-5, atol=0.0)


@pytest.mark.parametrize("name", shared_loop_methods())
def test_adjoint_params_of_a_module(name):
    """Those of its parameters that are wanted alone have a gradient, as in torchdiffeq's ``odeint_adjoint``."""
    field = Decay()
    by = {"gradient": name, "method": "alf" if name == "mali" else "dopri5", "rtol": 1e-6, "atol": 1e-6}
    odegrad.odeint(field, Y0, T, adjoint_params=(field.a,), **by)[-1].sum().backward()
    # dL/da = -b y0 e^(-a b).
    torch.testing.assert_close(
        field.a.grad, number(-4 * math.exp(-2.0)), rtol=1e-2 if name == "mali" else 1e-4, atol=0.0
    )
    assert field.b.grad is None


def test_adjoint_params_reach_every_function():
    """``odeint_event`` hands them on: y e^(-w t) = 1/2 at ln 2 / w, by w -ln 2 / w^2."""
    w = number(0.5, trained=True)
    for more in ({"gradient": "aca"}, {"odeint_interface": odegrad.odeint_adjoint}):
        t, _ = odegrad.odeint_event(
            lambda _t, y: -w * y, Y0, START, event_fn=half, adjoint_params=(w,), rtol=1e-9, atol=1e-9, **more
        )
        torch.testing.assert_close(torch.autograd.grad(t, w)[0], number(-4 * math.log(2.0)), rtol=1e-7, atol=0.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (number(1.0), "adjoint_params: expected a sequence of tensors, got Tensor; put it into a tuple"),
        (3, "adjoint_params: expected a sequence of tensors, got int"),
        ([1.0], r"adjoint_params: expected tensors, got \['float'\]; give those"),
        ({"w": 1}, r"adjoint_params: expected tensors, got \['str'\]"),
    ],
)
@pytest.mark.parametrize("function", [odegrad.odeint, odegrad.odeint_adjoint])
def test_adjoint_params_that_are_none(function, given, message):
    with pytest.raises(UsageError, match=message):
        function(lambda _t, y: -y, Y0, T, adjoint_params=given)


@pytest.mark.parametrize("method", ["implicit_adams", "explicit_adams", "fixed_adams", "scipy_solver"])
def test_functions_without_adjoint_params_under_torchdiffeqs_own_solvers(method):
    """Torchdiffeq's own error spoke of its arguments alone."""
    with pytest.raises(UsageError, match=f"func: expected an nn.Module, .* with method {method} under"):
        odegrad.odeint_adjoint(lambda _t, y: -y, Y0, T, method=method)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # PyTorch's own, of its forward derivatives
@pytest.mark.parametrize("settings", [{"options": {"jump_t": [0.5]}}, {"jumps": [(0.5, lambda _t, y: y + 1)]}])
def test_forward_derivatives_over_jumps(settings):
    """Jvp by the state, as without them: d y(1) = e^(-2) dy0. Times were taken for what it is of."""

    def end(y):
        return odegrad.odeint(Decay(), y, T, rtol=1e-9, atol=1e-9, **settings)[-1]

    _, found = torch.func.jvp(end, (Y0,), (2 * Y0,))
    torch.testing.assert_close(found, 2 * Y0 * math.exp(-2.0), rtol=1e-7, atol=0.0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_forward_derivatives_by_the_time_of_a_jump_are_refused():
    """They would be zero."""
    with pytest.raises(UnsupportedError, match=r"t, jumps: forward derivatives .* are not offered"):
        torch.func.jvp(
            lambda tau: odegrad.odeint(Decay(), Y0, T, jumps=[(tau, lambda _t, y: y + 1)]),
            (number(0.5),),
            (number(1.0),),
        )


@pytest.mark.parametrize("trained", ["t", "tau", "t0"])
def test_second_derivatives_by_times(trained):
    """No method has them, so that the message must not send to ``naive``."""
    x, y0 = number(0.5, trained=True), Y0.clone().requires_grad_()
    if trained == "t":
        ys = odegrad.odeint(Decay(), y0, torch.stack([number(0.0), x]))
    elif trained == "tau":
        ys = odegrad.odeint(Decay(), y0, T, jumps=[(x, lambda _t, y: 2 * y**2)])
    else:
        _, ys = odegrad.odeint_event(Decay(), y0, x, event_fn=lambda t, _y: t - 1.0)
    (once,) = torch.autograd.grad(ys[-1].sum(), x, create_graph=True)
    with pytest.raises(UnsupportedError, match=r"no second derivative; (detach|solve to fixed) ") as raised:
        once.backward()
    assert "use gradient method" not in str(raised.value)


@pytest.mark.parametrize("given", [torch.tensor([1e-6, 1e-5]), (1e-6, 1e-5), "1e-6", True])
@pytest.mark.parametrize("name", ["adjoint_rtol", "adjoint_atol"])
def test_tolerances_of_the_backward_solve_are_numbers(name, given):
    with pytest.raises(UsageError, match=f"{name}: expected one number or None, got .*; give the least of them"):
        odegrad.odeint_adjoint(Decay(), Y0, T, **{name: given})


def test_a_tensor_of_one_number_is_a_tolerance_of_the_backward_solve():
    field = Decay()
    ys = odegrad.odeint_adjoint(field, Y0, T, adjoint_rtol=number(1e-6), adjoint_atol=number(1e-6))
    (found,) = torch.autograd.grad(ys[-1].sum(), field.a)
    torch.testing.assert_close(found, number(-4 * math.exp(-2.0)), rtol=1e-5, atol=0.0)
