"""Logarithmic norms against their definition, identities, the quoted figures and dense matrices."""

import pytest
import torch
from torch import nn

from odegrad.checks.problems import SmoothNet, smooth_net_start
from odegrad.errors import NonFiniteError
from odegrad.lognorm import dense_jacobian, lanczos_mu_2, max_log_norm, mu_1, mu_2, mu_inf
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver

NORMS = [(mu_1, 1), (mu_2, 2), (mu_inf, float("inf"))]


def _matrices(count=20, n=5):
    return torch.randn(count, n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_shear():
    """A = [[-1, 4], [0, -1]]: mu_2 = 1, mu_1 = mu_inf = 3."""
    a = torch.tensor([[-1.0, 4.0], [0.0, -1.0]], dtype=torch.float64)
    assert [mu(a).item() for mu in (mu_2, mu_1, mu_inf)] == pytest.approx([1.0, 3.0, 3.0], abs=1e-14)


@pytest.mark.parametrize(("mu", "p"), NORMS)
def test_definition_and_identities(mu, p):
    """The limit of (||I + hA|| - 1) / h; shift; subadditivity; the spectrum lies between."""
    a, b, eye = _matrices(), _matrices(10).repeat(2, 1, 1), torch.eye(5, dtype=torch.float64)
    h = 1e-7
    limit = (torch.linalg.matrix_norm(eye + h * a, ord=p) - 1) / h
    assert torch.allclose(mu(a), limit, atol=1e-5)
    assert torch.allclose(mu(a + 1.7 * eye), mu(a) + 1.7, atol=1e-12)
    assert (mu(a + b) <= mu(a) + mu(b) + 1e-12).all()
    spectrum = torch.linalg.eigvals(a).real
    assert (spectrum.amax(-1) <= mu(a) + 1e-12).all()
    assert (-mu(-a) <= spectrum.amin(-1) + 1e-12).all()
    assert torch.allclose(mu_1(a.mT), mu_inf(a))


def test_smooth_net_figures():
    """Mu over 400 times x 16 samples along the smooth net's solution, to the quoted digits."""
    field, (y0, _) = SmoothNet(), smooth_net_start()
    ts = torch.linspace(0.0, 1.0, 400, dtype=torch.float64)
    with torch.no_grad():
        ys = Naive()(field, make_solver("dopri5", rtol=1e-9, atol=1e-9), y0, ts)
    jacobians = torch.stack([dense_jacobian(field, t, y) for t, y in zip(ts, ys, strict=True)])
    two = mu_2(jacobians)
    found = [two.mean(), two.min(), two.max(), mu_1(jacobians).mean(), mu_inf(jacobians).mean()]
    assert [x.item() for x in found] == pytest.approx([1.2442, 0.4504, 2.5826, 3.0898, 3.3558], abs=6e-5)
    norm = torch.linalg.matrix_norm(jacobians, ord=2).mean().item()
    assert norm == pytest.approx(2.1718, abs=6e-5)
    growth = torch.exp(torch.trapezoid(two[:, :4], ts, dim=0)).tolist()
    assert growth == pytest.approx([3.6606, 6.9990, 2.5342, 2.9120], abs=2e-3)
    assert max_log_norm(field, ts[::40], ys[::40]) == pytest.approx(two[::40].max().item(), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_lanczos_equals_dense(seed):
    """Matrix-free mu_2 of the whole batch is the largest dense one over samples, to 1e-6."""
    field = SmoothNet(d=6, hidden=16, seed=seed)
    y = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    t = torch.tensor(0.3, dtype=torch.float64)
    dense = mu_2(dense_jacobian(field, t, y)).amax().item()
    assert lanczos_mu_2(field, t, y) == pytest.approx(dense, rel=1e-6)


class _Conv(nn.Module):
    """A field with running statistics and dropout: one f call changes buffers and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4).double()
        self.conv = nn.Conv2d(4, 4, 3, padding=1).double()
        self.dropout = nn.Dropout(0.3)

    def forward(self, t, y):
        return torch.tanh(self.conv(self.dropout(self.norm(y))))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("side", [2, 6])
def test_nothing_is_disturbed(side, training):
    """Parameters, gradients, buffers and random numbers stay as they were, dense (2 x 2) and matrix-free (6 x 6)."""
    torch.manual_seed(0)
    field, y = _Conv().train(training), torch.randn(2, 4, side, side, dtype=torch.float64)
    before = {k: v.clone() for k, v in field.state_dict().items()}
    rng = torch.get_rng_state()
    max_log_norm(field, torch.tensor([0.0], dtype=torch.float64), y[None])
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in field.state_dict().items())
    assert all(p.grad is None for p in field.parameters())


def test_large_states_are_routed_to_lanczos():
    """4 x 6 x 6 numbers a sample: equals the dense Jacobian (in evaluation mode, where samples are independent)."""
    torch.manual_seed(0)
    field, y = _Conv().eval(), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    ts = torch.tensor([0.0], dtype=torch.float64)
    dense = mu_2(dense_jacobian(field, ts[0], y)).amax().item()
    assert max_log_norm(field, ts, y[None]) == pytest.approx(dense, rel=1e-6)


class _Linear(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, t, y):
        return y @ self.a.T


@pytest.mark.parametrize("n", [3, 150])
def test_symmetric_part_zero(n):
    """A field that starts at zero, a rotation and a constant field have mu_2 = 0, dense and matrix-free."""

    class Constant(nn.Module):
        def forward(self, t, y):
            return torch.ones_like(y)

    a = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, ts = torch.ones(1, 2, n, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for field in (_Linear(0 * a), _Linear(a - a.T), Constant()):
        assert max_log_norm(field, ts, y) == pytest.approx(0.0, abs=1e-12)


def test_tuple_states():
    """The parts of a tuple form one Jacobian per sample: here [[0, 1], [-4, 0]], whose mu_2 is 3 / 2."""

    class Oscillator(nn.Module):
        def forward(self, t, state):
            return state[1], -4 * state[0]

    y = (torch.ones(3, 1, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64))
    t = torch.zeros((), dtype=torch.float64)
    assert mu_2(dense_jacobian(Oscillator(), t, y)).tolist() == pytest.approx([1.5] * 3)
    assert lanczos_mu_2(Oscillator(), t, y) == pytest.approx(1.5, rel=1e-6)


def test_non_finite_jacobian_names_the_time():
    """A NaN parameter is answered with the time."""
    field = SmoothNet(d=2, hidden=3)
    with torch.no_grad():
        field.weights[0][0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"Jacobian: not finite at t = 0\.5"):
        max_log_norm(field, torch.tensor([0.5]).double(), torch.ones(1, 2, 2, dtype=torch.float64))
