"""Implicit steps of each sample's own: the joint loop's for one, the same gradient by every way, nobody's mates."""

import pytest
import torch
from torch import nn

from odegrad.errors import FailedSamplesWarning, UnsupportedError
from odegrad.measuring.call_counts import count_columns
from odegrad.methods.solvers.solver import make_solver
from odegrad.reference.subject import of_model
from odegrad.registry import build_gradient
from odegrad.user.models import Model

TS = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
STIFF = torch.tensor([1.0, 2.0, 30.0, 8.0, 1.0], dtype=torch.float64)


class VanDerPol(nn.Module):
    """Driven oscillators, each of the stiffness that rests in its last number; any kind of time."""

    def __init__(self, *, sample_time=True):
        super().__init__()
        self.sample_time = sample_time
        self.k = nn.Parameter(torch.tensor([1.0, 0.5], dtype=torch.float64))

    def forward(self, t, y):
        x, v, mu = y.split(1, -1)
        return torch.cat([v, self.k[0] * mu * (1 - x * x) * v - x + self.k[1] * torch.sin(3 * t), 0 * mu], -1)


def starts():
    y = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.cat([y, STIFF[:, None]], 1)


def solver(name="kencarp4", batch="per_sample", **options):
    return make_solver(name, rtol=1e-3, atol=1e-5, batch=batch, **options)


class Heard:
    """Steps, rounds and work."""

    def __init__(self):
        self.steps, self.rejections, self.works, self.rounds = [], [], [], None

    def accepted(self, t, h):
        self.steps.append((t, h))

    def rejected(self, t, h):
        self.rejections.append((t, h))

    def worked(self, work):
        self.works.append(work)

    def solved_in_rounds(self, counts):
        self.rounds = counts


@pytest.mark.parametrize(
    ("name", "row"), [("kencarp4", 0), ("kencarp4", 2), ("tr_bdf2", 2), ("kvaerno3", 2), ("kvaerno5", 2)]
)
def test_one_sample_is_the_joint_loops(kit, name, row):
    """S1: steps, work and states to the bit; the gradient by the same systems."""
    heard, found = [], []
    for batch in ("joint", "per_sample"):
        heard.append(Heard())
        found.append(
            kit.solved("aca", solver(name, batch).observed_by(heard[-1]), VanDerPol(), starts()[row, None], TS)
        )
    assert heard[0].steps == heard[1].steps
    assert heard[0].rejections == heard[1].rejections
    total = [sum(w.newton + w.newton_lost for w in each.works) for each in heard]
    assert total[0] == total[1]
    assert torch.equal(found[0].ys, found[1].ys)
    assert found[1].furthest_from(found[0]) <= 1e-15


@pytest.mark.filterwarnings("ignore:field. VanDerPol takes one time:UserWarning")
@pytest.mark.parametrize("compaction", ["none", "each", "halving"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("naive", {}),
        ("anode", {}),
        ("anode", {"steps_per_block": 2}),
        ("revolve", {"checkpoints": 2}),
        ("symplectic_adjoint", {}),
    ],
)
def test_every_exact_method_has_one_gradient(kit, name, options, compaction):
    """S3, also by a field of one time, with times of each sample's own that end early."""
    ts = torch.tensor([[0.0, 0.4, 1.0], [0.0, 0.3, 0.3], [0.0, 0.1, 0.5], [0.0, 0.9, 1.0], [0.0, 0.2, 0.2]]).double()
    field = VanDerPol(sample_time=compaction != "each")
    mine = solver(compaction=compaction)
    aca = kit.solved("aca", mine, field, starts(), ts)
    assert kit.solved(name, mine, field, starts(), ts, options=options).furthest_from(aca) <= 1e-13


def test_nobody_depends_on_its_mates(kit):
    """S2: alone and among others, states and gradients are the same to 1e-12."""
    weights = torch.sin(torch.arange(45.0, dtype=torch.float64)).view(3, 5, 3)
    together = kit.solved("aca", solver(), VanDerPol(), starts(), TS, weights=weights)
    alone = [
        kit.solved("aca", solver(), VanDerPol(), starts()[i, None], TS, weights=weights[:, i, None]) for i in range(5)
    ]
    for i, each in enumerate(alone):
        assert float((each.of_start[0] - together.of_start[i]).norm()) <= 1e-12 * float(together.of_start[i].norm())
    total = sum(each.of_parameters for each in alone)
    assert float((total - together.of_parameters).norm()) <= 1e-12 * float(total.norm())


def test_gradient_is_the_derivative_of_the_computed_loss():
    """Along a random direction of starts and parameters, by differences, to the tolerance."""
    field, y0 = VanDerPol(), starts()
    generator = torch.Generator().manual_seed(2)
    of_y = torch.randn(y0.shape, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.0])
    of_k = torch.randn(2, generator=generator, dtype=torch.float64)
    tight = make_solver("kvaerno5", rtol=1e-7, atol=1e-9, batch="per_sample", newton=1e-3)

    def loss(step):
        moved = VanDerPol()
        with torch.no_grad():
            moved.k.copy_(field.k + step * of_k)
            return float(build_gradient("aca")(moved, tight, y0 + step * of_y, TS)[1:].sin().sum())

    start = y0.clone().requires_grad_()
    ys = build_gradient("aca")(field, tight, start, TS)
    found = torch.autograd.grad(ys[1:].sin().sum(), (start, field.k))
    slope = float((found[0] * of_y).sum() + (found[1] * of_k).sum())
    step = 1e-3
    assert slope == pytest.approx((loss(step) - loss(-step)) / (2 * step), rel=1e-4)


