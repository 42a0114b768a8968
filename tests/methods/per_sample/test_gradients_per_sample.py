"""Gradients where every sample has its own steps: equal over methods, alone or among mates, with its own times."""

import math

import pytest
import torch
from torch import nn

from odegrad import odeint
from odegrad.checks.conformance import shared_loop_methods
from odegrad.errors import UnsupportedError
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

TS = torch.tensor([0.0, 0.7, 2.0], dtype=torch.float64)
EXACT: tuple[tuple[str, dict[str, object]], ...] = (
    ("naive", {}),
    ("aca", {}),
    ("anode", {}),
    ("anode", {"steps_per_block": 2}),
    ("revolve", {"checkpoints": 1}),
    ("revolve", {"checkpoints": 3}),
    ("symplectic_adjoint", {}),
)
"""Methods whose gradient is that of the computed loss, with options."""

CONTINUOUS: tuple[tuple[str, dict[str, object]], ...] = (
    ("adjoint", {}),
    ("adjoint", {"solver": "tsit5"}),
    ("adjoint_seminorm", {}),
    ("interpolation", {"num_nodes": 20}),
    ("interpolation", {"num_nodes": 20, "kind": "first"}),
    ("interpolation_dense", {}),
    ("gauss_adjoint", {"num_nodes": 20}),
)
"""Methods that solve the costate equation back."""


METHODS = (*EXACT, *CONTINUOUS)
IDS = [f"{name} {options or ''}" for name, options in METHODS]


@pytest.fixture(scope="module")
def reference(kit):
    """Naive's solution and gradient of the eight starts."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.linspace(0.1, 4.0, 8, dtype=torch.float64)[:, None]
    y0 = torch.randn(8, 3, generator=generator, dtype=torch.float64) * sizes
    return kit.solved("naive", kit.per_sample(), kit.UnlikeNet(), y0, TS)


@pytest.mark.parametrize("compaction", ["none", "each", "halving"])
@pytest.mark.parametrize(("method", "options"), EXACT, ids=IDS[: len(EXACT)])
def test_exact_methods_have_one_gradient(kit, unlike, reference, method, options, compaction):
    """S3: naive = aca = anode = revolve = symplectic_adjoint, however rows are dropped."""
    field, y0 = unlike
    found = kit.solved(method, kit.per_sample(compaction=compaction), field, y0, TS, options=options)
    assert found.furthest_from(reference) <= 1e-13


@pytest.mark.parametrize(("method", "options"), CONTINUOUS, ids=IDS[len(EXACT) :])
def test_continuous_methods_converge_to_it(kit, unlike, method, options):
    """G4: two tolerances apart the error falls, to that of the tolerance."""
    field, y0 = unlike
    ts = torch.tensor([0.0, 0.4, 0.8], dtype=torch.float64)
    true = kit.solved("aca", kit.per_sample(rtol=1e-12, atol=1e-13), field, y0, ts)
    errors = []
    for rtol in (1e-5, 1e-9):
        given = options if "num_nodes" not in options else {**options, "num_nodes": 48}
        found = kit.solved(method, kit.per_sample(rtol=rtol, atol=rtol / 100), field, y0, ts, options=given)
        errors.append(found.furthest_from(true))
    assert errors[0] < 1e-3
    assert errors[1] < 1e-7
    assert errors[1] < 1e-2 * errors[0]


@pytest.mark.parametrize("sample_time", [True, False])
@pytest.mark.parametrize(("method", "options"), METHODS, ids=IDS)
@pytest.mark.filterwarnings("ignore:field. UnlikeNet takes one time:UserWarning")
def test_a_samples_gradient_is_its_own_whoever_its_mates_are(kit, unlike, method, options, sample_time):
    """S2: alone, in its batch, and among other mates the gradient of a sample is one, to rounding."""
    _, y0 = unlike
    field, solver = kit.UnlikeNet(sample_time=sample_time), kit.per_sample()
    ts = torch.tensor([0.0, 0.4, 0.8], dtype=torch.float64)
    own = torch.sin(torch.arange(9, dtype=torch.float64)).view(3, 1, 3)
    batches = ([3], [0, 1, 2, 3, 4, 5, 6, 7], [7, 3, 6, 7])
    found = []
    for batch in batches:
        weights = torch.zeros(3, len(batch), 3, dtype=torch.float64)
        weights[:, batch.index(3)] = own[:, 0]
        each = kit.solved(method, solver, field, y0[batch], ts, options=options, weights=weights)
        place = batch.index(3)
        assert each.of_start.abs().sum(1).nonzero().flatten().tolist() == [place], "no other sample has a gradient"
        found.append((each.ys[:, place], each.of_start[place], each.of_parameters))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert float((a - b).norm() / b.norm()) <= 1e-12


@pytest.mark.parametrize(("method", "options"), METHODS, ids=IDS)
def test_one_sample_has_the_joint_loops_gradient(kit, unlike, method, options):
    """The same steps both ways, up to where the parameters are pulled back."""
    field, y0 = unlike
    ts = torch.tensor([0.0, 0.4, 0.8], dtype=torch.float64)
    alone = kit.solved(method, kit.per_sample(), field, y0[3:4], ts, options=options)
    joint = kit.solved(method, make_solver("dopri5", rtol=1e-6, atol=1e-8), field, y0[3:4], ts, options=options)
    assert alone.furthest_from(joint) <= (1e-12 if method != "adjoint_seminorm" else 1e-6)


def test_a_joint_gradient_depends_on_its_mates(kit, unlike):
    """What the option is for: at rtol 1e-5 the joint loop's gradient of one sample moves with the others."""
    field, y0 = unlike
    weights = torch.zeros(3, 2, 3, dtype=torch.float64)
    weights[:, 0] = 1.0
    solver = make_solver("dopri5", rtol=1e-5, atol=1e-7)
    a, b = (kit.solved("aca", solver, field, y0[[3, mate]], TS, weights=weights).of_start[0] for mate in (0, 7))
    assert float((a - b).norm() / b.norm()) > 1e-7


