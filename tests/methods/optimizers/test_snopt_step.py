"""SNOpt's step: running curvature, weight decay, base optimizers, eigendecompositions that fail, wrong states."""

import copy

import pytest
import torch
from torch import nn

from odegrad.errors import NonFiniteError, UsageError
from odegrad.methods.optimizers.snopt.factors import FactorSum, eigenbasis
from odegrad.methods.optimizers.snopt.optimizer import SNOpt

F64 = torch.float64


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class _Linear(nn.Module):
    """F = W y, with a parameter beside it that no layer holds."""

    def __init__(self, n_in=3, n_out=3):
        super().__init__()
        self.layer = nn.Linear(n_in, n_out, bias=False).double()
        self.layer.weight.data = 0.3 * _randn(n_out, n_in, seed=9)
        self.shift = nn.Parameter(_randn(n_out, seed=8))

    def forward(self, t, y):
        return self.layer(y) + self.shift


def _sgd(lr=0.1, **options):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **options)


def _sampled(optimizer, field, rows=5):
    """Feed one sample; return the factors A and B in closed form."""
    y, a = _randn(rows, 3, seed=1), _randn(rows, 3, seed=2)
    optimizer.next_tap().observe(field, 0.0, y, a, 0.5)
    return 0.5 * y.T @ y / rows, 0.5 * rows * a.T @ a


def _set_gradients(field, seed):
    field.layer.weight.grad = _randn(3, 3, seed=seed)
    field.shift.grad = _randn(3, seed=seed + 50)


def test_running_curvature_and_weight_decay():
    """Three iterations against a dense reference: S starts as S_B S_A^T, then moves by n G'^2; L2 is added to dW."""
    field, lr, decay, eps, alpha, rows = _Linear(), 0.1, 0.01, 0.2, 0.7, 5
    optimizer = SNOpt(field, [field], _sgd(lr, weight_decay=decay), eps=eps, alpha=alpha)
    A, B = _sampled(optimizer, field, rows)
    (values_a, U_A), (values_b, U_B) = torch.linalg.eigh(A), torch.linalg.eigh(B)
    S = torch.outer(values_b, values_a)
    W, shift = field.layer.weight.detach().clone(), field.shift.detach().clone()
    for i in range(3):
        _set_gradients(field, i)
        G = field.layer.weight.grad.clone()
        optimizer.step()
        rotated = U_B.T @ G @ U_A
        S = S if i == 0 else alpha * S + (1 - alpha) * rows * rotated**2
        W = W - lr * (U_B @ (rotated / (S + eps)) @ U_A.T + decay * W)
        shift = shift - lr * (field.shift.grad + decay * shift)
        assert torch.equal(field.layer.weight.grad, G)
    assert torch.allclose(field.layer.weight.detach(), W, rtol=1e-12, atol=1e-13)
    assert torch.allclose(field.shift.detach(), shift, rtol=1e-12)


@pytest.mark.parametrize("most", [1e-4, 1e3])
def test_a_step_changes_the_predictions_by_no_more_than_asked(most):
    """The step against the dense Fisher matrix F = A (x) B of a layer: lr^2 d^T (F + eps) d is the bound, or free.

    Only preconditioned parameters are shortened, and each counts with its own group's learning rate.
    """
    field, lr, eps = _Linear(), 0.3, 0.2
    groups = [{"params": [field.layer.weight], "lr": lr}, {"params": [field.shift], "lr": 0.1}]
    optimizer = SNOpt(field, [field], lambda _: torch.optim.SGD(groups), eps=eps, kl_clip=most)
    A, B = _sampled(optimizer, field)
    _set_gradients(field, 0)
    before = [p.detach().clone() for p in (field.layer.weight, field.shift)]
    optimizer.step()
    dense = torch.kron(B, A) + eps * torch.eye(9, dtype=F64)
    newton = lr * torch.linalg.solve(dense, field.layer.weight.grad.reshape(-1))
    foreseen = newton @ dense @ newton
    step = (before[0] - field.layer.weight.detach()).reshape(-1)
    assert 1e-3 < foreseen < 1e2
    assert torch.allclose(step @ dense @ step, foreseen.clamp(max=most), rtol=1e-10)
    assert torch.nn.functional.cosine_similarity(step, newton, dim=0) == pytest.approx(1.0, rel=1e-12)
    assert torch.allclose(before[1] - field.shift.detach(), 0.1 * field.shift.grad, rtol=1e-12)


