"""``odegrad.odeint`` stands where ``torchdiffeq.odeint`` stood: same arguments, same solution."""

import math
import warnings

import pytest
import torch
import torchdiffeq
from torch import nn

import odegrad
from odegrad.errors import InaccurateGradientWarning, UnknownNameError, UnsupportedError, UsageError
from odegrad.registry import default_gradients


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3)).double()

    def forward(self, t, y):
        return self.layers(y) - 0.1 * t * y


Y0 = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
TIMES = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)


def loss_gradient(ys, field):
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad((ys[1:] ** 2).sum(), list(field.parameters()))])


@pytest.mark.parametrize("solver", [None, "dopri5", "bosh3", "dopri8", "tsit5"])
@pytest.mark.parametrize("t", [TIMES, TIMES.flip(0)], ids=["forward", "backward"])
def test_solution_and_gradient_are_torchdiffeqs(solver, t):
    """Both solve to 1e-9, each in its own way: they agree far below what either tolerance promises."""
    field = Field()
    found = odegrad.odeint(field, Y0, t, method=solver, rtol=1e-9, atol=1e-9)
    true = torchdiffeq.odeint(field, Y0, t, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found, true, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(loss_gradient(found, field), loss_gradient(true, field), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun2"])
def test_fixed_steps_are_torchdiffeqs_to_rounding(solver):
    """The same scheme on the same grid is the same arithmetic; torchdiffeq calls Heun's method heun2."""
    field, t = Field(), torch.linspace(0, 1, 5, dtype=torch.float64)
    found = odegrad.odeint(field, Y0, t, method={"heun2": "heun"}.get(solver, solver))
    torch.testing.assert_close(found, torchdiffeq.odeint(field, Y0, t, method=solver), rtol=1e-14, atol=1e-15)


def test_tap_of_snopt_watches_the_backward_pass():
    """``tap=optimizer.next_tap()`` feeds the optimizer and changes no gradient; a method without taps refuses."""
    field = Field()
    optimizer = odegrad.SNOpt(field, [field], lambda p: torch.optim.SGD(p, lr=0.1))
    plain = loss_gradient(odegrad.odeint(field, Y0, TIMES, gradient="aca"), field)
    tap = optimizer.next_tap()
    assert torch.equal(loss_gradient(odegrad.odeint(field, Y0, TIMES, gradient="aca", tap=tap), field), plain)
    for p in field.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert set(optimizer.bases) == {"layers.0", "layers.2"}
    with pytest.raises(UnsupportedError, match="gradient method torchdiffeq_naive offers no curvature samples"):
        odegrad.odeint(field, Y0, TIMES, gradient="torchdiffeq_naive", tap=tap)


def test_step_size_is_torchdiffeqs():
    """The option ``step_size`` divides the interval as it does there."""
    field, t = Field(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = odegrad.odeint(field, Y0, t, method="midpoint", options={"step_size": 0.1})
    true = torchdiffeq.odeint(field, Y0, t, method="midpoint", options={"step_size": 0.1})
    torch.testing.assert_close(found, true, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", [n for n in default_gradients() if n != "mali"])
def test_every_method_answers_to_the_call(name):
    """The gradient of any method is naive's to the tolerance."""
    field = Field()
    found = odegrad.odeint(field, Y0, TIMES, rtol=1e-9, atol=1e-10, gradient=name)
    true = odegrad.odeint(field, Y0, TIMES, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(loss_gradient(found, field), loss_gradient(true, field), rtol=1e-5, atol=1e-6)


def test_options_of_method_and_solver_reach_them():
    """One f call more than the floor of steps would be the sign of an option that is not heard."""
    field = Field()
    ys = odegrad.odeint(
        field, Y0, TIMES, gradient="interpolation", gradient_options={"num_nodes": 16}, rtol=1e-8, atol=1e-9,
        options={"first_step": 0.05, "ifactor": 5.0, "dfactor": 0.1, "max_num_steps": torch.tensor(500)},
    )  # fmt: skip
    true = torchdiffeq.odeint(field, Y0, TIMES, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss_gradient(ys, field), loss_gradient(true, field), rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="3 steps"):
        odegrad.odeint(field, Y0, TIMES, rtol=1e-9, atol=1e-10, options={"max_num_steps": 3})
    with pytest.raises(UsageError, match="num_knots"):
        odegrad.odeint(field, Y0, TIMES, gradient="interpolation", gradient_options={"num_knots": 16})


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"adjoint_rtol": 1e-8, "adjoint_atol": 1e-9},
        {"adjoint_method": "bosh3"},
        {"adjoint_options": {"norm": "seminorm"}},
        {"adjoint_method": "dopri8", "method": "dopri5"},
    ],
    ids=lambda v: ",".join(v) if isinstance(v, dict) else None,
)
def test_odeint_adjoint_takes_torchdiffeqs_arguments(arguments):
    """Replacing the import is enough; the gradient agrees within the tolerances."""
    field = Field()
    settings = {"rtol": 1e-9, "atol": 1e-10, **arguments}
    found = loss_gradient(odegrad.odeint_adjoint(field, Y0, TIMES, **settings), field)
    theirs = loss_gradient(torchdiffeq.odeint_adjoint(field, Y0, TIMES, **settings), field)
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-6)


def test_adjoint_method_is_the_backward_solver():
    """A backward solve by Euler's method, one step an interval, is that far off, and says so; forward stays exact."""
    field = Field()
    good = odegrad.odeint_adjoint(field, Y0, TIMES, rtol=1e-9, atol=1e-10)
    bad = odegrad.odeint_adjoint(field, Y0, TIMES, rtol=1e-9, atol=1e-10, adjoint_method="euler")
    assert torch.equal(good, bad)
    a = loss_gradient(good, field)
    with pytest.warns(InaccurateGradientWarning, match="the state that the backward pass used is off by 2.5e-02"):
        b = loss_gradient(bad, field)
    assert 1e-3 < float((a - b).norm() / a.norm()) < 1.0


def test_adjoint_params_name_what_a_function_depends_on():
    """A plain function of a tensor: y' = -k y, whose gradient in k is known."""
    k = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y0, t = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0.0, 2.0], dtype=torch.float64)
    ys = odegrad.odeint_adjoint(lambda _t, y: -k * y, y0, t, rtol=1e-10, atol=1e-12, adjoint_params=(k,))
    (found,) = torch.autograd.grad(ys[-1].sum(), k)
    assert math.isclose(float(found), -2.0 * math.exp(-1.4), rel_tol=1e-8)
    with pytest.raises(UsageError, match="adjoint_params: expected tensors, got"):
        odegrad.odeint_adjoint(lambda _t, y: -k * y, y0, t, adjoint_params=("k",))


