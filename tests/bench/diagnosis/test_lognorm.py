"""Logarithmic norms and other measures of matrices against their definition, identities and closed forms."""

import math

import pytest
import torch

from odegrad.diagnosis.lognorm import mu_1, mu_2, mu_inf, spectral_abscissa, spectral_norm, stiffness_ratio

NORMS = [(mu_1, 1), (mu_2, 2), (mu_inf, float("inf"))]


def _matrices(count=20, n=5):
    return torch.randn(count, n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_shear():
    """A = [[-1, 4], [0, -1]]: mu_2 = 1, mu_1 = mu_inf = 3; its abscissa is -1, its norm 2 + sqrt(5)."""
    a = torch.tensor([[-1.0, 4.0], [0.0, -1.0]], dtype=torch.float64)
    assert [mu(a).item() for mu in (mu_2, mu_1, mu_inf)] == pytest.approx([1.0, 3.0, 3.0], abs=1e-14)
    assert spectral_abscissa(a).item() == pytest.approx(-1.0, abs=1e-7)
    assert spectral_norm(a).item() == pytest.approx(2 + math.sqrt(5), abs=1e-14)


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


def test_abscissa_and_norm_of_known_matrices():
    """A similarity keeps the abscissa; orthogonal factors keep the norm."""
    diagonal = torch.diag(torch.tensor([-3.0, 0.5, -0.2, -7.0, -1.0], dtype=torch.float64))
    p = _matrices()
    q = torch.linalg.qr(p).Q
    assert torch.allclose(spectral_abscissa(p @ diagonal @ torch.linalg.inv(p)), torch.tensor(0.5).double(), atol=1e-9)
    assert torch.allclose(spectral_norm(q @ diagonal @ q[[3]]), torch.tensor(7.0).double(), atol=1e-12)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[-1.0, 0.0], [0.0, -40.0]], 40.0),
        ([[-1.0, 5.0], [0.0, -40.0]], 40.0),
        ([[-2.0, 3.0], [-3.0, -2.0]], 1.0),
        ([[3.0, 0.0], [0.0, -40.0]], 1.0),
        ([[3.0, 0.0], [0.0, 0.0]], math.nan),
        ([[0.0, 1.0], [-1.0, 0.0]], math.nan),
    ],
    ids=["diagonal", "triangular", "complex pair", "one decays", "none decays", "rotation"],
)
def test_stiffness_ratio(matrix, expected):
    """Fastest decay over slowest; growing and resting directions do not count."""
    found = stiffness_ratio(torch.tensor([matrix, matrix], dtype=torch.float64))
    assert found.tolist() == pytest.approx([expected] * 2, rel=1e-12, nan_ok=True)
