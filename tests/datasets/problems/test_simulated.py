"""Simulated tasks: invariants, reference values from the literature, and pieces cut end to end."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from odegrad.datasets.problems.simulated import Trajectories, cut, simulate
from odegrad.datasets.sources.seeding import TEST, generator
from odegrad.datasets.tasks.orbits import LotkaVolterra, ThreeBody
from odegrad.datasets.tasks.stiff import Robertson, VanDerPol
from odegrad.errors import InfrastructureError

CPU = torch.device("cpu")
TASKS: list[Trajectories] = [LotkaVolterra(), ThreeBody(), VanDerPol(), Robertson()]
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.info.name)


def simulated(task: Trajectories, count: int = 6) -> np.ndarray[Any, Any]:
    return task.simulated(task.settings["tiny"], count, TEST).numpy()


@each_task
def test_simulation_agrees_with_an_implicit_method(task: Trajectories) -> None:
    """Radau at tight tolerance, an integrator of another family, from the same start."""
    s = task.settings["tiny"]
    found = simulated(task, 1)
    times = task.start_time + s.step * np.arange(len(found))
    start = task.sample(1, generator(0, TEST))[0]
    other = solve_ivp(
        lambda t, y: task.rhs(t, y[None])[0], (times[0], times[-1]), start, t_eval=times, method="Radau",
        rtol=1e-9, atol=1e-11,
    )  # fmt: skip
    np.testing.assert_allclose(found[:, 0], other.y.T, rtol=2e-6, atol=2e-6)


def test_lotka_volterra_keeps_its_invariant() -> None:
    task = LotkaVolterra()
    values = task.invariant(simulated(task))
    np.testing.assert_allclose(values, np.broadcast_to(values[0], values.shape), rtol=0, atol=1e-8)


def test_three_bodies_keep_energy_momentum_and_centre() -> None:
    task = ThreeBody()
    y = simulated(task)
    energy = task.energy(y)
    np.testing.assert_allclose(energy, np.broadcast_to(energy[0], energy.shape), rtol=0, atol=1e-8)
    bodies = y.reshape(*y.shape[:2], 2, 3, 2)
    np.testing.assert_allclose(bodies.mean(3), 0.0, atol=1e-9)
    position, velocity = bodies[:, :, 0], bodies[:, :, 1]
    spin = (position[..., 0] * velocity[..., 1] - position[..., 1] * velocity[..., 0]).sum(-1)
    np.testing.assert_allclose(spin, np.broadcast_to(spin[0], spin.shape), rtol=0, atol=1e-8)


def test_undisturbed_figure_eight_returns_after_its_period() -> None:
    """Chenciner and Montgomery's period for these initial values is 6.32591398."""
    task = ThreeBody()
    task_start = np.array([[0.97000436, -0.24308753, -0.97000436, 0.24308753, 0.0, 0.0, 0.466203685, 0.43236573,
                            0.466203685, 0.43236573, -0.93240737, -0.86473146]])  # fmt: skip
    found = simulate(task.rhs, task_start, np.array([0.0, 6.32591398]), stiff=False)
    np.testing.assert_allclose(found[-1], found[0], atol=1e-6)


def test_van_der_pol_settles_on_its_limit_cycle() -> None:
    """For mu = 5 the amplitude is 2.0215 and the period 11.6122 in the equation's own time, mu in ours less."""
    task = VanDerPol()
    times = np.linspace(0.0, 10.0, 20_001)
    x = simulate(task.rhs, np.array([[2.0, 0.0]]), times, stiff=True)[10_000:, 0, 0]
    up = np.flatnonzero((x[:-1] < 0) & (x[1:] >= 0))
    period = np.diff(times[10_000:][up]).mean() * task.mu
    assert period == pytest.approx(11.6122, abs=2e-3)
    assert x.max() == pytest.approx(2.0215, abs=2e-4)


def test_robertson_matches_its_reference_and_conserves_mass() -> None:
    """At t = 40: 0.7158, 9.185e-6, 0.2842 (Hairer and Wanner 1996; the example of LSODE's own documentation)."""
    task = Robertson()
    times = np.array([task.start_time, np.log10(40.0) / 3.0])
    a, b, c = simulate(task.rhs, np.array([[1.0, 0.0, 0.0]]), times, stiff=True)[-1, 0] * np.array(task.scales)
    assert a == pytest.approx(0.7158271, abs=1e-6)
    assert b == pytest.approx(9.185535e-6, rel=1e-5)
    assert c == pytest.approx(0.2841637, abs=1e-6)
    masses = (simulated(task) * np.array(task.scales)).sum(-1)
    np.testing.assert_allclose(masses, 1.0, atol=1e-9)


def test_pieces_lie_end_to_end() -> None:
    line = torch.arange(7.0)[:, None, None].expand(7, 2, 1) + torch.tensor([[0.0], [100.0]])
    starts, rest = cut(line, 3)
    assert starts.squeeze(1).tolist() == [0.0, 100.0, 3.0, 103.0]
    assert rest[:, 0, 0].tolist() == [1.0, 2.0, 3.0]
    assert rest[:, 3, 0].tolist() == [104.0, 105.0, 106.0]


@each_task
def test_splits_are_apart_and_the_same_for_all_seeds(task: Trajectories) -> None:
    first, second = (task.build("tiny", seed, CPU, torch.float64) for seed in (0, 1))
    for name in ("validation", "test"):
        assert torch.equal(first.held_out[name][0], second.held_out[name][0])  # type: ignore[attr-defined]
    train = {tuple(row) for row in first.train[0].tolist()}  # type: ignore[attr-defined]
    assert not train & {tuple(row) for row in first.held_out["test"][0].tolist()}  # type: ignore[attr-defined]


def test_a_simulation_that_fails_says_why() -> None:
    with pytest.raises(InfrastructureError, match="could not solve it"):
        simulate(lambda _t, y: y**2, np.array([[1.0]]), np.array([0.0, 2.0]), stiff=False)
