"""Every argument, solver and option of torchdiffeq is on the page, and is taken or refused with a reason."""

import inspect
import math
import re
from pathlib import Path

import pytest
import torch
import torchdiffeq
from torch import nn
from torchdiffeq._impl.misc import _all_adjoint_callback_names, _all_callback_names
from torchdiffeq._impl.odeint import SOLVERS

import odegrad
from odegrad.errors import MissedToleranceWarning, UnsupportedError, UsageError

PAGE = (Path(__file__).parents[2] / "docs" / "from-torchdiffeq.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
TOLD = {name for row in ROWS for name in re.findall(r"`(\w+)`", row)}
"""What a row of the page's tables is of."""

OF_THE_SOLVERS = {"self", "func", "y0", "rtol", "atol", "unused_kwargs", "kwargs"}
FUNCTIONS = (torchdiffeq.odeint, torchdiffeq.odeint_adjoint, torchdiffeq.odeint_event)
OPTIONS = {
    name
    for solver in SOLVERS.values()
    for base in solver.__mro__
    if "__init__" in vars(base)
    for name in inspect.signature(base.__init__).parameters
} - OF_THE_SOLVERS - {"args"}  # fmt: skip
DTYPE = torch.float64


def decay(t, y):
    return -y


Y0 = torch.ones(2, dtype=DTYPE)
T = torch.tensor([0.0, 0.4, 1.0], dtype=DTYPE)


def test_the_page_tells_of_everything():
    """No argument, solver, option or callback of torchdiffeq is forgotten, and none is made up."""
    arguments = {name for function in FUNCTIONS for name in inspect.signature(function).parameters}
    callbacks = {*_all_callback_names, *_all_adjoint_callback_names}
    assert arguments | set(SOLVERS) | OPTIONS | callbacks == TOLD


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_every_argument_is_taken(function):
    """Ours have each argument of theirs, of the same kind and default."""
    ours = inspect.signature(getattr(odegrad, function.__name__)).parameters
    for name, parameter in inspect.signature(function).parameters.items():
        assert ours[name].kind == parameter.kind
        assert name == "odeint_interface" or ours[name].default == parameter.default


VALUES = {
    "first_step": 0.01,
    "max_step": 0.1,
    "min_step": 1e-3,
    "safety": 0.8,
    "ifactor": 5.0,
    "dfactor": 0.3,
    "max_num_steps": 1000,
    "norm": lambda y: y.abs().max(),
    "step_t": torch.tensor([0.3], dtype=DTYPE),
    "jump_t": torch.tensor([0.3], dtype=DTYPE),
    "dtype": DTYPE,
    "step_size": 0.1,
    "grid_constructor": lambda _f, _y0, t: torch.cat([t[:1], t[1:] - 0.1, t[1:]]).sort().values,
    "interp": "cubic",
    "perturb": True,
    "max_order": 4,
    "max_iters": 3,
    "implicit": True,
    "solver": "LSODA",
}
OF_FIXED = {"step_size", "grid_constructor", "interp", "perturb"}
OF_OTHERS = {"max_order": "implicit_adams", "max_iters": "implicit_adams", "solver": "scipy_solver"}


def test_every_option_has_a_value_here():
    """Each option of theirs is tried below."""
    assert set(VALUES) == OPTIONS


@pytest.mark.parametrize("option", sorted(set(VALUES) - {"implicit"}))
def test_every_option_is_taken(option):
    """The solution is torchdiffeq's with the same option, to the tolerance of either."""
    method = OF_OTHERS.get(option, "rk4" if option in OF_FIXED else "dopri5")
    settings = {"method": method, "rtol": 1e-8, "atol": 1e-10, "options": {option: VALUES[option]}}
    found = odegrad.odeint(decay, Y0, T, **settings)
    torch.testing.assert_close(found, torchdiffeq.odeint(decay, Y0, T, **settings), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", sorted(SOLVERS))
def test_every_solver_is_taken(method):
    """The solution is torchdiffeq's, to the tolerance; of fixed steps to rounding, on a linear field."""
    settings = {"method": method, "rtol": 1e-6, "atol": 1e-8}
    found, true = odegrad.odeint(decay, Y0, T, **settings), torchdiffeq.odeint(decay, Y0, T, **settings)
    adaptive = method in {"dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"}
    torch.testing.assert_close(found, true, rtol=2e-4 if adaptive else 1e-14, atol=0.0)


class Recorder(nn.Module):
    """A field with torchdiffeq's callbacks, which write down what they hear."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(3.0, dtype=DTYPE))
        self.heard = []

    def forward(self, t, y):
        return -self.rate * torch.cos(20 * t) * y

    def callback_step(self, t, y, h):
        self.heard.append(("step", float(t), y.shape, float(h)))

    def callback_accept_step(self, t, y, h):
        self.heard.append(("accept", float(t), y.shape, float(h)))

    def callback_reject_step(self, t, y, h):
        self.heard.append(("reject", float(t), y.shape, float(h)))


@pytest.mark.filterwarnings("ignore:Solver 'midpoint' does not support callbacks")
@pytest.mark.parametrize("settings", [{"method": "dopri5"}, {"method": "midpoint"}], ids=lambda s: s["method"])
@pytest.mark.parametrize("gradient", ["naive", "aca", "forward_sensitivity"])
def test_callbacks_hear_what_they_hear_there(settings, gradient):
    """The same words in the same order with torchdiffeq told to land; a backward pass adds none."""
    ours, theirs, t = Recorder(), Recorder(), torch.tensor([0.0, 0.5], dtype=DTYPE)
    told = {**settings, "rtol": 1e-6, "atol": 1e-8}
    odegrad.odeint(ours, Y0, t, gradient=gradient, **told)[-1].sum().backward()
    options = {"step_t": t[1:]} if settings["method"] == "dopri5" else None
    with torch.no_grad():
        torchdiffeq.odeint(theirs, Y0, t, options=options, **told)
    assert [(w, shape) for w, _, shape, _ in ours.heard] == [(w, shape) for w, _, shape, _ in theirs.heard]
    assert {"step", "accept", "reject"} if options else {"step"} == {w for w, *_ in ours.heard}
    for (word, t_of_ours, _, h), (_, t_of_theirs, _, h_of_theirs) in zip(ours.heard, theirs.heard, strict=True):
        assert t_of_ours == pytest.approx(t_of_theirs, rel=1e-6)
        # Of a step that is cut to land they tell the whole size before it.
        assert h == pytest.approx(h_of_theirs, rel=1e-6) or (word == "step" and h < h_of_theirs)


def test_adjoint_callbacks_are_refused():
    """Their state is that of another backward solve."""
    field = Recorder()
    field.callback_step_adjoint = print
    with pytest.raises(UnsupportedError, match="callback_step_adjoint is a callback of torchdiffeq's backward solve"):
        odegrad.odeint(field, Y0, T)


@pytest.mark.filterwarnings("ignore::odegrad.errors.InaccurateGradientWarning")
def test_own_norm_judges_steps_both_ways():
    """With the norm of the first part alone the second is free, forwards and in the backward solve."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(1.0, dtype=DTYPE))
            self.calls = []

        def forward(self, t, y):
            self.calls.append(float(t))
            return -self.rate * y[0], -self.rate * torch.cos(40 * t) * 4 * y[1]

    counts = []
    for norm in (None, lambda y: y[0].abs().max()):
        field, y0 = Two(), (torch.ones(1, dtype=DTYPE), torch.ones(1, dtype=DTYPE))
        ys = odegrad.odeint_adjoint(field, y0, T[::2], rtol=1e-6, atol=1e-8, options={"norm": norm})
        forward = len(field.calls)
        torch.autograd.grad(ys[0][-1].sum(), field.rate)
        counts.append((forward, len(field.calls) - forward))
    assert counts[1][0] < counts[0][0] / 3
    assert counts[1][1] < counts[0][1] / 3


@pytest.mark.filterwarnings("ignore::odegrad.errors.InaccurateGradientWarning")
@pytest.mark.parametrize("gradient", ["naive", "aca", "adjoint", "forward_sensitivity", "interpolation_dense"])
def test_tolerances_by_number(gradient):
    """A loose tolerance for the fast number takes steps as if it were alone with the slow one; gradients go along."""

    class Rates(nn.Module):
        def __init__(self):
            super().__init__()
            self.rates = nn.Parameter(torch.tensor([1.0, 30.0], dtype=DTYPE))
            self.calls = []

        def forward(self, t, y):
            self.calls.append(float(t))
            return self.rates * torch.cos(self.rates * t) * y

    def calls(rtol, atol, y0=Y0):
        field = Rates()
        field.calls.clear()
        ys = odegrad.odeint(field, y0, T[::2], rtol=rtol, atol=atol, gradient=gradient)
        (grad,) = torch.autograd.grad(ys[-1, 0], field.rates)
        # y = e^(sin(r t)), whose derivative by r is t cos(r t) y.
        true = math.exp(math.sin(1.0))
        assert float(ys[-1, 0].detach()) == pytest.approx(true, rel=1e-2)
        assert float(grad[0]) == pytest.approx(math.cos(1.0) * true, rel=5e-2)
        return len(field.calls)

    tight, loose = calls(1e-8, 1e-10), calls(1e-2, 1e-2)
    by_number = calls(torch.tensor([1e-8, 1e-2], dtype=DTYPE), torch.tensor([1e-10, 1e-2], dtype=DTYPE))
    assert loose < by_number < tight


def test_tolerances_by_part_are_torchdiffeqs():
    """One for each part of a tuple, as there: the same steps, so the same calls."""
    seen = []

    def f(t, y):
        seen[-1].append(float(t))
        return -y[0], torch.cos(20 * t) * y[1]

    y0, t = (torch.ones(1, dtype=DTYPE), torch.ones(2, dtype=DTYPE)), torch.tensor([0.0, 1.0], dtype=DTYPE)
    found = []
    for library, options in ((odegrad, None), (torchdiffeq, {"step_t": t[1:]})):
        seen.append([])
        found.append(library.odeint(f, y0, t, rtol=(1e-8, 1e-3), atol=(1e-9, 1e-3), options=options))
    assert len(seen[0]) == len(seen[1])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)


def test_options_of_the_backward_solve():
    """Fixed backward steps: their number is that of the f calls, two a step of the midpoint rule."""
    field = Recorder()
    calls = []
    field.register_forward_pre_hook(lambda _module, inputs: calls.append(inputs[0]))
    ys = odegrad.odeint_adjoint(
        field, Y0, T[::2], rtol=1e-9, atol=1e-10, adjoint_method="midpoint", adjoint_options={"step_size": 1e-3}
    )
    calls.clear()
    with pytest.warns(MissedToleranceWarning, match="the state that the backward pass used is off by"):
        (found,) = torch.autograd.grad(ys[-1].sum(), field.rate)
    assert len(calls) == 2 * 1000
    true = 2 * torch.exp(-3 * torch.sin(torch.tensor(20.0, dtype=DTYPE)) / 20)
    true = -true * torch.sin(torch.tensor(20.0, dtype=DTYPE)) / 20
    torch.testing.assert_close(found, true, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"options": {"dtype": torch.float32}}, UnsupportedError, "dtype: times and step sizes are float64 here"),
        ({"options": {"norm": 2}}, UsageError, "norm: expected a function"),
        ({"options": {"norm": lambda y: y}}, UsageError, r"norm: expected one number, got shape \(2,\)"),
        ({"options": {"step_t": "x"}}, UsageError, "step_t: expected times"),
        ({"method": "rk4", "options": {"step_t": [0.3]}}, UsageError, "step_t: it is for adaptive steps"),
        ({"method": "rk4", "options": {"interp": "quartic"}}, UsageError, "interp: expected 'linear' or 'cubic'"),
        ({"options": {"perturb": True}}, UnsupportedError, "perturb: it is for fixed steps"),
        ({"method": "rk4", "options": {"min_step": 0.1}}, UsageError, "min_step: it is for adaptive steps"),
        (
            {"method": "rk4", "options": {"grid_constructor": lambda f, y0, t: t[:-1]}},
            UsageError,
            "grid_constructor: expected strictly monotone times from",
        ),
        (
            {"method": "rk4", "options": {"grid_constructor": lambda f, y0, t: t, "step_size": 0.1}},
            UsageError,
            "grid_constructor: it excludes step_size",
        ),
        ({"options": {"max_order": 3}}, UnsupportedError, "'max_order' of torchdiffeq is not an option here"),
        ({"rtol": (1e-3, 1e-4)}, UsageError, "rtol: expected a number, a tensor that broadcasts to the state"),
        ({"rtol": torch.tensor([1e-3, 0.0])}, UsageError, "rtol: expected positive numbers"),
        ({"rtol": [1e-3, "x"]}, UsageError, "rtol: expected a number"),
        ({"rtol": torch.tensor([1e-3, 1e-4]), "method": "kencarp4"}, UnsupportedError, "one tolerance for all numbers"),
        ({"method": "explicit_adams", "gradient": "aca"}, UnsupportedError, "on which aca stands"),
        ({"method": "explicit_adams", "event_fn": decay}, UnsupportedError, "not with method explicit_adams"),
        ({"options": {"norm": abs}, "gradient": "torchdiffeq_naive"}, UnsupportedError, "cannot be told norm"),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, dict) else None,
)
def test_refusals(settings, error, message):
    """What cannot work is one sentence."""
    with pytest.raises(error, match=message):
        odegrad.odeint(decay, Y0, T, **settings)


