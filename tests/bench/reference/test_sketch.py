"""Sketches of gradients: the matrix is the one stated, distances are kept to what is promised, rounding is small."""

import numpy as np
import pytest
import torch

from odegrad.reference.sketch import SKETCH_SEED, SKETCH_SIZE, sketch


def _vector(size, seed):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size))


def test_sketch_is_the_product_with_signs():
    """The matrix, column by column from unit vectors, holds only +1/8 and -1/8, and the sketch is linear."""
    size = 12
    matrix = np.array([sketch(row) for row in torch.eye(size, dtype=torch.float64)]).T
    assert matrix.shape == (SKETCH_SIZE, size)
    assert set(np.abs(matrix).ravel()) == {0.125}
    vector = _vector(size, 0)
    np.testing.assert_allclose(sketch(vector), matrix @ vector.numpy(), rtol=1e-13)


def test_signs_are_the_bits_of_one_generator():
    """Bit b of a parameter's random word is the sign of row b: the same on every machine, also across chunks."""
    size = 2**16 + 3
    words = np.random.PCG64([SKETCH_SEED, size]).random_raw(size)
    for place in (0, 2**16 - 1, 2**16, size - 1):
        unit = torch.zeros(size, dtype=torch.float64)
        unit[place] = 8.0
        bytes_of = [(int(words[place]) >> (8 * (row // 8))) & 0xFF for row in range(SKETCH_SIZE)]
        signs = [1.0 if (byte >> (7 - row % 8)) & 1 else -1.0 for row, byte in enumerate(bytes_of)]
        assert sketch(unit) == signs


def test_distances_are_kept_to_nine_percent():
    """Over 200 pairs of gradients, with differences from 1e-12 to 1, the estimate's relative error is about 0.09."""
    ratios = []
    for seed in range(200):
        first = _vector(500, 2 * seed)
        step = _vector(500, 2 * seed + 1) * 10.0 ** -(seed % 13)
        apart = np.linalg.norm(np.array(sketch(first + step)) - np.array(sketch(first)))
        ratios.append(apart / float(torch.linalg.vector_norm(first + step - first)))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.03)
    assert np.std(ratios) == pytest.approx(1.0 / np.sqrt(2.0 * SKETCH_SIZE), rel=0.2)
    assert max(abs(np.array(ratios) - 1.0)) < 0.4


def test_equal_gradients_have_equal_sketches():
    """No difference is no difference, and rounding in the sketch is far below 1e-14 of the norm."""
    vector = _vector(10_000, 3)
    assert sketch(vector) == sketch(vector.clone())
    moved = vector * (1.0 + 2.0**-52)
    apart = np.linalg.norm(np.array(sketch(moved)) - np.array(sketch(vector)))
    assert apart < 1e-14 * float(torch.linalg.vector_norm(vector))
