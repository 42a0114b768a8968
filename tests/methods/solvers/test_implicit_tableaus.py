"""Implicit tableaus against the rooted trees of their order, stiff accuracy and stability."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest

from odegrad.errors import UsageError
from odegrad.methods.solvers.implicit.tableaus import (
    IMPLICIT_TABLEAUS,
    KENCARP4_DENSE,
    KENCARP4_EMBEDDED,
    KENCARP4_EXPLICIT_ROWS,
    KENCARP4_ROWS,
)
from odegrad.methods.solvers.solver import make_solver

EMBEDDED_AT_INFINITY = {"kvaerno3": -0.957, "kencarp4": -0.150, "kvaerno5": -0.748}
"""The embedded methods' stability function at infinity, by the published tables."""


def trees(order):
    """Return every rooted tree of ``order`` vertices as the sorted tuple of its branches."""
    if order == 1:
        return [()]
    found = set()
    for sizes in _partitions(order - 1):
        for branches in itertools.product(*(trees(size) for size in sizes)):
            found.add(tuple(sorted(branches)))
    return sorted(found)


def _partitions(n, most=None):
    most = n if most is None else most
    if n == 0:
        yield ()
    for first in range(min(n, most), 0, -1):
        for rest in _partitions(n - first, first):
            yield (first, *rest)


def size(tree):
    return 1 + sum(size(branch) for branch in tree)


def density(tree):
    out = size(tree)
    for branch in tree:
        out *= density(branch)
    return out


def weights(tree, a):
    """Return the elementary weight of ``tree`` at every stage."""
    out = [1] * len(a)
    for branch in tree:
        inner = weights(branch, a)
        out = [x * sum(row[j] * inner[j] for j in range(len(row))) for x, row in zip(out, a, strict=True)]
    return out


def residual(a, b, order):
    """Return the largest residual of the conditions up to ``order``."""
    worst = 0
    for p in range(1, order + 1):
        for tree in trees(p):
            value = sum(x * w for x, w in zip(b, weights(tree, a), strict=True))
            worst = max(worst, abs(value - Fraction(1, density(tree))))
    return worst


def exact(tableau):
    """Return ``a`` and ``b`` as the rational numbers that their floats are."""
    a = [[Fraction(x) for x in row] for row in tableau.full]
    return a, [Fraction(x) for x in tableau.b]


def test_trees_are_as_many_as_known():
    """1, 1, 2, 4, 9, 20 rooted trees of 1 to 6 vertices (Hairer, Norsett and Wanner, Solving ODEs I, II.2)."""
    assert [len(trees(n)) for n in range(1, 7)] == [1, 1, 2, 4, 9, 20]


@pytest.mark.parametrize("name", IMPLICIT_TABLEAUS)
def test_order_by_rooted_trees(name):
    """Every condition of the order holds to rounding, and one of the next order does not."""
    tableau = IMPLICIT_TABLEAUS[name]
    a, b = exact(tableau)
    assert residual(a, b, tableau.order) <= 1e-15
    assert residual(a, b, tableau.order + 1) > 1e-4
    if tableau.error is not None:
        embedded = [x - Fraction(e) for x, e in zip(b, tableau.error, strict=True)]
        assert residual(a, embedded, tableau.embedded_order) <= 1e-15
        assert residual(a, embedded, tableau.embedded_order + 1) > 1e-6


def test_kencarp4_is_exact():
    """Its published fractions meet every condition as rational numbers, the embedded ones too."""
    g = Fraction(1, 4)
    rows = [[*row, g if i else Fraction(0)] for i, row in enumerate(KENCARP4_ROWS)]
    assert residual(rows, rows[-1], 4) == 0
    assert residual(rows, list(KENCARP4_EMBEDDED), 3) == 0


def coloured(tree, tables):
    """Return the elementary weights of ``tree`` at every stage for each choice of a table at each of its edges."""
    found = [[1] * len(tables[0])]
    for branch in tree:
        ways = [
            [sum(row[j] * inner[j] for j in range(len(row))) for row in a]
            for inner in coloured(branch, tables)
            for a in tables
        ]
        found = [[x * y for x, y in zip(known, way, strict=True)] for known in found for way in ways]
    return found


def coupled_residual(tables, b, order):
    """Return the largest residual of every condition of an additive pair up to ``order``."""
    return max(
        abs(sum(x * w for x, w in zip(b, weight, strict=True)) - Fraction(1, density(tree)))
        for p in range(1, order + 1)
        for tree in trees(p)
        for weight in coloured(tree, tables)
    )


PAIR = (
    [[*row, Fraction(1, 4) if i else Fraction(0)] for i, row in enumerate(KENCARP4_ROWS)],
    [[*row, Fraction(0)] for row in KENCARP4_EXPLICIT_ROWS],
)
"""The implicit and the explicit half, as published."""


