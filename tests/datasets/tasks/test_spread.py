"""Oscillators of unlike stiffness: the data are solutions of the field at the true coefficients; steps spread."""

import torch

from odegrad.checks.problems import StepLog
from odegrad.datasets.nets.stiff_fields import SpreadVanDerPolField
from odegrad.datasets.tasks.stiff import VanDerPolSpread
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient


class _Rounds(StepLog):
    """Keeps the steps of each sample."""

    def solved_in_rounds(self, counts):
        self.steps = counts.steps


def test_data_solve_the_equation_and_samples_are_of_unlike_difficulty():
    """SciPy's trajectories are those of the field with a = b = c = 1; samples' own steps spread by more than 1:2."""
    problem = VanDerPolSpread().build("tiny", 0, torch.device("cpu"), torch.float64)
    starts, solutions = problem.batch(0)
    field, log = SpreadVanDerPolField(torch.ones(3, dtype=torch.float64)), _Rounds()
    solver = make_solver("dopri5", rtol=1e-8, atol=1e-10, batch="per_sample").observed_by(log)
    with torch.no_grad():
        ys = build_gradient("aca")(field, solver, starts, problem.ts)
    torch.testing.assert_close(ys[1:], solutions, rtol=0, atol=1e-6)
    assert max(log.steps) > 2 * min(log.steps)
    assert problem.loss(lambda f, y, t: build_gradient("aca")(f, solver, y, t), problem.batch(0)) > 1e-4
