"""Known times: doses that add to the state, infusions that switch the field, and what they cost."""

import dataclasses
import math

import pytest
import torch
from torch import nn

import odegrad
from odegrad.checks.conformance import shared_loop_methods
from odegrad.errors import UnsupportedError, UsageError
from odegrad.registry import build_gradient

DTYPE = torch.float64
METHODS = sorted(set(shared_loop_methods()) - {"mali", "reversible_rk"})


def number(x, *, trained=False):
    return torch.tensor(x, dtype=DTYPE, requires_grad=trained)


class Decay(nn.Module):
    """Elimination at the rate k."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(number(0.7))

    def forward(self, t, y):
        return -self.k * y


def of_method(name):
    known = {f.name for f in dataclasses.fields(build_gradient(name))}
    return {"gradient": name, "gradient_options": {"num_nodes": 24} if "num_nodes" in known else None}


@pytest.mark.parametrize("name", [*METHODS, "mali", "reversible_rk"])
def test_four_boluses(name):
    """E2: y(T) = sum_j d_j e^(-k (T - tau_j)), and its gradients by k, every d_j and every tau_j."""
    field = Decay()
    doses = torch.tensor([1.0, 0.8, 1.2, 0.5], dtype=DTYPE, requires_grad=True)
    taus = torch.tensor([0.0, 1.0, 2.5, 4.0], dtype=DTYPE, requires_grad=True)
    y0, t = torch.zeros(1, 1, dtype=DTYPE), torch.tensor([0.0, 3.0, 6.0], dtype=DTYPE)
    jumps = [(tau, lambda _t, y, d=d: y + d) for tau, d in zip(taus, doses, strict=True)]
    by = {"method": "alf", "rtol": 1e-7, "atol": 1e-7} if name == "mali" else {"rtol": 1e-8, "atol": 1e-10}
    ys = odegrad.odeint(field, y0, t, jumps=jumps, **by, **of_method(name))
    true = [(doses * torch.exp(-field.k * (end - taus)))[taus < end].sum() for end in (3.0, 6.0)]
    # The leapfrog is of second order, and the reversible wrapper adds errors of its own.
    limit = {"mali": 1e-4, "reversible_rk": 1e-7}.get(name, 2e-8)
    for x, known in zip(ys[1:, 0, 0], true, strict=True):
        torch.testing.assert_close(x, known, rtol=limit, atol=limit)
        of_x, of_known = (
            torch.cat([g.reshape(-1) for g in torch.autograd.grad(v, [field.k, doses, taus], retain_graph=True)])
            for v in (x, known)
        )
        torch.testing.assert_close(of_x, of_known, rtol=limit, atol=limit)


class Infused(nn.Module):
    """Elimination at the rate k, and four infusions at ``starts``, each ``width`` long."""

    def __init__(self, starts, width):
        super().__init__()
        self.k = nn.Parameter(number(0.7))
        self.starts, self.width = starts, width

    def forward(self, t, y):
        on = sum(((t >= s) & (t < s + self.width)).to(y) for s in self.starts)
        return 100.0 * on - self.k * y


STARTS = [0.0, 1.5, 3.0, 4.5]
WIDTH = 0.01


def infusions(**settings):
    """Return the solution at 6 over four infusions with the derivative by k, and what a recorder has heard."""
    field, calls = Infused(STARTS, WIDTH), []
    field.register_forward_pre_hook(lambda _module, inputs: calls.append(float(inputs[0])))
    t = torch.tensor([0.0, 6.0], dtype=DTYPE)
    ys = odegrad.odeint(field, torch.zeros(1, 1, dtype=DTYPE), t, rtol=1e-6, atol=1e-8, **settings)
    forward = list(calls)
    (by_k,) = torch.autograd.grad(ys[-1, 0, 0], field.k)
    return float(ys[-1, 0, 0].detach()), float(by_k), forward, calls


def infused_truth():
    k, y, by_k = 0.7, 0.0, 0.0
    for s in STARTS:
        # The response of one infusion at T: 100 / k (e^(k w) - 1) e^(-k (T - s)).
        size = 100 / k * math.expm1(k * WIDTH) * math.exp(-k * (6 - s))
        y += size
        by_k += size * (-1 / k + WIDTH * math.exp(k * WIDTH) / math.expm1(k * WIDTH) - (6 - s))
    return y, by_k


@pytest.mark.parametrize("name", METHODS)
def test_four_infusions_with_their_times(name):
    """E4: 40 attempts and 208 calls at most, where landing alone takes 2,644; the solution to 1e-6, gradients too."""
    jump_t = torch.tensor([s for start in STARTS for s in (start, start + WIDTH)], dtype=DTYPE)
    found, by_k, forward, calls = infusions(options={"jump_t": jump_t}, **of_method(name))
    true, true_by_k = infused_truth()
    assert math.isclose(found, true, rel_tol=1e-6)
    assert math.isclose(by_k, true_by_k, rel_tol=1e-5)
    # Eight solves: two calls before the first step, one more for each restart, and six for each of 26 attempts.
    assert len(forward) == 2 + 6 * 26 + 7
    assert all(0.0 <= t <= 6.0 for t in calls)


def test_ends_see_the_limit_from_inside():
    """The step up to a jump sees the number before it, the one from there the number behind, and none sees it."""
    *_, forward, calls = infusions(options={"jump_t": [0.0, 0.01]}, gradient="aca")
    for seen in (forward, calls):
        assert math.nextafter(0.01, 0) in seen
        assert math.nextafter(0.01, 1) in seen
        assert math.nextafter(0.0, 1) in seen
        assert 0.01 not in seen
        assert 0.0 not in seen


def test_field_that_jumps_has_a_gradient_by_the_time():
    """dL/dtau = (f- - f+) . a+ for the rate that switches from 2 to 5 at tau: y(1) = 2 tau + 5 (1 - tau)."""
    tau = number(0.3, trained=True)

    def f(t, y):
        return torch.where(t < tau.detach(), 2.0, 5.0) * torch.ones_like(y)

    for t in (torch.tensor([0.0, 1.0], dtype=DTYPE), torch.tensor([1.0, 0.0], dtype=DTYPE)):
        ys = odegrad.odeint(f, torch.zeros(1, dtype=DTYPE), t, options={"jump_t": tau})
        sign = float(t[1] - t[0])
        assert math.isclose(float(ys[-1].detach()), sign * 4.1, rel_tol=1e-12)
        assert math.isclose(float(torch.autograd.grad(ys[-1].sum(), tau)[0]), sign * -3.0, rel_tol=1e-12)


def test_outputs_and_resets_in_their_order():
    """Outputs at a jump are the state before; resets at one time follow each other; a tuple stays a tuple."""

    def rest(t, y):
        return tuple(torch.zeros_like(p) for p in y)

    y0 = (torch.ones(1, dtype=DTYPE), torch.ones(2, dtype=DTYPE))
    jumps = [
        (2.0, lambda t, y: (y[0] * 10, y[1] + t)),
        (1.0, lambda t, y: (y[0] + 1, y[1])),
        (2.0, lambda t, y: (y[0] + 5, y[1])),
    ]
    for t, first in (([0.0, 1.0, 2.0, 3.0], [1, 1, 2, 25]), ([3.0, 2.0, 1.0, 0.0], [1, 1, 15, 16])):
        one, other = odegrad.odeint(rest, y0, torch.tensor(t, dtype=DTYPE), jumps=jumps)
        assert one[:, 0].tolist() == first
        assert other[-1].tolist() == [3.0, 3.0]
    (one, _) = odegrad.odeint(rest, y0, torch.tensor([1.0, 2.0], dtype=DTYPE), jumps=jumps[1:2])
    assert one[:, 0].tolist() == [1, 2]


def test_float32_sees_the_limit_of_its_own_numbers():
    """In float32 the neighbour of 0.3 is that of float32, so that the field is on the right side there too."""
    seen = []

    def f(t, y):
        seen.append(float(t))
        return torch.where(t < 0.3, 1.0, -1.0) * torch.ones_like(y)

    y0, t = torch.zeros(1), torch.tensor([0.0, 1.0])
    ys = odegrad.odeint(f, y0, t, rtol=1e-4, atol=1e-5, options={"jump_t": [0.3]})
    assert abs(float(ys[-1]) + 0.4) < 1e-6
    assert float(torch.tensor(0.3)) not in seen


def identity(t, y):
    return y


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"jumps": [(7.0, identity)]}, UsageError, r"expected times from t\[0\] = 0 up to before t\[-1\] = 6, got 7"),
        ({"jumps": [(6.0, identity)]}, UsageError, r"up to before t\[-1\] = 6, got 6"),
        ({"jumps": [1.0]}, UsageError, r"jumps: expected pairs \(time, reset\)"),
        ({"jumps": [(1.0, "add")]}, UsageError, r"jumps: expected pairs \(time, reset\)"),
        ({"jumps": [("1", identity)]}, UsageError, "jumps: expected finite times"),
        ({"options": {"jump_t": [float("nan")]}}, UsageError, "jump_t: expected finite times, got nan"),
        ({"options": {"jump_t": 1.0}}, UsageError, "jump_t: expected times, a tensor or a sequence, got float"),
        ({"jumps": [(1.0, lambda t, y: y[0])]}, UsageError, r"the reset at t = 1 is expected to return a state of sha"),
        ({"jumps": [(1.0, lambda t, y: None)]}, UsageError, "the reset at t = 1 .* got NoneType"),
        ({"jumps": [(number(3.0, trained=True), identity)]}, UsageError, "t = 3 is an output too"),
        (
            {"jumps": [(number(1.0, trained=True), identity), (1.0, identity)]},
            UsageError,
            "two of them are at t = 1, and a gradient by the time of one",
        ),
        (
            {"jumps": [(number(1.0, trained=True), identity), (number(1.0, trained=True), identity)]},
            UsageError,
            "two of them are at t = 1, and a gradient by both",
        ),
        ({"jumps": [(1.0, identity)], "gradient": "torchdiffeq_naive"}, UnsupportedError, "by another library"),
        ({"options": {"jump_t": [1.0], "compile": True}, "gradient": "aca"}, UnsupportedError, "leave out compile"),
    ],
    ids=lambda v: str(v)[:30] if isinstance(v, dict) else None,
)
def test_refusals(settings, error, message):
    """What cannot work is one sentence."""
    t = torch.tensor([0.0, 3.0, 6.0], dtype=DTYPE)
    with pytest.raises(error, match=message):
        odegrad.odeint(Decay(), torch.ones(1, 1, dtype=DTYPE), t, **settings)


def test_a_reset_that_writes_into_its_state_leaves_the_output_before_it():
    """``y' = -y`` from 0.5, with 1 added at t = 1, where the output is the state before."""
    times = torch.tensor([0.0, 1.0, 1.5], dtype=torch.float64)
    ys = odegrad.odeint(
        lambda _t, y: -y, torch.tensor([[0.5]], dtype=torch.float64), times, jumps=[(1.0, lambda _t, y: y.add_(1.0))]
    )
    before = 0.5 * math.exp(-1.0)
    expected = torch.tensor([0.5, before, (before + 1.0) * math.exp(-0.5)], dtype=torch.float64)
    torch.testing.assert_close(ys.flatten(), expected, rtol=1e-6, atol=0.0)


def test_a_reset_that_changes_the_type_is_refused():
    """It would go on in single precision, and be handed back as double."""
    y0, times = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(UsageError, match=r"t = 0\.5 is expected to return torch\.float64 .* got torch\.float32"):
        odegrad.odeint(lambda _t, y: -y, y0, times, jumps=[(0.5, lambda _t, y: y.float())])