@pytest.mark.parametrize("embedded", [False, True])
def test_the_pair_by_every_coloured_tree(embedded):
    """Its fractions, published to 25 digits, meet every coupled condition of order 4; the embedded ones of order 3."""
    b, order = (list(KENCARP4_EMBEDDED), 3) if embedded else (PAIR[0][-1], 4)
    # Two colours for each edge of each of the 1, 1, 2, 4 trees.
    assert [sum(len(coloured(tree, PAIR)) for tree in trees(p)) for p in range(1, 5)] == [1, 2, 8, 32]
    assert coupled_residual(PAIR, b, order) <= Fraction(1, 10**24)
    assert coupled_residual(PAIR, b, order + 1) > 1e-5


def test_floats_of_the_pair_are_its_fractions():
    """What the solver steps with are the same numbers, to a float's rounding."""
    scheme = make_solver("kencarp4_imex").scheme
    for row, exact_row in zip(scheme.partner.a, KENCARP4_EXPLICIT_ROWS, strict=True):
        assert row == tuple(map(float, exact_row))


def test_dense_output_of_the_pair():
    """At every theta it is of order 3 on every coloured tree, ends in b, and is bounded on fast modes.

    On a fast mode ``k_1`` grows with the rate; in the stages of the implicit half what it does is bounded, and so it is
    in weights that are a sum of their rows.
    """
    a = [[*row, *[Fraction(0)] * (6 - len(row))] for row in PAIR[0]]
    for theta in (Fraction(1, 7), Fraction(1, 2), Fraction(9, 10), Fraction(1)):
        b = [sum(w * theta ** (k + 1) for k, w in enumerate(row)) for row in KENCARP4_DENSE]
        for p in range(1, 4):
            for tree in trees(p):
                for weight in coloured(tree, PAIR):
                    value = sum(x * w for x, w in zip(b, weight, strict=True))
                    assert abs(value - theta**p / density(tree)) <= Fraction(1, 10**22)
        rows = np.linalg.solve(np.array(a, dtype=float)[1:, 1:].T, np.array(b, dtype=float)[1:])
        assert float(b[0]) == pytest.approx(float(rows @ np.array(a, dtype=float)[1:, 0]), abs=1e-13)
    assert all(abs(x - y) <= Fraction(1, 10**22) for x, y in zip(b, PAIR[0][-1], strict=True))


@pytest.mark.parametrize("name", IMPLICIT_TABLEAUS)
def test_stability(name):
    """|R(iy)| <= 1 on the imaginary axis; R vanishes at infinity where it should, as the last row of a is b."""
    tableau = IMPLICIT_TABLEAUS[name]
    s = tableau.stages
    a = np.array([[*row, *[0.0] * (s - len(row))] for row in tableau.full])
    b = np.array(tableau.b)
    for y in np.concatenate([np.linspace(0.0, 20.0, 160), np.geomspace(20.0, 1e6, 160)]):
        r = 1 + 1j * y * b @ np.linalg.solve(np.eye(s) - 1j * y * a, np.ones(s))
        assert abs(r) <= 1 + 1e-9
    assert at_infinity(tableau, tableau.b) == pytest.approx(-1.0 if name == "implicit_midpoint" else 0.0, abs=1e-8)
    assert tableau.stiffly_accurate == (name != "implicit_midpoint")
    if name in EMBEDDED_AT_INFINITY:
        embedded = [x - e for x, e in zip(tableau.b, tableau.error, strict=True)]
        assert at_infinity(tableau, embedded) == pytest.approx(EMBEDDED_AT_INFINITY[name], abs=6e-4)


def at_infinity(tableau, b):
    """Return R(-1e10) as a rational number's float; further out the last digits of the table's floats count."""
    z, k = Fraction(-(10**10)), []
    for row in tableau.full:
        inner = sum((Fraction(x) * known for x, known in zip(row, k, strict=False)), Fraction(0))
        k.append((1 + z * inner) / (1 - z * Fraction(row[-1])))
    return float(1 + z * sum(Fraction(x) * known for x, known in zip(b, k, strict=True)))


def test_a_wrong_tableau_is_refused():
    """A c that is not its row's sum converges at order 1 on f(t, y) and not on f(y): it must not come to that."""
    good = IMPLICIT_TABLEAUS["kvaerno3"]
    with pytest.raises(UsageError, match="expected c"):
        dataclasses.replace(good, c=(0.0, good.c[1] + 1e-12, 1.0, 1.0))
    b = (good.b[0] + 1e-9, good.b[1] - 1e-9, *good.b[2:])
    with pytest.raises(UsageError, match="last row"):
        dataclasses.replace(good, b=b)
