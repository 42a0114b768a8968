"""Logarithmic norms along trajectories: the quoted figures, matrix-free against dense, nothing disturbed."""

import pytest
import torch
from torch import nn

from odegrad.checks.problems import SmoothNet, smooth_net_start
from odegrad.diagnosis.jacobian import dense_jacobian
from odegrad.diagnosis.lognorm import mu_2
from odegrad.diagnosis.trajectory import INTEGRALS, log_norms, max_log_norm
from odegrad.errors import NonFiniteError, UnknownNameError, UsageError
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _seeded(make, *arguments):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*arguments).double()


@pytest.fixture(scope="module")
def smooth():
    """Return the smooth net, 400 times and its solution there."""
    field, (y0, _) = SmoothNet(), smooth_net_start()
    ts = torch.linspace(0.0, 1.0, 400, dtype=torch.float64)
    with torch.no_grad():
        return field, ts, Naive()(field, make_solver("dopri5", rtol=1e-9, atol=1e-9), y0, ts)


def test_smooth_net_figures(smooth):
    """Over 400 times x 16 samples along the smooth net's solution, to the quoted digits."""
    field, ts, ys = smooth
    found = log_norms(field, ts, ys)
    assert (found.dense, found.by, found.products, found.converged) == (True, "torch.func", 0, True)
    means = [found.mu_2.mean(), found.mu_1.mean(), found.mu_inf.mean(), found.norm.mean()]
    assert [x.item() for x in means] == pytest.approx([1.2442, 3.0898, 3.3558, 2.1718], abs=6e-5)
    assert [found.mu_2.min().item(), found.largest()] == pytest.approx([0.4504, 2.5826], abs=6e-5)
    growth = found.integral("mu_2").exp()[:4].tolist()
    assert growth == pytest.approx([3.6606, 6.9990, 2.5342, 2.9120], abs=6e-5)
    assert max_log_norm(field, ts[::40], ys[::40]) == pytest.approx(found.mu_2[::40].max().item(), abs=1e-12)
    jacobian = dense_jacobian(field, ts[7], ys[7]).values
    assert torch.allclose(found.spectral_abscissa[7], torch.linalg.eigvals(jacobian).real.amax(-1), atol=1e-12)
    assert torch.equal(found.mu_2, found.symmetric_eigenvalues[..., -1])
    assert torch.allclose(found.mu_2_minus[7], mu_2(-jacobian), atol=1e-12)
    assert (found.spectral_abscissa <= found.mu_2 + 1e-12).all()


def test_time_may_run_backward(smooth):
    """Integrals are in |dt|: the same from either end."""
    field, ts, ys = smooth
    there, back = (log_norms(field, t, y) for t, y in ((ts[::40], ys[::40]), (ts[::40].flip(0), ys[::40].flip(0))))
    for name in INTEGRALS:
        assert torch.allclose(there.integral(name), back.integral(name), equal_nan=True)


@pytest.mark.parametrize("seed", range(20))
def test_matrix_free_equals_dense(seed):
    """On random nets of 24 numbers per sample: mu_2(J), mu_2(-J) and ||J||_2 to 1e-6 for every time and sample."""
    field, ts = SmoothNet(d=24, hidden=48, seed=seed), torch.tensor([0.0, 0.3, 0.7], dtype=torch.float64)
    ys = torch.stack([_randn(4, 24, seed=seed) + 0.1 * k for k in range(3)])
    dense, free = log_norms(field, ts, ys), log_norms(field, ts, ys, dense_below=0)
    assert (free.dense, free.converged, free.eigenvalues) == (False, True, None)
    for name in ("mu_2", "mu_2_minus", "norm"):
        assert torch.allclose(getattr(free, name), getattr(dense, name), rtol=1e-6, atol=0.0)


