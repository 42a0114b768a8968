"""The errors of a field in a low type: flat in the number of steps, the same for every exact method."""

import pytest
import torch

from odegrad.measuring.operators import OperatorCount
from odegrad.methods.solvers.solver import make_solver

CONTEXTS = [(None, None), (None, torch.bfloat16), (torch.bfloat16, None), (torch.float16, torch.bfloat16)]


def test_an_empty_precision_is_no_precision(low, tools):
    """The same bits by the same operators, and no low copy."""
    plain = tools.Low(low.name, "")
    bare = make_solver(plain.solver.name, num_steps=4)
    tools.pulled(plain)  # what is made once, is made
    with OperatorCount() as told:
        first = tools.pulled(plain)
    with OperatorCount() as untold:
        second = tools.pulled(lambda *given: plain.method(given[0], bare, *given[1:]))
    assert told.operators == untold.operators
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_field_computes_low_and_the_state_stays_high(low, tools):
    """What the layers get and give is low; states, outputs and gradients are float32, the weights as they were."""
    field, seen = tools.Net(), set()
    weights = {name: p.clone() for name, p in field.named_parameters()}
    hook = field.last.register_forward_hook(lambda _m, given, out: seen.update({given[0].dtype, out.dtype}))
    y0 = tools.start()
    ys = low(field, y0, torch.tensor([0.0, 1.0]))
    ys.pow(2).sum().backward()
    hook.remove()
    assert seen == {getattr(torch, low.precision)}
    assert {ys.dtype, y0.grad.dtype, *(p.grad.dtype for p in field.parameters())} == {torch.float32}
    assert all(torch.equal(p, weights[name]) for name, p in field.named_parameters())
    assert all(isinstance(p, torch.nn.Parameter) for p in field.parameters())


@pytest.mark.parametrize("contexts", CONTEXTS, ids=str)
def test_exact_methods_have_naives_gradient_under_any_autocast(precision, contexts, tools):
    """P2: backward() inside or outside of any autocast context, and the solve too."""
    _, true = tools.pulled(tools.Low("naive", precision))
    for name in tools.EXACT:
        solved, back = contexts
        _, found = tools.pulled(tools.Low(name, precision), solved_under=solved, pulled_under=back)
        assert tools.off(found, true) <= 1e-6, name


def test_a_callers_autocast_changes_nothing(low, tools):
    """Bit for bit, of every method."""
    plain = tools.pulled(low)
    under = tools.pulled(low, solved_under=torch.bfloat16, pulled_under=torch.float16)
    assert all(torch.equal(a, b) for a, b in zip(plain, under, strict=True))


def test_errors_are_flat_in_the_number_of_steps(low, tools):
    """P3: O(u_L), at 8 steps and at 32 within 20 %, where all in the low type is off by O(u_L / h)."""
    errors = []
    for steps in (8, 32):
        y, gradient = tools.pulled(tools.Low("naive", "", steps), dtype=torch.float64)
        if low.name == "mali":
            y, gradient = tools.pulled(tools.Low("mali", "", steps), dtype=torch.float64)
        found = tools.pulled(tools.Low(low.name, low.precision, steps))
        errors.append((tools.off(found[0], y), tools.off(found[1], gradient)))
    for few, many in zip(*errors, strict=True):
        assert max(few, many) <= tools.ROUNDOFF[low.precision]
        assert many <= 1.2 * few


def test_all_in_the_low_type_grows_with_the_number_of_steps(precision, tools):
    """The other half of the law: four times the steps, at least twice the error."""
    errors = []
    for steps in (8, 32):
        _, true = tools.pulled(tools.Low("naive", "", steps), dtype=torch.float64)
        _, found = tools.pulled(tools.Low("naive", "", steps), dtype=getattr(torch, precision))
        errors.append(tools.off(found, true))
    assert errors[1] > 2.0 * errors[0]


def test_a_float64_state_keeps_float64_sums(precision, tools):
    """Weights in float64 get gradients in float64, by the same low calls: those of float32 to rounding."""
    _, low_sums = tools.pulled(tools.Low("naive", precision))
    _, high_sums = tools.pulled(tools.Low("naive", precision), dtype=torch.float64)
    assert 0.0 < tools.off(low_sums, high_sums) < tools.ROUNDOFF[precision]


def test_more_error_control_than_the_field_holds_is_warned_of(precision, tools):
    """Below u_L the controller chases rounding."""
    limit = tools.ROUNDOFF[precision]
    method, field = tools.Low("aca", precision).method, tools.Net()
    loose = make_solver("dopri5", rtol=limit, atol=1e-3, precision=precision)
    method(field, loose, tools.start(), torch.tensor([0.0, 1.0]))
    tight = make_solver("dopri5", rtol=limit / 2, atol=1e-3, precision=precision)
    with pytest.warns(UserWarning, match=f"u_L.*{precision}"):
        method(field, tight, tools.start(), torch.tensor([0.0, 1.0]))
