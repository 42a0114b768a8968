"""Equations with a solution in closed form: truth for every gradient method."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import TaskInfo
from odegrad.datasets.problems.known_solution import (
    ClosedForm,
    ClosedFormSettings,
    LinearEquation,
    LogisticField,
    RotationField,
    SolvableField,
)
from odegrad.datasets.problems.sizes import trained


class Linear(ClosedForm):
    """``y' = A y``: a damped chain, neighbours coupled by opposite rates; all of A is trained."""

    damping: ClassVar[float] = 0.1

    info: ClassVar[TaskInfo] = TaskInfo(
        name="linear",
        kind="closed form",
        summary="damped oscillations y' = A y; all of A is fitted to solutions by the matrix exponential",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 1e-4, "default": 1e-4, "paper": 1e-4},
        offline=True,
        citation="generated; Moler and Van Loan, Nineteen Dubious Ways to Compute the Exponential of a Matrix, "
        "Twenty-Five Years Later, SIAM Review 45, 2003",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, ClosedFormSettings]] = {
        "tiny": ClosedFormSettings(
            rates=(2.0,),
            end_time=1.0,
            intervals=4,
            offset=1.0,
            batch_size=64,
            test_points=256,
            training=trained(80, adam=5e-2, sgd=0.3, snopt=0.05, eps=0.05),
        ),
        "default": ClosedFormSettings(
            rates=(2.0, 1.0, 3.0, 1.0, 2.0),
            end_time=3.0,
            intervals=10,
            offset=0.5,
            batch_size=128,
            test_points=1_000,
            training=trained(500, adam=2e-2, sgd=0.3, snopt=0.05, eps=0.05, update_freq=100),
        ),
        "paper": ClosedFormSettings(
            rates=(2.0, 1.0, 3.0, 1.0, 2.0, 1.0, 3.0, 1.0, 2.0),
            end_time=3.0,
            intervals=10,
            offset=0.5,
            batch_size=256,
            test_points=1_000,
            training=trained(2_000, adam=2e-2, sgd=0.3, snopt=0.05, eps=0.05, update_freq=100),
        ),
    }

    def truth(self, rates: Tensor) -> SolvableField:
        """Return the chain ``A``: ``-damping`` on the diagonal, ``rates`` above it and ``-rates`` below."""
        chain = torch.diag(rates, 1) - torch.diag(rates, -1)
        return LinearEquation(chain - self.damping * torch.eye(len(chain), dtype=rates.dtype))


class Rotation(ClosedForm):
    """Planes that turn at their own angular velocities ``rates``: long, and every norm is kept."""

    info: ClassVar[TaskInfo] = TaskInfo(
        name="rotation",
        kind="closed form",
        summary="planes that turn for several periods; their angular velocities are fitted",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 1e-3, "default": 1e-3, "paper": 1e-3},
        offline=True,
        citation="generated; the harmonic oscillator as a test of long integration after Hairer, Lubich and Wanner, "
        "Geometric Numerical Integration, Springer 2006, section I.1",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, ClosedFormSettings]] = {
        "tiny": ClosedFormSettings(
            rates=(1.0, 2.0),
            end_time=6.0,
            intervals=6,
            offset=0.3,
            batch_size=64,
            test_points=256,
            training=trained(80, adam=2e-2, sgd=0.02, snopt=None, momentum=0.5),
        ),
        "default": ClosedFormSettings(
            rates=(1.0, 2.0, 3.0, 4.0),
            end_time=20.0,
            intervals=20,
            offset=0.1,
            batch_size=128,
            test_points=1_000,
            training=trained(200, adam=5e-3, sgd=2e-3, snopt=None, momentum=0.5),
        ),
        "paper": ClosedFormSettings(
            rates=(1.0, 2.0, 3.0, 4.0),
            end_time=50.0,
            intervals=50,
            offset=0.03,
            batch_size=256,
            test_points=1_000,
            training=trained(500, adam=1e-3, sgd=4e-4, snopt=None, momentum=0.5),
        ),
    }

    def truth(self, rates: Tensor) -> SolvableField:
        """Return planes with angular velocities ``rates``."""
        return RotationField(rates)


