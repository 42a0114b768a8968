"""SNOpt against closed forms, dense matrices and the plain gradient."""

import copy
import math

import pytest
import torch
from torch import nn

from odegrad.contracts import CurvatureConsumer, Training
from odegrad.errors import NonFiniteError, UnsupportedError, UsageError
from odegrad.methods.optimizers.snopt.factory import snopt
from odegrad.methods.optimizers.snopt.optimizer import SNOpt
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

F64 = torch.float64
TAPPED = ["adjoint", "adjoint_seminorm", "interpolation", "interpolation_dense", "gauss_adjoint"]


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class _Field(nn.Module):
    """A field with batch norm's buffers, dropout's random numbers and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.twice = nn.Linear(4, 4).double(), nn.Linear(4, 4, bias=False).double()
        self.norm, self.drop = nn.BatchNorm1d(4).double(), nn.Dropout(0.3)

    def forward(self, t, y):
        return self.drop(self.norm(self.twice(torch.tanh(self.twice(torch.tanh(self.first(y)))))))


class _Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, width)).double()
        for i, p in enumerate(self.net.parameters()):
            p.data = 0.5 * _randn(*p.shape, seed=i)

    def forward(self, t, y):
        return self.net(y)


def _sgd(lr=0.1, momentum=0.0):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum)


def _gradients(method, field, y0, target, ts, tap=None):
    solver = make_solver("dopri5", rtol=1e-7, atol=1e-7)
    field.zero_grad()
    method = method if tap is None else method.with_tap(tap)
    ((method(field, solver, y0, ts)[-1] - target) ** 2).mean().backward()
    return torch.cat([p.grad.reshape(-1) for p in field.parameters()])


def test_tap_is_a_pure_observer():
    """S1: buffers, random state, hooks and gradients are as they were after a sample."""
    field = _Field()
    optimizer = SNOpt(field, [field], _sgd())
    tap = optimizer.next_tap()
    before, rng = {k: v.clone() for k, v in field.state_dict().items()}, torch.get_rng_state()
    tap.observe(field, 0.3, _randn(6, 4), _randn(6, 4, seed=1), 0.5)
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in field.state_dict().items())
    assert not any(m._forward_hooks for m in field.modules())
    assert all(p.grad is None for p in field.parameters())
    assert set(tap.sums) == {"first", "twice"}


class _Linear(nn.Module):
    """F = W z."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False).double()
        self.layer.weight.data = 0.25 * _randn(3, 3, seed=2)

    def forward(self, t, y):
        return self.layer(y)


def _closed_form_factors(w, z0, phi, end, points=20_001):
    """Return int x x^T and int g g^T by Simpson's rule on x = exp(Wt) z0, g = exp(W^T (T - t)) phi."""
    ts = torch.linspace(0.0, end, points, dtype=F64)
    x = torch.linalg.matrix_exp(ts[:, None, None] * w) @ z0
    g = torch.linalg.matrix_exp((end - ts)[:, None, None] * w.T) @ phi
    weights = torch.ones(points, dtype=F64)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    weights *= end / (points - 1) / 3
    return torch.einsum("t,ti,tj->ij", weights, x, x), torch.einsum("t,ti,tj->ij", weights, g, g)


def test_factors_of_a_linear_field_are_the_integrals_of_closed_forms():
    """S3: 1e-6 at 200 samples, and second-order convergence in the spacing of the samples."""
    field, z0, phi, end = _Linear(), _randn(3, seed=3), _randn(3, seed=4), 1.0
    true_a, true_b = _closed_form_factors(field.layer.weight.detach(), z0, phi, end)
    solver, ts = make_solver("dopri5", rtol=1e-11, atol=1e-11), torch.tensor([0.0, end], dtype=F64)
    errors = {}
    for samples in (10, 20, 200):
        tap = SNOpt(field, [field], _sgd(), step_size=end / samples).next_tap()
        ys = build_gradient("adjoint").with_tap(tap)(field, solver, z0[None], ts)
        (ys[-1, 0] @ phi).backward()
        (total,) = tap.sums.values()
        errors[samples] = max(
            (total.input_factor - true_a).norm() / true_a.norm(), (total.output_factor - true_b).norm() / true_b.norm()
        ).item()
    assert errors[200] <= 1e-6
    assert errors[10] / errors[20] == pytest.approx(4.0, abs=0.3)


