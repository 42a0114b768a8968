"""Stiff equations seen over decades of time: published values, a closed form, and other integrators."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from odegrad.binding import solve_with
from odegrad.datasets.nets.layers import AutonomousNet
from odegrad.datasets.nets.stiff_fields import POLLU_SCALES, POLLU_START, ROBERTSON_SCALES, RobertsonField
from odegrad.datasets.nets.stiff_nets import LeakyNet
from odegrad.datasets.problems.decades import Decades
from odegrad.datasets.problems.simulated import simulate
from odegrad.datasets.sources.seeding import TEST, generator
from odegrad.datasets.tasks.kinetics import DavisSkodje, Pollu, Reactions, RoberNeural, RobertsonRaw
from odegrad.datasets.tasks.stiff import VanDerPol
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, build_task

CPU = torch.device("cpu")
TASKS: list[Decades] = [RobertsonRaw(), Pollu(), RoberNeural(), DavisSkodje()]
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.info.name)


@each_task
def test_simulation_agrees_with_another_method_at_every_time(task: Decades) -> None:
    """Backward differences at tight tolerance, from the same start, at the default size."""
    s = task.settings["default"]
    found, start = task.simulated(s, 1, TEST)[:, 0].numpy(), task.sample(1, generator(0, TEST))[0]
    rhs, jacobian = task.rhs(s), task.jacobian(s)
    other = solve_ivp(
        lambda t, y: rhs(t, y[None])[0], (0.0, s.last), start, t_eval=s.times, method="BDF", rtol=1e-8, atol=1e-10,
        jac=None if jacobian is None else lambda t, y: jacobian(t, y[None])[0],
    )  # fmt: skip
    np.testing.assert_allclose(found, other.y.T, rtol=1e-5, atol=1e-6)


def test_robertson_in_seconds_ends_where_the_literature_does() -> None:
    """At t = 40: 0.7158, 9.185e-6, 0.2842 (Hairer and Wanner 1996); in their own units as the field in mol."""
    task = RobertsonRaw()
    rhs = task.rhs(task.settings["paper"])
    start = np.array([[1.0, 0.0, 0.0]])
    found = simulate(rhs, start, np.array([0.0, 40.0]), stiff=True)[-1, 0] * np.array(ROBERTSON_SCALES)
    np.testing.assert_allclose(found, [0.7158271, 9.185535e-6, 0.2841637], rtol=1e-5)
    y = np.array([[0.7, 0.3, 0.2]])
    of_amounts = RobertsonField()(torch.zeros(()), torch.from_numpy(y * np.array(ROBERTSON_SCALES)))
    np.testing.assert_allclose(rhs(0.0, y), of_amounts.detach().numpy() / np.array(ROBERTSON_SCALES), rtol=1e-13)


def test_pollu_ends_where_its_test_set_says_and_its_units_are_its_largest_amounts() -> None:
    """Mazzia and Magherini's reference at t = 60 to six digits, from the published start."""
    task = Pollu()
    start = np.zeros((1, 20))
    for species, amount in POLLU_START.items():
        start[0, species - 1] = amount / POLLU_SCALES[species - 1]
    times = np.concatenate([[0.0], np.geomspace(1e-3, 60.0, 200)])
    s = task.settings["default"]
    found = simulate(task.rhs(s), start, times, stiff=True, jacobian=task.jacobian(s))[:, 0]
    end = found[-1] * np.array(POLLU_SCALES)
    wanted = {1: 0.5646255e-1, 2: 0.1342484, 3: 0.4139734e-8, 4: 0.5523140e-2, 8: 0.3245075, 16: 0.4352846e-17}
    for species, amount in wanted.items():
        assert end[species - 1] == pytest.approx(amount, rel=2e-6)
    np.testing.assert_allclose(found.max(0), 1.0, atol=0.05)