def test_times_and_tuples():
    """Gradients of the times are the field's values there; a state may be a tuple."""
    field, t = Field(), TIMES.clone().requires_grad_()
    ys = odegrad.odeint(field, Y0, t, rtol=1e-10, atol=1e-11, gradient="adjoint")
    (found,) = torch.autograd.grad(ys[-1].sum(), t)
    torch.testing.assert_close(found[-1], field(t[-1], ys[-1]).sum(), rtol=1e-7, atol=1e-8)
    one, other = odegrad.odeint(lambda _t, y: (-y[0], y[1]), (Y0, Y0[:1]), TIMES, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(one[-1], Y0 * math.exp(-1.0), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(other[-1], Y0[:1] * math.e, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"options": {"grid_points": [0.5]}}, UnsupportedError, "'grid_points' of torchdiffeq is not an option here"),
        ({"options": {"perturb": True}}, UnsupportedError, "perturb: it is for fixed steps"),
        ({"options": {"stepsize": 1}}, UsageError, "unknown option 'stepsize'"),
        ({"rtol": (1e-3, 1e-4)}, UsageError, "rtol: expected a number, a tensor that broadcasts"),
        ({"rtol": -1.0}, UsageError, "rtol: expected a positive number"),
        ({"method": "dopri6"}, UnknownNameError, "unknown solver 'dopri6': did you mean"),
        ({"gradient": "adjont"}, UnknownNameError, "did you mean 'adjoint'"),
        ({"gradient": "mali"}, UsageError, "alf"),
    ],
    ids=lambda v: ",".join(v) if isinstance(v, dict) else None,
)
def test_wrong_arguments_are_refused(settings, error, message):
    """The message names the argument and what is expected."""
    with pytest.raises(error, match=message):
        odegrad.odeint(Field(), Y0, TIMES, **settings)


def test_wrong_adjoint_arguments_are_refused():
    """Unknown options of the backward solve, and a backward solver that there is not."""
    with pytest.raises(UsageError, match=r"adjoint_options: expected norm = 'seminorm', or a function .* got max"):
        odegrad.odeint_adjoint(Field(), Y0, TIMES, adjoint_options={"norm": "max"})
    with pytest.raises(UnknownNameError, match="solver of the backward solve"):
        odegrad.odeint_adjoint(Field(), Y0, TIMES, adjoint_method="dopri6")


def test_default_tolerances_warn_in_float32():
    """The default rtol is below what float32 holds; the call says so and still solves."""
    with pytest.warns(UserWarning, match="below what torch.float32 can hold"):
        odegrad.odeint(Field().float(), Y0.float(), TIMES.float())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odegrad.odeint(Field().float(), Y0.float(), TIMES.float(), rtol=1e-5, atol=1e-6)


class _Decay(nn.Module):
    sample_time = True

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t, y):
        return -self.rate * y


