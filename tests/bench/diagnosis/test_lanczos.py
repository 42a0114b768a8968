"""Extreme eigenvalues of many matrices at once against LAPACK and ARPACK."""

import pytest
import torch
from scipy.sparse.linalg import eigsh

from odegrad.diagnosis.lanczos import extreme_eigenvalues
from odegrad.errors import UsageError


def _symmetric(batch, n, seed=0):
    a = torch.randn(batch, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (a + a.mT) / 2


def _find(a, **options):
    return extreme_eigenvalues(lambda v: (a @ v[..., None])[..., 0], tuple(a.shape[:2]), **options)


@pytest.mark.parametrize("n", [1, 2, 5, 60, 300])
def test_both_ends_equal_lapack(n):
    """Random symmetric matrices of every size: both ends within the tolerance, from one space."""
    a = _symmetric(8, n)
    found, true = _find(a, tolerance=1e-8), torch.linalg.eigvalsh(a)
    assert bool(found.converged.all())
    assert torch.allclose(found.largest, true[:, -1], rtol=1e-8)
    assert torch.allclose(found.smallest, true[:, 0], rtol=1e-8)
    assert found.products <= n


def test_equals_arpack():
    """Another library's Lanczos iteration finds the same ends."""
    (a,) = _symmetric(1, 200)
    found = _find(a[None], tolerance=1e-10)
    true = eigsh(a.numpy(), k=2, which="BE", return_eigenvectors=False)
    assert sorted([found.smallest.item(), found.largest.item()]) == pytest.approx(sorted(true), rel=1e-9)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_tolerance_is_kept_and_a_start_near_by_saves_products(tolerance):
    """On 40 matrices with a dense edge of the spectrum no error exceeds the tolerance; a warm start costs less."""
    a = _symmetric(40, 500)
    true = torch.linalg.eigvalsh(a)
    cold = _find(a, tolerance=tolerance)
    warm = _find(a + 1e-4 * _symmetric(40, 500, seed=1), tolerance=tolerance, start=cold.start)
    for found in (cold, warm):
        assert bool(found.converged.all())
    assert ((cold.largest - true[:, -1]).abs() <= tolerance * true[:, -1].abs()).all()
    assert ((cold.smallest - true[:, 0]).abs() <= tolerance * true[:, 0].abs()).all()
    assert warm.products < cold.products


def test_a_value_that_stands_still_is_seldom_not_the_last_one():
    """Alone, where no other matrix of a batch prolongs the search: at most one of 80 is off by more than 1e-3."""
    off = 0
    for seed in range(80):
        a = _symmetric(1, 100, seed)
        found, true = _find(a, tolerance=1e-3, smallest=False), torch.linalg.eigvalsh(a)[:, -1]
        assert bool(found.converged.all())
        off += int((found.largest - true).abs() > 1e-3 * true)
    assert off <= 1


def test_restarts_find_the_same(monkeypatch):
    """With room for 12 vectors the space restarts from its best ones, and takes more products for the same result."""
    a = _symmetric(4, 200)
    free = _find(a, tolerance=1e-8)
    monkeypatch.setattr("odegrad.diagnosis.lanczos.LARGEST_BASIS", 12)
    tight = _find(a, tolerance=1e-8)
    assert torch.allclose(tight.largest, free.largest, rtol=1e-8)
    assert torch.allclose(tight.smallest, free.smallest, rtol=1e-8)
    assert tight.products > free.products


def test_zero_low_rank_and_full_matrices_side_by_side():
    """Krylov spaces that close early go on with other vectors: zero, identity, rank one, rank two, full."""
    n = 40
    x, y = torch.eye(n, dtype=torch.float64)[:2]
    a = torch.stack(
        [
            torch.zeros(n, n, dtype=torch.float64),
            -3 * torch.eye(n, dtype=torch.float64),
            torch.outer(x, x),
            torch.outer(x, x) - 2 * torch.outer(y, y),
            *_symmetric(1, n),
        ]
    )
    found, true = _find(a, tolerance=1e-9), torch.linalg.eigvalsh(a)
    assert bool(found.converged.all())
    assert torch.allclose(found.largest, true[:, -1], rtol=1e-8, atol=1e-12)
    assert torch.allclose(found.smallest, true[:, 0], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_batch_s_largest_needs_fewer_products(seed):
    """Samples that cannot hold the batch's largest value are not waited for; that value is within the tolerance."""
    a = _symmetric(60, 300, seed)
    every, batch = (_find(a, tolerance=1e-3, smallest=False, all_samples=choice) for choice in (True, False))
    true = torch.linalg.eigvalsh(a)[:, -1].max().item()
    assert batch.largest.max().item() == pytest.approx(true, rel=1e-3)
    assert bool(batch.converged.all())
    assert batch.products < every.products


def test_limit_is_told():
    """Five products are too few for a matrix of 300: marked, and below the true value."""
    a = _symmetric(2, 300)
    found = _find(a, tolerance=1e-8, limit=5)
    assert found.products == 5
    assert found.converged.tolist() == [False, False]
    assert (found.largest < torch.linalg.eigvalsh(a)[:, -1]).all()


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"tolerance": 2.0}, {"limit": 0}])
def test_bad_options(options):
    """Tolerances outside (0, 1) and no products are refused."""
    with pytest.raises(UsageError, match="tolerance, limit: expected"):
        _find(_symmetric(1, 3), **options)