class _Quiet(nn.Module):
    """``y' = w sinh(y)``, and what every call has seen, by whether it had a graph."""

    sample_time = True

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.overflows = 0

    def forward(self, t, y):
        dy = self.inner(t, y)
        self.overflows += int(not bool(dy.detach().isfinite().all()))
        return dy


@pytest.mark.parametrize(("method", "options"), METHODS, ids=IDS)
def test_an_attempt_that_overflows_in_a_mate_leaves_no_nan(kit, method, options):
    """S6: the mate's first attempt is rejected with infinities inside; the quiet sample's gradient knows nothing of it.

    A loop that selects by ``torch.where`` pulls 0 times infinity back: NaN.
    """
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    solver = kit.per_sample(first_step=1.0)
    found = []
    for start in ([0.1, 8.0], [0.1]):
        field, y0 = _Quiet(kit.Sinh(-1.0)), torch.tensor(start, dtype=torch.float64)[:, None].requires_grad_()
        given = options if "num_nodes" not in options else {**options, "num_nodes": 200}
        ys = build_gradient(method, given)(field, solver, y0, ts)
        assert (field.overflows > 0) == (len(start) == 2)
        ys[-1, 0].sum().backward()
        found.append((y0.grad[0], field.inner.w.grad))
    for a, b in zip(*found, strict=True):
        assert float((a - b).abs() / b.abs()) <= 1e-12