@pytest.mark.parametrize("name", TAPPED[1:])
def test_factors_do_not_depend_on_the_gradient_method(name):
    """S7: every method's samples give the adjoint's factors to the tolerance; they are symmetric and not negative."""
    field, y0, target, ts = _Net(), _randn(5, 4), _randn(5, 4, seed=1), torch.tensor([0.0, 1.0], dtype=F64)
    sums = []
    for each in ("adjoint", name):
        tap = SNOpt(field, [field], _sgd()).next_tap()
        _gradients(build_gradient(each), field, y0, target, ts, tap)
        sums.append(tap.sums)
    for layer, total in sums[0].items():
        for side in ("input_factor", "output_factor"):
            a, b = getattr(total, side), getattr(sums[1][layer], side)
            assert (a - b).norm() <= 1e-5 * a.norm()
            assert torch.allclose(b, b.T, atol=1e-14)
            assert torch.linalg.eigvalsh(b)[0] >= -1e-12 * b.norm()


def test_duplicating_the_batch_changes_nothing():
    """S8: A, B and the update with S = S_B S_A^T are those of the single batch, for a mean-reduced loss."""
    field, y0, target, ts = _Net(), _randn(5, 4), _randn(5, 4, seed=1), torch.tensor([0.0, 1.0], dtype=F64)
    updates = []
    for copies in (1, 2):
        optimizer = SNOpt(field, [field], _sgd())
        tap = optimizer.next_tap()
        _gradients(build_gradient("adjoint"), field, y0.repeat(copies, 1), target.repeat(copies, 1), ts, tap)
        before = [p.detach().clone() for p in field.parameters()]
        optimizer.step()
        updates.append(
            torch.cat([(b - p.detach()).reshape(-1) for b, p in zip(before, field.parameters(), strict=True)])
        )
        with torch.no_grad():
            for p, b in zip(field.parameters(), before, strict=True):
                p.copy_(b)
    assert torch.allclose(updates[0], updates[1], rtol=1e-6, atol=1e-9)


def _train(field, optimizer, first, last):
    ts, method, solver = torch.tensor([0.0, 1.0], dtype=F64), build_gradient("adjoint"), make_solver("rk4", num_steps=4)
    losses = []
    for i in range(first, last):
        tap = optimizer.next_tap()
        each = method if tap is None else method.with_tap(tap)
        optimizer.zero_grad()
        loss = ((each(field, solver, _randn(5, 4, seed=i), ts)[-1] - 0.3) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.filterwarnings("ignore::odegrad.errors.InaccurateGradientWarning")
def test_state_dict_continues_bit_for_bit():
    """S10: saved in the middle of a refresh period and loaded into a new optimizer, training goes on the same."""
    field = _Net()
    optimizer = SNOpt(field, [field], _sgd(0.05, 0.9), update_freq=4)
    _train(field, optimizer, 0, 6)
    other = copy.deepcopy(field)
    restored = SNOpt(other, [other], _sgd(0.05, 0.9), update_freq=4)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert _train(field, optimizer, 6, 12) == _train(other, restored, 6, 12)
    assert all(torch.equal(p, q) for p, q in zip(field.parameters(), other.parameters(), strict=True))


def test_gate_with_the_time_as_input_has_its_own_batch_size():
    """A layer that sees one row for the whole batch is scaled by that one row."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.gate = nn.Linear(3, 3).double(), nn.Linear(1, 3).double()

        def forward(self, t, y):
            return self.linear(y) * torch.sigmoid(self.gate(t.reshape(1, 1)))

    field, y, a = Gated(), _randn(8, 3), _randn(8, 3, seed=1) / 8
    tap = SNOpt(field, [field], _sgd()).next_tap()
    tap.observe(field, 0.4, y, a, 1.0)
    gate = torch.sigmoid(field.gate(torch.full((1, 1), 0.4, dtype=F64)))
    g = (a * field.linear(y)).sum(0, keepdim=True) * gate * (1 - gate)
    assert torch.allclose(tap.sums["gate"].output_factor, g.T @ g, atol=1e-14)
    assert torch.allclose(tap.sums["gate"].input_factor, torch.tensor([[0.16, 0.4], [0.4, 1.0]], dtype=F64))


def test_field_that_differentiates_inside_counts_each_layer_once():
    """A divergence by autograd inside f does not fire the samples twice: one use per layer call."""

    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = _Net(2)

        def forward(self, t, state):
            with torch.enable_grad():
                z = state[0].detach().requires_grad_()
                v = self.net(t, z)
                rows = [torch.autograd.grad(v[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(2)]
            return v, -(rows[0] + rows[1])

    flow, z, a = Flow(), _randn(5, 2), (_randn(5, 2, seed=1), torch.zeros(5, dtype=F64))
    sums = {}
    for field, y, costate in ((flow, (z, torch.zeros(5, dtype=F64)), a), (flow.net, z, a[0])):
        tap = SNOpt(flow, [flow], _sgd()).next_tap()
        tap.observe(field, 0.0, y, costate, 1.0)
        sums[type(field).__name__] = tap.sums
    for name, total in sums["Flow"].items():
        assert torch.allclose(total.output_factor, sums["_Net"][name].output_factor, atol=1e-14)


def test_layers_outside_of_the_ode():
    """full_precond: the read-out's factors come from the training's own pass; hooks are gone after the step."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.field, self.head = _Net(), nn.Linear(4, 3).double()

    model, x = Model(), _randn(6, 4)
    optimizer = SNOpt(model, [model.field], _sgd(), full_precond=True)
    assert set(optimizer.outside) == {"head"}
    tap = optimizer.next_tap()
    ys = build_gradient("adjoint").with_tap(tap)(
        model.field, make_solver("rk4"), x, torch.tensor([0.0, 1.0], dtype=F64)
    )
    h = model.head(ys[-1])
    h.retain_grad()
    (h**2).mean().backward()
    plain = model.head.weight.grad.clone()
    total = tap.sums["head"]
    rows = torch.cat([ys[-1].detach(), torch.ones(6, 1, dtype=F64)], 1)
    assert torch.allclose(total.input_factor, rows.T @ rows / 6, atol=1e-12)
    assert torch.allclose(total.output_factor, (6 * h.grad).T @ (6 * h.grad) / 6, atol=1e-12)
    optimizer.step()
    assert not model.head._forward_hooks
    assert torch.equal(model.head.weight.grad, plain)


@pytest.mark.filterwarnings("ignore::odegrad.errors.InaccurateGradientWarning")
def test_training_lowers_the_loss_and_follows_a_schedule():
    """End to end on the adjoint method, with a torch scheduler on the shared parameter groups."""
    field = _Net()
    optimizer = SNOpt(field, [field], _sgd(0.05, 0.9), eps=0.2, update_freq=10)
    assert isinstance(optimizer, CurvatureConsumer)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)
    losses = _train(field, optimizer, 0, 30)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0.025)