@pytest.mark.filterwarnings("ignore:Solver 'scipy_solver' does not support callbacks")
def test_scipy_has_no_gradient_by_naive_backprop_and_says_so():
    """Its solution has no graph; the adjoint method gives the gradient."""
    field = Recorder()
    ys = odegrad.odeint(field, Y0, T, method="scipy_solver")
    with pytest.raises(UnsupportedError, match="its solution has no graph; take odeint_adjoint"):
        ys.sum().backward()
    ours, theirs = (
        torch.autograd.grad(lib.odeint_adjoint(field, Y0, T, method="scipy_solver")[-1].sum(), field.rate)[0]
        for lib in (odegrad, torchdiffeq)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0.0)


class Pair(nn.Module):
    """A field of two parts with two parameters."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(3.0, dtype=DTYPE))
        self.mixing = nn.Parameter(torch.tensor([[0.0, 1.0, 0.5], [-1.0, 0.0, 0.2]], dtype=DTYPE))
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        return y[1] @ self.mixing.T, -self.rate * torch.cos(5 * t) * y[1]


def largest(state):
    """Torchdiffeq's default: the largest root mean square of the parts, here without the time's."""
    return max(part.abs().square().mean().sqrt() for part in state[1:] if part.numel())


@pytest.mark.filterwarnings("ignore::odegrad.errors.InaccurateGradientWarning")
def test_own_norm_of_the_backward_solve():
    """It is called with the same parts as there, and its steps are those: as many f calls, and the same gradients."""
    y0 = (torch.ones(2, dtype=DTYPE), torch.ones(3, dtype=DTYPE))
    for norm in (largest, lambda s: 100 * largest(s), lambda s: largest(s[:5]), lambda s: largest((s[0], *s[3:5]))):
        found = []
        for library, landing in ((odegrad, {}), (torchdiffeq, {"step_t": T[:1]})):
            field, seen = Pair(), set()

            def noted(state, norm=norm, seen=seen):
                seen.add(tuple(part.shape for part in state))
                return norm(state)

            ys = library.odeint_adjoint(
                field, y0, T[::2], rtol=1e-6, atol=1e-8, method="dopri5",
                options={"step_t": T[2:]} if landing else None, adjoint_options={"norm": noted, **landing},
            )  # fmt: skip
            field.calls = 0
            grads = torch.autograd.grad(ys[0][-1].sum() + ys[1][-1].square().sum(), list(field.parameters()))
            found.append((seen, field.calls, grads))
        (seen, calls, ours), (seen_there, calls_there, theirs) = found
        assert seen == seen_there
        # They ask for the derivative at the start once more.
        assert abs(calls - calls_there) <= 2
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_wrong_adjoint_options_are_refused():
    """What both solves share, norms that are none, and a solver without steps of a tableau."""
    with pytest.raises(UnsupportedError, match="'jump_t' is taken from options"):
        odegrad.odeint_adjoint(Recorder(), Y0, T, adjoint_options={"jump_t": [0.3]})
    with pytest.raises(UsageError, match=r"expected norm = 'seminorm', or a function of the backward state .* got int"):
        odegrad.odeint_adjoint(Recorder(), Y0, T, adjoint_options={"norm": 2})
    ys = odegrad.odeint_adjoint(Recorder(), Y0, T, adjoint_options={"norm": lambda state: state[1]})
    with pytest.raises(UsageError, match=r"norm: expected one number, got shape \(2,\)"):
        ys.sum().backward()
    with pytest.raises(UnsupportedError, match="the backward solve cannot use solver alf"):
        odegrad.odeint_adjoint(Recorder(), Y0, T, adjoint_method="alf", adjoint_options={"safety": 0.8})