RAGGED = torch.tensor(
    [[0.0, 0.3, 0.9, 1.2], [0.1, 0.5, 0.5, 0.5], [-0.4, 0.8, 1.0, 1.0], [0.0, 0.1, 0.2, 0.3]], dtype=torch.float64
)
"""Times of four samples; two are shorter and repeat their last."""


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("method", "options"), METHODS, ids=IDS)
def test_samples_have_times_of_their_own(kit, unlike, method, options, backwards):
    """S7: ``[batch, K]`` times with repeats are B solves of one sample; ``dL/dt_ik = f . dL/dy_ik``."""
    field, y0 = unlike
    table = -RAGGED if backwards else RAGGED
    weights = torch.sin(torch.arange(4 * 4 * 3, dtype=torch.float64)).view(4, 4, 3)
    whole = kit.solved(method, kit.per_sample(), field, y0[:4], table, options=options, weights=weights, of_times=True)
    of_parameters = torch.zeros_like(whole.of_parameters)
    for i, last in enumerate((3, 1, 2, 3)):
        own = weights[:, i : i + 1].clone()
        own[last] += own[last + 1 :].sum(0)
        alone = kit.solved(
            method, kit.per_sample(), field, y0[i : i + 1], table[i, : last + 1], options=options,
            weights=own[: last + 1], of_times=True,
        )  # fmt: skip
        torch.testing.assert_close(whole.ys[: last + 1, i], alone.ys[:, 0], rtol=0, atol=1e-12)
        assert (whole.ys[last:, i] == whole.ys[last, i]).all(), "a repeat is the same state"
        torch.testing.assert_close(whole.of_start[i], alone.of_start[0], rtol=1e-12, atol=1e-12)
        of_parameters += alone.of_parameters
        for k in range(1, 4):
            with torch.no_grad():
                rate = field(table[i, k].view(1, 1), whole.ys[k, i][None])[0]
            assert float(whole.of_times[i, k]) == pytest.approx(float(rate @ weights[k, i]), rel=1e-12, abs=1e-12)
        assert float(whole.of_times[i, 0]) == pytest.approx(float(alone.of_times[0]), rel=1e-10, abs=1e-12)
    assert float((whole.of_parameters - of_parameters).norm() / of_parameters.norm()) <= 1e-12


def test_shared_times_have_the_sum_of_the_samples_gradients(kit, unlike):
    """``[K]`` times are the same row for every sample."""
    field, y0 = unlike
    shared = kit.solved("aca", kit.per_sample(), field, y0, TS, of_times=True)
    each = kit.solved("aca", kit.per_sample(), field, y0, TS.expand(8, 3), of_times=True)
    assert torch.equal(shared.ys, each.ys)
    torch.testing.assert_close(shared.of_times, each.of_times.sum(0), rtol=1e-12, atol=0)


def test_a_linear_field_has_its_closed_form(kit):
    """G1: ``y' = theta y``, ``dL/dtheta = sum_i T_i y_i(T_i) dL/dy_i``, each sample at its own end."""

    class Linear(nn.Module):
        sample_time = True

        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.tensor(-0.7, dtype=torch.float64))

        def forward(self, t, y):
            return self.theta * y

    y0 = torch.tensor([[1.0], [2.0], [-3.0]], dtype=torch.float64)
    ends = torch.tensor([0.5, 1.5, 3.0], dtype=torch.float64)
    ts = torch.stack([torch.zeros(3, dtype=torch.float64), ends], 1)
    for method, options in METHODS:
        weights = torch.zeros(2, 3, 1, dtype=torch.float64)
        weights[1] = 1.0
        solver = kit.per_sample(rtol=1e-10, atol=1e-12)
        found = kit.solved(method, solver, Linear(), y0, ts, options=options, weights=weights)
        y_end = y0[:, 0] * torch.exp(-0.7 * ends)
        assert float(found.of_parameters) == pytest.approx(float((ends * y_end).sum()), rel=1e-8)
        torch.testing.assert_close(found.of_start[:, 0], torch.exp(-0.7 * ends), rtol=1e-8, atol=0)


def test_naive_has_a_second_derivative(kit):
    """``y' = w sinh(y)`` twice by w, in closed form; other methods raise."""
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    field, y0 = kit.Sinh(0.5), torch.tensor([[0.1], [0.6]], dtype=torch.float64)
    ys = build_gradient("naive")(field, kit.per_sample(rtol=1e-9, atol=1e-11), y0, ts)
    (first,) = torch.autograd.grad(ys[-1].sum(), field.w, create_graph=True)
    (second,) = torch.autograd.grad(first, field.w)
    # y' = w sinh(y) is solved by tanh(y/2) = tanh(y0/2) exp(w t).
    w = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    true = 2 * torch.atanh(torch.tanh(y0 / 2) * torch.exp(w))
    (of_w,) = torch.autograd.grad(true.sum(), w, create_graph=True)
    (of_of_w,) = torch.autograd.grad(of_w, w)
    assert float(first.detach()) == pytest.approx(float(of_w.detach()), rel=1e-7)
    assert float(second.detach()) == pytest.approx(float(of_of_w.detach()), rel=1e-6)
    ys = build_gradient("aca")(field, kit.per_sample(), y0, ts)
    (first,) = torch.autograd.grad(ys[-1].sum(), field.w, create_graph=True)
    with pytest.raises(UnsupportedError, match="no second derivative"):
        torch.autograd.grad(first, field.w)