class _ConvNet(nn.Module):
    """A smooth net of convolutions on 16 x 16 x 16 states."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))

    def forward(self, t, y):
        return self.second(torch.tanh(2.0 * self.first(y) + t))


@pytest.mark.slow
def test_matrix_free_equals_dense_on_4096_variables():
    """A net of convolutions: both ends and the norm equal those of the 4096 x 4096 Jacobian to 1e-6."""
    field, y = _seeded(_ConvNet), _randn(1, 16, 16, 16)
    t = torch.tensor(0.2, dtype=torch.float64)
    free = log_norms(field, t[None], y[None])
    assert (free.dense, free.converged) == (False, True)
    j = dense_jacobian(field, t, y).values[0]
    symmetric = torch.linalg.eigvalsh((j + j.T) / 2)
    norm = torch.linalg.eigvalsh(j.T @ j)[-1].sqrt()
    found = [free.mu_2.item(), free.mu_2_minus.item(), free.norm.item()]
    assert found == pytest.approx([symmetric[-1].item(), -symmetric[0].item(), norm.item()], rel=1e-6)


class _Disturbing(nn.Module):
    """One call changes buffers and draws random numbers; ``plain`` off, it also keeps torch.func out."""

    def __init__(self, plain=True):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.dropout, self.plain = nn.Dropout(0.3), plain

    def forward(self, t, y):
        x = torch.tanh(self.conv(self.dropout(self.norm(y))))
        return x if self.plain else _Same.apply(x)


class _Same(torch.autograd.Function):
    """A custom function that torch.func cannot take: its context is set in forward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("side", "plain", "by"), [(2, True, "torch.func"), (2, False, "autograd"), (6, True, "autograd")]
)
def test_nothing_is_disturbed(side, plain, by, training):
    """Parameters, gradients, buffers, modes and random numbers stay bit for bit, on every route."""
    field, ys = _seeded(_Disturbing, plain).train(training), _randn(2, 2, 4, side, side)
    field.conv.weight.grad = torch.ones_like(field.conv.weight)
    before = {k: v.clone() for k, v in field.state_dict().items()}
    torch.manual_seed(0)
    rng = torch.get_rng_state()
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = log_norms(field, ts, ys)
    assert (found.by, found.dense) == (by, side == 2)
    max_log_norm(field, ts, ys)
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in field.state_dict().items())
    assert torch.equal(field.conv.weight.grad, torch.ones_like(field.conv.weight))
    assert [p.grad is None for p in field.parameters()].count(False) == 1
    assert all(m.training is training for m in field.modules())
    assert all(p.requires_grad for p in field.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("side", [2, 6])
def test_nothing_is_disturbed_on_a_gpu(side):
    """The device's generator and buffers stay; the norms are the CPU's (in evaluation mode) and lie on the CPU."""
    field, ys, ts = _seeded(_Disturbing).eval(), _randn(2, 2, 4, side, side), torch.tensor([0.0, 1.0]).double()
    expected = log_norms(field, ts, ys)
    field, ys, ts = field.cuda().train(), ys.cuda(), ts.cuda()
    before, rng = {k: v.clone() for k, v in field.state_dict().items()}, torch.cuda.get_rng_state()
    log_norms(field, ts, ys)
    assert torch.equal(rng, torch.cuda.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in field.state_dict().items())
    found = log_norms(field.eval(), ts, ys)
    assert found.mu_2.device.type == "cpu"
    assert torch.allclose(found.mu_2, expected.mu_2, rtol=1e-6)


def test_large_states_are_routed_to_products():
    """More numbers than the limit, or Jacobians beyond the allowed memory, are never formed."""
    field, ts = _seeded(_Disturbing).eval(), torch.zeros(1, dtype=torch.float64)
    assert not log_norms(field, ts, _randn(1, 2, 4, 6, 6)).dense
    dense = log_norms(field, ts, _randn(1, 2, 4, 6, 6), dense_below=144)
    assert dense.dense
    assert max_log_norm(field, ts, _randn(1, 2, 4, 6, 6)) == pytest.approx(dense.largest(), rel=1e-6)


def test_memory_decides_the_route_too(monkeypatch):
    """A batch whose Jacobians exceed the allowed bytes is routed to products, with the same result."""
    field, ts, ys = SmoothNet(d=24, hidden=48), torch.zeros(1, dtype=torch.float64), _randn(1, 6, 24)
    dense = log_norms(field, ts, ys)
    monkeypatch.setattr("odegrad.diagnosis.trajectory.DENSE_BYTES", 8 * 6 * 24 * 24 - 1)
    free = log_norms(field, ts, ys)
    assert (dense.dense, free.dense) == (True, False)
    assert torch.allclose(free.mu_2, dense.mu_2, rtol=1e-6)


class _Linear(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, t, y):
        return y @ self.a.T


class _Constant(nn.Module):
    def forward(self, t, y):
        return torch.ones_like(y)


@pytest.mark.parametrize("n", [3, 150])
def test_symmetric_part_zero(n):
    """A field that starts at zero, a rotation and a constant field have mu_2 = 0, dense and matrix-free."""
    a = _randn(n, n)
    y, ts = torch.ones(1, 2, n, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for field in (_Linear(0 * a), _Linear(a - a.T), _Constant()):
        assert max_log_norm(field, ts, y) == pytest.approx(0.0, abs=1e-11)


def test_single_precision_matrix_free():
    """A float32 field converges too, to float32's accuracy of the float64 one."""
    field, ts, ys = SmoothNet(d=150, hidden=64), torch.zeros(1, dtype=torch.float64), _randn(1, 3, 150)
    double = log_norms(field, ts, ys)
    single = log_norms(field.float(), ts.float(), ys.float())
    assert single.converged
    assert single.mu_2.dtype == torch.float64
    assert torch.allclose(single.mu_2, double.mu_2, rtol=1e-5)
    assert torch.allclose(single.norm, double.norm, rtol=1e-5)


def test_parts_of_a_tuple_and_batch_of_one():
    """The parts of a tuple form one Jacobian per sample: here [[0, 1], [-4, 0]], whose mu_2 is 3 / 2, norm 4."""

    class Oscillator(nn.Module):
        def forward(self, t, state):
            return state[1], -4 * state[0]

    ts = torch.zeros(2, dtype=torch.float64)
    ys = (torch.ones(2, 1, 1, dtype=torch.float64), torch.ones(2, 1, 1, dtype=torch.float64))
    for found in (log_norms(Oscillator(), ts, ys), log_norms(Oscillator(), ts, ys, dense_below=0)):
        for value, expected in ((found.mu_2, 1.5), (found.mu_2_minus, 1.5), (found.norm, 4.0)):
            assert value.shape == (2, 1)
            assert torch.allclose(value, torch.tensor(expected).double(), rtol=1e-6)


class _Unconverging(nn.Module):
    """Breaks at one sample and one time: the square root of a negative number there."""

    def forward(self, t, y):
        return torch.sqrt(y + 1 - t) * y


@pytest.mark.parametrize("dense_below", [0, 128])
def test_non_finite_jacobian_names_time_and_sample(dense_below):
    """Sample 1 leaves the domain at t = 0.5."""
    ys = torch.ones(2, 3, 2, dtype=torch.float64)
    ys[1, 1] = -0.7
    with pytest.raises(NonFiniteError, match=r"Jacobian: not finite at t = 0\.5, sample 1"):
        log_norms(_Unconverging(), torch.tensor([0.0, 0.5]).double(), ys, dense_below=dense_below)


def test_bad_input_is_refused(smooth):
    """Shapes that do not fit, unknown and missing quantities, one time."""
    field, ts, ys = smooth
    with pytest.raises(UsageError, match=r"ys: expected states \[K, batch, ...\] at times ts \[K\]"):
        log_norms(field, ts[:3], ys[:4])
    free = log_norms(field, ts[:2], ys[:2], dense_below=0)
    with pytest.raises(UnknownNameError, match="unknown quantity 'mu2': did you mean 'mu_2'"):
        free.integral("mu2")
    with pytest.raises(UsageError, match="mu_1: was not computed, since only products"):
        free.integral("mu_1")
    with pytest.raises(UsageError, match="an integral needs at least two"):
        log_norms(field, ts[:1], ys[:1]).integral("mu_2")