def test_events_and_jumps_refuse_samples_with_steps_of_their_own():
    """Rather than solve them jointly without a word."""
    y0, ts, own = torch.ones(3, 2, dtype=torch.float64), TIMES, {"batch": "per_sample"}
    assert odegrad.odeint(_Decay(), y0, ts, options=own).shape == (len(ts), 3, 2)
    with pytest.raises(UnsupportedError, match="would end each at a time of its own; use batch = 'joint'"):
        odegrad.odeint_event(_Decay(), y0, ts[0], event_fn=lambda _t, y: y[0, 0] - 0.5, options=own)
    with pytest.raises(UnsupportedError, match="do not end one where the field or the state jumps; use"):
        odegrad.odeint(_Decay(), y0, ts, options={**own, "jump_t": [0.5]})


def test_one_time_is_the_start():
    """As in torchdiffeq, for a tensor and a tuple."""
    y0, t = torch.arange(6.0).reshape(2, 3).requires_grad_(), torch.tensor([0.3])
    assert torch.equal(odegrad.odeint(lambda _t, y: -y, y0, t), y0[None])
    found = odegrad.odeint(lambda _t, y: (-y[0], -y[1]), (y0, 2 * y0), t)
    assert torch.equal(found[1], 2 * y0[None])
    assert torch.equal(torch.autograd.grad(found[1].sum(), y0)[0], torch.full((2, 3), 2.0))


@pytest.mark.parametrize("gradient", ["naive", "aca", "adjoint", "interpolation"])
def test_atol_may_be_zero(gradient):
    """A number that stays zero has an error of zero, and no ``0 / 0`` stops the solve."""
    rate = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        rate.weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, -2.0]]))

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = rate

        def forward(self, t, y):
            return self.rate(y)

    y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    ys = odegrad.odeint(Field(), y0, t, rtol=1e-8, atol=0.0, gradient=gradient)
    (slope,) = torch.autograd.grad(ys[-1].sum(), y0)
    torch.testing.assert_close(ys[-1], torch.exp(torch.tensor([[-1.0, -torch.inf]], dtype=torch.float64)))
    torch.testing.assert_close(slope, torch.exp(torch.tensor([[-1.0, -2.0]], dtype=torch.float64)), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("gradient", ["naive", "aca", "interpolation"])
def test_many_outputs_cost_no_steps(gradient):
    """They are read from the dense output, unless ``outputs`` says otherwise."""
    calls = []

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

        def forward(self, t, y):
            calls.append(1)
            return self.rate * y

    field, y0 = Field(), torch.ones(1, 1, dtype=torch.float64)
    counts = {}
    for outputs in (None, "dense", "step_ends"):
        options = {} if outputs is None else {"outputs": outputs}
        t = torch.linspace(0.0, 1.0, 201, dtype=torch.float64)
        calls.clear()
        ys = odegrad.odeint(field, y0, t, rtol=1e-6, atol=1e-8, options=options, gradient=gradient)
        counts[outputs] = len(calls)
        torch.testing.assert_close(ys[:, 0, 0], torch.exp(-t), rtol=1e-5, atol=1e-7)
    assert counts[None] == counts["dense"] < 80
    assert counts["step_ends"] >= 1200


def test_heun2_is_heun():
    """Another name of the same steps."""
    y0, t = torch.ones(1, 1), torch.linspace(0.0, 1.0, 5)
    ours = odegrad.odeint(lambda _t, y: -y, y0, t, method="heun2")
    torch.testing.assert_close(ours, torchdiffeq.odeint(lambda _t, y: -y, y0, t, method="heun2"))


def test_min_step_is_torchdiffeqs():
    """Steps that would be smaller are that large, and taken whatever their error."""
    y0, t = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    options, field = {"min_step": 0.125, "first_step": 0.125}, lambda _t, y: -3.0 * y
    found = {}
    for name, odeint in (("ours", odegrad.odeint), ("theirs", torchdiffeq.odeint)):
        found[name] = odeint(field, y0, t, rtol=1e-9, atol=1e-9, method="bosh3", options=options)
    # Eight steps of bosh3, whose stability function is the exponential series up to the third power.
    z = torch.tensor(-3.0 * 0.125, dtype=torch.float64)
    true = (1 + z + z**2 / 2 + z**3 / 6) ** 8
    torch.testing.assert_close(found["ours"][-1, 0, 0], true, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(found["theirs"][-1, 0, 0], true, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("dopri5", {"min_step": -1.0}, "min_step: expected a positive number"),
        ("dopri5", {"min_step": 0.2, "max_step": 0.1}, "min_step: expected at most max_step = 0.1, got 0.2"),
        ("rk4", {"min_step": 0.2}, "min_step: it is for adaptive steps"),
    ],
)
def test_bad_min_steps_are_refused(method, options, message):
    """With their name."""
    with pytest.raises(UsageError, match=message):
        odegrad.odeint(lambda _t, y: -y, torch.ones(2), torch.tensor([0.0, 1.0]), method=method, options=options)