def test_rows_and_calls_are_what_is_counted():
    """Calls are those of the field; rows leave Newton's iterations one by one; what follows from both is predicted."""
    model = Model(VanDerPol(), starts(), TS[:2])
    columns = count_columns(of_model(model), build_gradient("aca"), solver())
    assert (
        columns["nfe_forward"]
        == 2 + sum(columns[f"newton_iterations{lost}"] for lost in ("", "_lost")) + columns["jacobians_forward"]
    )
    assert 0 < columns["sample_evaluations"] < 5 * columns["nfe_forward"]
    assert columns["rounds"] == columns["factorisations_forward"]
    for phase in ("forward", "backward"):
        assert columns[f"predicted_nfe_{phase}"] == columns[f"nfe_{phase}"]
    assert columns["predicted_saved_bytes"] > 0
    assert columns["useful_fraction"] is None
    assert len(columns["sample_steps"]) == 5


def test_steps_that_newton_does_not_solve_are_shortened(kit):
    """A long first step fails in the stiff sample alone, as it does by itself; its mates accept theirs."""
    heard = [Heard(), Heard()]
    long = {"first_step": 1.0, "newton": 1e-9}
    field, y0 = VanDerPol(), starts()
    both = kit.solved("aca", solver(**long).observed_by(heard[0]), field, y0, TS[[0, 2]])
    alone = kit.solved("aca", solver(batch="joint", **long).observed_by(heard[1]), field, y0[2, None], TS[[0, 2]])
    assert sum(work.failures for work in heard[1].works) > 0
    assert sum(work.failures for work in heard[0].works) >= sum(work.failures for work in heard[1].works)
    torch.testing.assert_close(both.ys[:, 2], alone.ys[:, 0], rtol=1e-10, atol=1e-12)


class Root(nn.Module):
    """``y' = -k sqrt(|y|)``, whose Jacobian is infinite at 0."""

    sample_time = True

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, _t, y):
        return -self.k * y.abs().sqrt()


def test_a_sample_that_cannot_be_solved_is_named_and_its_mates_keep_their_gradients(kit):
    """An infinite Jacobian, and a start that is not finite."""
    good = torch.tensor([[4.0], [9.0]], dtype=torch.float64)
    expected = kit.solved("aca", solver(), Root(), good, TS, weights=torch.ones(3, 2, 1, dtype=torch.float64))
    for bad, why in ((0.0, "Jacobian is not finite"), (float("nan"), "not finite at t = 0")):
        y0 = torch.tensor([[4.0], [bad], [9.0]], dtype=torch.float64).requires_grad_()
        field = Root()
        with pytest.warns(FailedSamplesWarning, match=rf"1 of 3 samples .* sample 1: .*{why}") as caught:
            ys = build_gradient("aca")(field, solver(), y0, TS)
        assert caught[0].message.samples == (1,)
        of_start, of_k = torch.autograd.grad(ys[:, [0, 2]].sum(), (y0, field.k))
        torch.testing.assert_close(ys[:, [0, 2]], expected.ys, rtol=1e-12, atol=0)
        torch.testing.assert_close(of_start[[0, 2]], expected.of_start, rtol=1e-12, atol=0)
        torch.testing.assert_close(of_k[None], expected.of_parameters, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["interpolation", "interpolation_dense", "gauss_adjoint", "adjoint"])
def test_methods_that_solve_the_costate_refuse(name):
    """In a sentence that says what to take."""
    with pytest.raises(UnsupportedError, match=r"implicit steps that all samples share; use aca"):
        build_gradient(name)(VanDerPol(), solver(), starts(), TS)


def test_large_samples_are_refused():
    """A Jacobian of a sample's own has at most 64 numbers a side."""

    class Wide(nn.Module):
        sample_time = True

        def forward(self, _t, y):
            return -y

    with pytest.raises(UnsupportedError, match=r"at most 64 numbers for each sample, and one of this state holds 65"):
        build_gradient("naive")(Wide(), solver(), torch.ones(2, 65, dtype=torch.float64), TS)


def test_float32_and_backwards_in_time():
    """To the tolerance of the closed form ``y0 exp(-3 t)``, both ways."""

    class Decay(nn.Module):
        sample_time = True

        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(3.0))

        def forward(self, _t, y):
            return -self.rate * y

    y0 = torch.tensor([[1.0], [2.0]])
    for way in (1.0, -1.0):
        ts = (way * TS).float()
        ys = build_gradient("aca")(Decay(), solver(), y0, ts)
        assert ys.dtype == torch.float32
        torch.testing.assert_close(ys, y0 * torch.exp(-3.0 * ts)[:, None, None], rtol=2e-3, atol=1e-5)