def test_any_base_optimizer_with_its_own_groups():
    """Adam over two groups: it sees dW, keeps its learning rates, and shares its groups with schedulers."""
    field, mirror = _Linear(), _Linear()

    def adam(model):
        groups = [{"params": [model.layer.weight], "lr": 0.2}, {"params": [model.shift]}]
        return torch.optim.Adam(groups, lr=0.01)

    optimizer, plain = SNOpt(field, [field], lambda _: adam(field), eps=0.3), adam(mirror)
    A, B = _sampled(optimizer, field)
    _set_gradients(field, 0)
    _set_gradients(mirror, 0)
    dense = torch.kron(A, B) + 0.3 * torch.eye(9, dtype=F64)
    mirror.layer.weight.grad = torch.linalg.solve(dense, mirror.layer.weight.grad.T.reshape(-1)).reshape(3, 3).T
    optimizer.step()
    plain.step()
    assert torch.allclose(field.layer.weight, mirror.layer.weight, rtol=1e-10)
    assert torch.equal(field.shift, mirror.shift)
    assert [g["lr"] for g in optimizer.param_groups] == [0.2, 0.01]


def test_a_parameter_without_gradient_is_skipped():
    """No gradient, no step; the others move."""
    field = _Linear()
    optimizer = SNOpt(field, [field], _sgd())
    _sampled(optimizer, field)
    before = field.layer.weight.detach().clone()
    field.shift.grad = torch.ones(3, dtype=F64)
    optimizer.step()
    assert torch.equal(field.layer.weight, before)
    assert torch.equal(field.shift, _randn(3, seed=8) - 0.1)


def test_gradients_are_put_back_when_the_base_optimizer_raises():
    """An error in the base step does not leave dW in p.grad."""
    field = _Linear()
    optimizer = SNOpt(field, [field], torch.optim.LBFGS)
    _sampled(optimizer, field)
    _set_gradients(field, 0)
    with pytest.raises(TypeError, match="closure"):
        optimizer.step()
    assert torch.equal(field.layer.weight.grad, _randn(3, 3))


def test_newton_step_on_an_ill_conditioned_quadratic():
    """S11 through tap and step: at condition 1e4, 20 times fewer iterations than SGD at its best constant rate."""
    rows, target = 40, _randn(3, 3, seed=4)
    spectrum = torch.tensor([1.0, 1e-2, 1e-4], dtype=F64)
    x = torch.linalg.qr(_randn(rows, 3, seed=5))[0] * (rows * spectrum).sqrt()
    identity = torch.linalg.qr(_randn(rows, 3, seed=6))[0] / rows**0.5
    hessian = x.T @ x / rows

    def iterations(step_of, field, limit):
        for i in range(limit):
            error = field.layer.weight.detach() - target
            if (error @ hessian * error).sum() <= 1e-12 * (target @ hessian * target).sum():
                return i
            field.layer.weight.grad = error @ hessian
            step_of(field)
        return limit

    field = _Linear()
    optimizer = SNOpt(field, [field], _sgd(1.0), eps=1e-8, update_freq=1)

    def newton(field):
        optimizer.next_tap().observe(field, 0.0, x, identity, 1.0)  # B = I: the curvature of a squared error
        optimizer.step()

    ours, other = iterations(newton, field, 100), _Linear()
    best = torch.optim.SGD([other.layer.weight], lr=2 / 1.0001)
    assert iterations(lambda _: best.step(), other, 20 * ours + 1) > 20 * ours


def test_bytes_held_between_refreshes():
    """S9: per layer n_in^2 + n_out^2 numbers of eigenbases and n_in n_out of curvature; the sums are gone."""
    field = _Linear()
    optimizer = SNOpt(field, [field], _sgd())
    _sampled(optimizer, field)
    _set_gradients(field, 0)
    optimizer.step()
    (layer,) = optimizer.state_dict()["layers"].values()
    assert sum(v.numel() * v.element_size() for v in layer.values() if torch.is_tensor(v)) == 8 * (9 + 9 + 9)
    assert optimizer._sums is None