def test_only_refresh_iterations_sample():
    """The first iteration and every update_freq-th one after it."""
    field = _Net()
    optimizer = SNOpt(field, [field], _sgd(0.01), update_freq=3)
    seen = []
    for i in range(7):
        seen.append(optimizer.next_tap() is not None)
        _train_step = _gradients(
            build_gradient("adjoint"), field, _randn(3, 4, seed=i), 0.0, torch.tensor([0.0, 1.0], dtype=F64)
        )
        optimizer.step()
        assert _train_step.isfinite().all()
    assert seen == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kl_clip": 0.0}, "kl_clip: expected a positive number of nats"),
        ({"eps": 0.0}, "eps: expected a positive number"),
        ({"eps": -1.0}, "eps: expected a positive number"),
        ({"alpha": 1.0}, r"alpha: expected a number in \[0, 1\)"),
        ({"update_freq": 0}, "update_freq: expected a positive whole number"),
        ({"step_size": 0.0}, "step_size: expected a positive time"),
        ({"eps": "a"}, "eps: expected a positive number, got 'a'"),
        ({"alpha": None}, r"alpha: expected a number in \[0, 1\), got None"),
        ({"step_size": True}, "step_size: expected a positive time, got True"),
        ({"kl_clip": math.nan}, "kl_clip: expected a positive number of nats, got nan"),
    ],
)
def test_bad_options_are_refused(options, match):
    """Options out of range are refused with their name."""
    field = _Net()
    with pytest.raises(UsageError, match=match):
        SNOpt(field, [field], _sgd(), **options)


def test_wrong_fields_and_bases_are_refused():
    """An instance of an optimizer, no module at all: the message says what to pass."""
    model = nn.Linear(2, 2)
    with pytest.raises(UsageError, match=r"base: expected a function that makes an optimizer, got SGD; pass lambda p"):
        SNOpt(model, model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(UsageError, match=r"fields: expected the ODE's nn.Module, or a list of such, got None"):
        SNOpt(model, None, lambda p: torch.optim.SGD(p, lr=0.1))
    with pytest.raises(UsageError, match=r"model: expected the nn.Module that .* got generator; pass the model itself"):
        SNOpt(model.parameters(), model, lambda p: torch.optim.SGD(p, lr=0.1))


def test_a_forgotten_tap_is_told_once(caplog):
    """A step whose refresh is due, though nobody asked for the tap, is the base optimizer's: that is said, once."""
    model = nn.Linear(2, 2)
    optimizer = SNOpt(model, model, lambda p: torch.optim.SGD(p, lr=0.1), update_freq=2)
    for _ in range(4):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    told = [r.getMessage() for r in caplog.records if "asked for no tap" in r.getMessage()]
    assert len(told) == 1
    assert "call next_tap() before each forward pass" in told[0]


def test_model_without_an_ode_layer_is_refused():
    """There must be something to precondition inside of the ODE."""
    model = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="expected vector fields with at least one trained"):
        SNOpt(model, [nn.Tanh()], _sgd())