class Logistic(ClosedForm):
    """Populations that grow at ``rates`` to capacities between 1 and 2, from positive, log-normal beginnings."""

    info: ClassVar[TaskInfo] = TaskInfo(
        name="logistic",
        kind="closed form",
        summary="logistic growth of populations; rates and capacities are fitted",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 1e-4, "default": 1e-3, "paper": 1e-4},
        offline=True,
        citation="generated; Verhulst, Notice sur la loi que la population suit dans son accroissement, "
        "Correspondance mathematique et physique 10, 1838",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, ClosedFormSettings]] = {
        "tiny": ClosedFormSettings(
            rates=(1.0, 3.0),
            end_time=2.0,
            intervals=4,
            offset=0.5,
            batch_size=64,
            test_points=256,
            training=trained(80, adam=5e-2, sgd=0.3, snopt=None),
        ),
        "default": ClosedFormSettings(
            rates=(0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0),
            end_time=4.0,
            intervals=10,
            offset=0.5,
            batch_size=128,
            test_points=1_000,
            training=trained(300, adam=3e-2, sgd=1.0, snopt=None),
        ),
        "paper": ClosedFormSettings(
            rates=(0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0),
            end_time=4.0,
            intervals=10,
            offset=0.5,
            batch_size=256,
            test_points=1_000,
            training=trained(2_000, adam=2e-2, sgd=1.0, snopt=None),
        ),
    }

    def truth(self, rates: Tensor) -> SolvableField:
        """Return growth at ``rates`` to capacities that are equally spaced between 1 and 2."""
        return LogisticField(rates, torch.linspace(1.0, 2.0, len(rates), dtype=rates.dtype))

    def start(self, normal: Tensor) -> Tensor:
        """Return log-normal populations of median 0.4: most grow, some decline."""
        return 0.4 * torch.exp(0.8 * normal)


class Contracting(ClosedForm):
    """``y' = A y`` with symmetric A of eigenvalues ``-rates``; its fast direction forgets its past.

    A method that solves the state backwards multiplies its errors by ``exp(max(rates) dt)`` between two outputs. The
    tiny size has outputs close together, so that every method trains. The default size has one, at the end, where
    this factor is ``exp(20)``: the adjoint's gradient is off by a large part at a relative tolerance of 1e-6.
    """

    angle: ClassVar[float] = math.pi / 6.0
    """Between the first axis and the slow direction: no entry of A is zero."""

    info: ClassVar[TaskInfo] = TaskInfo(
        name="contracting",
        kind="closed form",
        summary="y' = A y with eigenvalues -1 and -20; all of A is fitted; breaks what solves the state backwards",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 1e-4, "default": 1e-4, "paper": 1e-5},
        offline=True,
        citation="generated; Gholami et al., ANODE: Unconditionally Accurate Memory-Efficient Gradients for Neural "
        "ODEs, IJCAI 2019, section 3, on solving contracting equations backwards",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, ClosedFormSettings]] = {
        "tiny": ClosedFormSettings(
            rates=(1.0, 20.0),
            end_time=0.5,
            intervals=5,
            offset=1.0,
            batch_size=64,
            test_points=256,
            training=trained(80, adam=0.1, sgd=1.0, snopt=0.1, eps=0.05),
        ),
        "default": ClosedFormSettings(
            rates=(1.0, 20.0),
            end_time=1.0,
            intervals=1,
            offset=1.0,
            batch_size=128,
            test_points=1_000,
            training=trained(300, adam=0.05, sgd=1.0, snopt=0.1, eps=0.05, update_freq=100),
        ),
        "paper": ClosedFormSettings(
            rates=(1.0, 40.0),
            end_time=1.0,
            intervals=1,
            offset=1.0,
            batch_size=256,
            test_points=1_000,
            training=trained(1_000, adam=0.05, sgd=1.0, snopt=0.1, eps=0.05, update_freq=100),
        ),
    }

    def truth(self, rates: Tensor) -> SolvableField:
        """Return the symmetric field whose eigenvalues are minus the two ``rates``, the axes turned by ``angle``."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        axes = torch.tensor([[cos, -sin], [sin, cos]], dtype=rates.dtype)
        return LinearEquation(-axes @ torch.diag(rates) @ axes.T)