@pytest.mark.parametrize(("method", "options"), METHODS, ids=IDS)
def test_tuples_and_wide_states(kit, method, options):
    """Parts of unlike shapes lie side by side in a sample's row: the gradient is that of one flat state."""

    class Parts(nn.Module):
        sample_time = True

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, t, y):
            flat = torch.cat([y[0].flatten(1), y[1]], 1)
            dy = self.inner(t[:, :, 0] if t.dim() == 3 else t, flat)
            return dy[:, :2].view(-1, 2, 1), dy[:, 2:]

    inner, ts = kit.UnlikeNet(), torch.tensor([0.0, 0.8], dtype=torch.float64)
    y0 = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    parts = y0[:, :2].reshape(3, 2, 1).requires_grad_(), y0[:, 2:].clone().requires_grad_()
    solver = kit.per_sample(rtol=1e-8, atol=1e-10)
    a, b = build_gradient(method, options)(Parts(inner), solver, parts, ts)
    assert a.shape == (2, 3, 2, 1)
    assert b.shape == (2, 3, 1)
    grads = torch.autograd.grad(a[1].sum() + 2 * b[1].sum(), [*parts, *inner.parameters()])
    weights = torch.zeros(2, 3, 3, dtype=torch.float64)
    weights[1] = torch.tensor([1.0, 1.0, 2.0])
    flat = kit.solved(method, solver, inner, y0.detach(), ts, options=options, weights=weights)
    torch.testing.assert_close(grads[0].flatten(1), flat.of_start[:, :2], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(torch.cat([g.reshape(-1) for g in grads[2:]]), flat.of_parameters, rtol=1e-5, atol=1e-7)


def test_every_method_goes_or_says_in_a_sentence_why_not(kit):
    """Methods on shared steps name the option and what to take instead."""
    taken = {name for name, _ in METHODS}
    for name in shared_loop_methods():
        reason = build_gradient(name).refuses(kit.per_sample())
        assert (reason is None) == (name in taken), (name, reason)
        assert reason is None or ("per_sample" in reason and "batch = 'joint'" in reason and math.isfinite(len(reason)))


@pytest.mark.parametrize(
    ("method", "options", "why"),
    [
        ("forward_sensitivity", {}, "all samples of a batch share its steps"),
        ("mali", {}, "all samples of a batch share its steps"),
        ("reversible_rk", {}, "all samples of a batch share its steps"),
        ("adjoint", {"parameters": "state"}, "batch times p numbers; use parameters = 'quadrature'"),
        ("adjoint", {"solver": "rk4"}, "the backward solve by rk4 has fixed steps"),
        ("gauss_adjoint", {"solver": "dopri8"}, "dense output"),
    ],
)
def test_refusals(kit, method, options, why):
    """What a method cannot do with steps of each sample's own."""
    y0, ts = torch.zeros(2, 3, dtype=torch.float64), TS
    with pytest.raises(UnsupportedError, match=why):
        odeint(kit.UnlikeNet(), y0, ts, options={"batch": "per_sample"}, gradient=method, gradient_options=options)


def test_a_tap_is_refused(kit):
    """It is shown one time."""

    class Tap:
        def sample_times(self, t0, t1):
            return [t0, t1]

        def observe(self, *_):
            raise AssertionError

    for method in ("naive", "aca", "adjoint", "interpolation"):
        tapped = build_gradient(method).with_tap(Tap())
        assert "a tap is shown one time for the whole batch" in tapped.refuses(kit.per_sample())