def test_non_finite_factors_name_the_layer():
    """A sample that overflowed stops the step with the layer's name."""
    field = _Net()
    optimizer = SNOpt(field, [field], _sgd())
    tap = optimizer.next_tap()
    tap.observe(field, 0.0, torch.full((2, 4), float("inf"), dtype=F64), _randn(2, 4), 1.0)
    with pytest.raises(NonFiniteError, match=r"layer net\.\d: its input factor is not finite"):
        optimizer.step()


def test_factory_takes_the_tasks_settings():
    """The registry's factory reads model, fields and full_precond from the problem."""

    class Problem:
        model = _Net()
        fields = (model,)
        training = Training(1, {}, full_precond=True)

    optimizer = snopt(Problem(), lr=0.3, eps=0.2, update_freq=7)
    assert (optimizer.base.defaults["lr"], optimizer.eps, optimizer.update_freq) == (0.3, 0.2, 7)


class _Classifier:
    """A field between an embedding and a read-out."""

    def __init__(self):
        self.fields = (_Net(),)
        self.model = nn.ModuleDict(
            {"in": nn.Linear(3, 4).double(), "field": self.fields[0], "out": nn.Linear(4, 2).double()}
        )
        self.training = Training(1, {}, full_precond=True)


def test_adam_steps_what_lies_outside_of_the_fields():
    """With ``outside_lr`` embedding and read-out go as under Adam alone, and the field has factors of its own."""
    problem = _Classifier()
    optimizer = snopt(problem, lr=0.1, outside_lr=0.02)
    assert not optimizer.outside
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.02]
    alone = {name: copy.deepcopy(problem.model[name]) for name in ("in", "out")}
    adam = torch.optim.Adam([p for module in alone.values() for p in module.parameters()], lr=0.02)
    before = copy.deepcopy(problem.model["field"].state_dict())
    for seed in range(3):
        for modules, each in ((problem.model, optimizer), (alone, adam)):
            for module in modules.values():
                for i, p in enumerate(module.parameters()):
                    p.grad = _randn(*p.shape, seed=10 * seed + i)
            each.step()
    for name, module in alone.items():
        assert all(
            torch.equal(p, q) for p, q in zip(module.parameters(), problem.model[name].parameters(), strict=True)
        )
    assert not torch.equal(before["net.0.weight"], problem.model["field"].net[0].weight)


def test_optimizers_side_by_side_continue_from_their_state():
    """S10 with Adam outside: a copy that loads the state takes the same step; another's state is refused."""
    problem, other = _Classifier(), _Classifier()
    optimizer, continued = (snopt(each, lr=0.1, outside_lr=0.02) for each in (problem, other))
    for i, p in enumerate(problem.model.parameters()):
        p.grad = _randn(*p.shape, seed=i)
    optimizer.step()
    other.model.load_state_dict(problem.model.state_dict())
    continued.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, q in zip(problem.model.parameters(), other.model.parameters(), strict=True):
        q.grad = p.grad.clone()
    optimizer.step()
    continued.step()
    assert all(torch.equal(p, q) for p, q in zip(problem.model.parameters(), other.model.parameters(), strict=True))
    assert len(continued.state) == len(list(other.model.parameters()))
    with pytest.raises(UsageError, match="state_dict: expected the states of 2 optimizers"):
        continued.base.load_state_dict({"parts": []})


def test_adam_outside_is_refused_where_it_cannot_be():
    """Not beside factors of the same layers, and not where there is nothing outside."""
    with pytest.raises(UsageError, match="outside_lr: expected full_precond to be off"):
        snopt(_Classifier(), outside_lr=0.02, full_precond=True)

    class Problem:
        model = _Net()
        fields = (model,)
        training = Training(1, {})

    with pytest.raises(UnsupportedError, match="outside_lr: this task has no parameter outside of its fields"):
        snopt(Problem(), outside_lr=0.02)