@pytest.mark.parametrize("layer", [nn.Linear(3, 3), nn.Conv2d(2, 2, 3, padding=1)], ids=["linear", "convolution"])
def test_half_precision_steps_with_float32_factors(layer):
    """A bfloat16 layer's eigenbases are float32, and its step is the float32 one to bfloat16's three digits."""
    steps, y = [], _randn(5, 3) if isinstance(layer, nn.Linear) else _randn(5, 2, 4, 4)
    for dtype in (torch.bfloat16, torch.float32):

        class Field(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = copy.deepcopy(layer)

            def forward(self, t, y):
                return self.layer(y)

        field = Field().bfloat16().to(dtype)
        optimizer = SNOpt(field, [field], _sgd(), eps=0.3)
        x, a = y.bfloat16().to(dtype), (y.flip(0) / 5).bfloat16().to(dtype)
        before = field.layer.weight.detach().clone()
        optimizer.next_tap().observe(field, 0.0, x, a, 1.0)
        (field(0.0, x) * a).sum().backward()
        optimizer.step()
        (basis,) = optimizer.bases.values()
        assert basis.input_basis.dtype == basis.output_basis.dtype == basis.curvature.dtype == torch.float32
        assert field.layer.weight.dtype == dtype
        steps.append((field.layer.weight.detach() - before).double())
    assert torch.allclose(steps[0], steps[1], rtol=0.05, atol=2e-3)
    assert steps[1].abs().max() > 0.02


def _failing(times):
    """Return an ``eigh`` that fails to converge for the first ``times`` calls."""
    eigh, calls = torch.linalg.eigh, []

    def fail(matrix):
        calls.append(matrix.dtype)
        if len(calls) <= times:
            raise torch.linalg.LinAlgError("failed to converge")
        return eigh(matrix)

    return fail, calls


def _float32_sum():
    total = FactorSum()
    total.add(_randn(6, 1, 3).float(), _randn(6, 1, 2, seed=1).float(), 1.0)
    return total


def test_eigendecomposition_falls_back_to_float64(monkeypatch):
    """When float32 does not converge, float64 does: the bases still diagonalise the factor."""
    total = _float32_sum()
    eigh, calls = _failing(2)
    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    basis = eigenbasis("layer", total)
    assert calls[:3] == [torch.float32, torch.float64, torch.float64]
    assert basis.input_basis.dtype == torch.float32
    rotated = basis.input_basis.T @ total.input_factor @ basis.input_basis
    assert torch.allclose(rotated, rotated.diagonal().diag(), atol=1e-5)


def test_eigendecomposition_that_never_converges_names_the_layer(monkeypatch):
    """The last resort is an error with the layer's name."""
    monkeypatch.setattr(torch.linalg, "eigh", _failing(99)[0])
    with pytest.raises(NonFiniteError, match=r"layer stem\.0: the eigendecomposition of its input factor \(3 x 3\)"):
        eigenbasis("stem.0", _float32_sum())


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda s: s.pop("base"), "expected what SNOpt.state_dict"),
        (lambda s: s["layers"].update(other=s["layers"]["layer"]), r"it has layers \['other'\]"),
        (lambda s: s["layers"]["layer"].update(curvature=torch.ones(2, 3)), r"expected curvature of shape \(3, 3\)"),
    ],
    ids=["not ours", "unknown layer", "other widths"],
)
def test_a_state_of_something_else_is_refused(spoil, match):
    """A wrong state is refused before anything is loaded."""
    field = _Linear()
    optimizer = SNOpt(field, [field], _sgd())
    _sampled(optimizer, field)
    _set_gradients(field, 0)
    optimizer.step()
    state = optimizer.state_dict()
    spoil(state)
    with pytest.raises(UsageError, match=match):
        SNOpt(field, [field], _sgd()).load_state_dict(state)


@pytest.mark.parametrize(
    "options",
    [{"eps": float("inf")}, {"eps": float("nan")}, {"update_freq": True}, {"update_freq": 2.0}, {"alpha": -0.1}],
    ids=lambda v: ",".join(v) if isinstance(v, dict) else None,
)
def test_numbers_that_are_none_are_refused(options):
    """Infinities, truth values and fractions are named."""
    field = _Linear()
    (name,) = options
    with pytest.raises(UsageError, match=f"{name}: expected"):
        SNOpt(field, [field], _sgd(), **options)


def test_parameters_on_two_devices_are_refused():
    """The meta device stands for a second one."""
    field = _Linear()
    field.other = nn.Parameter(torch.empty(2, device="meta"))
    with pytest.raises(UsageError, match=r"model: expected all parameters on one device, got \['cpu', 'meta'\]"):
        SNOpt(field, [field], _sgd())