def test_davis_and_skodje_is_its_closed_form() -> None:
    task = DavisSkodje()
    for s in task.settings.values():
        starts = torch.from_numpy(task.sample(4, generator(0, TEST)))
        torch.testing.assert_close(task.simulated(s, 4, TEST), task.solution(s, starts), rtol=1e-7, atol=1e-8)


def test_a_slower_equation_is_the_true_one_with_its_fastest_constants_bound() -> None:
    """And units change the numbers, not the reactions."""
    task = Pollu()
    tiny, true = task.truth(task.settings["tiny"]), task.truth(task.settings["default"])
    rates = true.log_rates.exp().clamp(max=30.0)
    torch.testing.assert_close(tiny.log_rates.exp(), rates)
    units = torch.tensor(task.units(task.settings["tiny"]), dtype=torch.float64)
    own = torch.tensor(POLLU_SCALES, dtype=torch.float64)
    y = torch.rand(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        true.log_rates.copy_(rates.log())
        found, wanted = tiny(torch.zeros(()), y), true(torch.zeros(()), y * units / own) * own / units
    torch.testing.assert_close(found, wanted)


def test_the_jacobian_of_mass_action_is_that_of_autograd() -> None:
    field = Pollu().truth(Pollu.settings["default"])
    y = torch.rand(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = torch.autograd.functional.jacobian(lambda x: field(torch.zeros(()), x).sum(0), y).transpose(0, 1)
    torch.testing.assert_close(field.jacobian(y), wanted)


@pytest.mark.parametrize("task", [RobertsonRaw(), Pollu()], ids=lambda task: task.info.name)
def test_the_true_rate_constants_have_no_loss_by_implicit_steps(task: Reactions) -> None:
    """At the default size, where explicit steps would not end; and those that are drawn have one."""
    problem: Any = task.build("default", 0, CPU, torch.float64)
    solve = solve_with(build_gradient("naive"), make_solver("kvaerno5", rtol=1e-7, atol=1e-9, outputs="dense"))
    with torch.no_grad():
        assert problem.loss(solve, problem.probe_batch()).item() > 1e-4
        problem.model.log_rates.copy_(task.truth(task.settings["default"]).log_rates)
        assert problem.loss(solve, problem.probe_batch()).item() <= 1e-11


def test_van_der_pol_at_a_hundred_jumps_a_hundred_times_as_fast() -> None:
    """The size ``stiff`` holds the equation of mu = 100; with coefficients of 1 it has no loss."""
    problem: Any = build_task("van_der_pol").build("stiff", 0, CPU, torch.float64)
    starts, solutions = problem.probe_batch()
    solve = solve_with(build_gradient("naive"), make_solver("kencarp4", rtol=1e-6, atol=1e-8))
    with torch.no_grad():
        problem.model.log_coefficients.zero_()
        velocity = problem.model(torch.zeros(()), starts)
        np.testing.assert_allclose(velocity.numpy(), VanDerPol(100.0).rhs(0.0, starts.numpy()), rtol=1e-9)
        assert problem.loss(solve, (starts, solutions)).item() <= 1e-6
    assert isinstance(build_task("van_der_pol").build("tiny", 0, CPU, torch.float64).model, AutonomousNet)


def test_a_leaky_net_follows_its_net_at_each_components_own_rate() -> None:
    """Formula, rates as given, and states bound by the net's largest value."""
    net = AutonomousNet(2, (4,)).double()
    field = LeakyNet(net, (2.0, 1e-3)).double()
    y, t = torch.tensor([[0.3, -5.0]], dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(field(t, y), (net(t, y) - y) / torch.tensor([2.0, 1e-3], dtype=torch.float64))
    last: Any = net.layers[-1]
    bound = last.weight.abs().sum(1) + last.bias.abs()
    solve = solve_with(build_gradient("naive"), make_solver("kencarp4", rtol=1e-4, atol=1e-6))
    far = solve(field, 100.0 * y, torch.tensor([0.0, 40.0], dtype=torch.float64))[-1]
    assert bool((far.abs() <= bound * (1 + 1e-6)).all())
