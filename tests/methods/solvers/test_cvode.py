"""States against CVODES, another library's multistep method: where scikit-sundae is installed."""

import numpy as np
import pytest
import torch

from odegrad.datasets.nets.stiff_fields import POLLU_START, RobertsonField, VanDerPolField, pollu_field
from odegrad.methods.gradients.aca import Aca
from odegrad.methods.solvers.solver import make_solver

cvode = pytest.importorskip("sksundae.cvode", reason="scikit-sundae is not installed; pip install '.[test]' brings it")

START_OF_POLLU = [POLLU_START.get(species, 0.0) for species in range(1, 21)]
CASES = {
    "Robertson to 1e4": (RobertsonField, [1.0, 0.0, 0.0], 1e4, 1e-14),
    "van der Pol, mu = 100, to 100": (lambda: VanDerPolField(100.0), [2.0, 0.0], 100.0, 1e-12),
    "POLLU to 60": (pollu_field, START_OF_POLLU, 60.0, 1e-20),
}


def _by_cvode(field, start, end, atol):
    """Return the state at ``end`` by backward differences at a relative tolerance of 1e-10."""
    time = torch.zeros((), dtype=torch.float64)

    def rate(_t, y, yp):
        with torch.no_grad():
            yp[:] = field(time, torch.from_numpy(np.array(y))[None])[0].numpy()

    solver = cvode.CVODE(rate, rtol=1e-10, atol=atol, max_num_steps=100_000)
    return np.asarray(solver.solve(np.array([0.0, end]), np.array(start)).y[-1])


@pytest.mark.parametrize("case", CASES)
def test_states_are_those_of_cvode(case):
    """kencarp4 at 1e-6 on three standard problems: within ten times its tolerance of each component."""
    make, start, end, atol = CASES[case]
    field = make()
    wanted = _by_cvode(field, start, end, atol)
    solver = make_solver("kencarp4", rtol=1e-6, atol=1e-4 * atol + 1e-12)
    y0, ts = torch.tensor([start], dtype=torch.float64), torch.tensor([0.0, end], dtype=torch.float64)
    with torch.no_grad():
        found = Aca()(field, solver, y0, ts)[-1, 0].numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-13)
