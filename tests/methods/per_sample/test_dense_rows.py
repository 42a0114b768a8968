"""Outputs that are read inside of each sample's own steps: as the joint loop reads them, and one gradient of them."""

import pytest
import torch

from odegrad.checks.problems import StepLog
from odegrad.methods.solvers.solver import make_solver

MANY = torch.linspace(0.0, 1.5, 13, dtype=torch.float64)
RAGGED = torch.stack([MANY, 0.3 * MANY, MANY.square(), torch.where(MANY < 0.8, MANY, 0.75), 0.1 + MANY / 7, MANY])
"""Times of six samples; the fourth one repeats its last."""

EXACT = [
    ("aca", {}),
    ("anode", {}),
    ("anode", {"steps_per_block": 2}),
    ("revolve", {"checkpoints": 2}),
    ("symplectic_adjoint", {}),
]
CONTINUOUS = ["adjoint", "adjoint_seminorm", "interpolation", "interpolation_dense", "gauss_adjoint"]


class Log(StepLog):
    """Keeps the steps and the rounds."""

    def __init__(self):
        super().__init__()
        self.steps, self.rounds = [], []

    def accepted(self, t, h):
        super().accepted(t, h)
        self.steps.append((t, h))

    def solved_in_rounds(self, counts):
        self.rounds.append(counts)


@pytest.fixture(scope="module")
def six(kit):
    """Return a field, six unlike starts, and naive's solution and gradient at ragged times forth and back."""
    field = kit.UnlikeNet()
    generator = torch.Generator().manual_seed(1)
    sizes = torch.linspace(0.1, 4.0, 6, dtype=torch.float64)[:, None]
    y0 = torch.randn(6, 3, generator=generator, dtype=torch.float64) * sizes
    solver = kit.per_sample(outputs="dense")
    return field, y0, [kit.solved("naive", solver, field, y0, way * RAGGED, of_times=True) for way in (1.0, -1.0)]


@pytest.mark.parametrize("name", ["dopri5", "tsit5", "bosh3"])
def test_one_sample_is_read_as_the_joint_loop_reads_it(kit, six, name):
    """S1: the same steps, and the same bits at every output."""
    field, y0, _ = six
    found = []
    for batch in ("joint", "per_sample"):
        log = Log()
        solver = make_solver(name, rtol=1e-6, atol=1e-8, batch=batch, outputs="dense").observed_by(log)
        found.append((kit.solved("aca", solver, field, y0[4:5], MANY), log.steps))
    assert found[0][1] == found[1][1]
    assert torch.equal(found[0][0].ys, found[1][0].ys)
    assert found[0][0].furthest_from(found[1][0]) <= 1e-13


@pytest.mark.parametrize("compaction", ["none", "each", "halving"])
@pytest.mark.parametrize(("name", "options"), EXACT)
def test_exact_methods_have_one_gradient(kit, six, name, options, compaction):
    """S3, with times of each sample's own, forwards and backwards; and by these times."""
    field, y0, naive = six
    for way, reference in zip((1.0, -1.0), naive, strict=True):
        solver = kit.per_sample(outputs="dense", compaction=compaction)
        found = kit.solved(name, solver, field, y0, way * RAGGED, options=options, of_times=True)
        assert found.furthest_from(reference) <= 1e-13
        torch.testing.assert_close(found.of_times, reference.of_times, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_that_of_the_computed_loss(kit, six):
    """Reverse against differences of the loss along a line, on the steps that are taken."""
    field, y0, _ = six
    solver = kit.per_sample(rtol=1e-11, atol=1e-12, outputs="dense")
    generator = torch.Generator().manual_seed(3)
    way = torch.randn(y0.shape, generator=generator, dtype=torch.float64)
    found = kit.solved("aca", solver, field, y0, RAGGED)
    step, weights = 1e-4, torch.sin(torch.arange(found.ys.numel(), dtype=torch.float64)).view_as(found.ys)
    ahead, back = (kit.solved("aca", solver, field, y0 + s * way, RAGGED).ys for s in (step, -step))
    slope = float(((ahead - back) * weights).sum()) / (2 * step)
    assert float((found.of_start * way).sum()) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_methods_converge_to_it(kit, six, name):
    """To the tolerance, from what is read."""
    field, y0, _ = six
    ts = 0.4 * RAGGED
    exact = kit.solved("aca", kit.per_sample(rtol=1e-10, atol=1e-11), field, y0, ts)
    found = kit.solved(name, kit.per_sample(rtol=1e-8, atol=1e-10, outputs="dense"), field, y0, ts)
    assert found.furthest_from(exact) <= 1e-5


def test_outputs_cost_no_step(kit, six):
    """The rounds are those of a solve to the last times alone; ends at every output take more."""
    field, y0, _ = six
    rounds = {}
    for outputs, ts in (("dense", RAGGED), ("step_ends", RAGGED), ("dense", RAGGED[:, [0, -1]])):
        log = Log()
        kit.solved("aca", kit.per_sample(outputs=outputs).observed_by(log), field, y0, ts)
        rounds[outputs, ts.shape[1]] = log.rounds[0]
    assert rounds["dense", 13].steps == rounds["dense", 2].steps
    assert rounds["dense", 13].widths == rounds["dense", 2].widths
    assert rounds["step_ends", 13].rounds > 1.2 * rounds["dense", 13].rounds
    assert sum(map(sum, rounds["dense", 13].accepted)) == sum(rounds["dense", 13].steps)


@pytest.mark.parametrize("name", ["aca", "adjoint", "interpolation"])
def test_a_sample_among_others_is_itself_alone(kit, six, name):
    """S2: states and gradients to 1e-12."""
    field, y0, _ = six
    solver, weights = kit.per_sample(outputs="dense"), torch.zeros(13, 6, 3, dtype=torch.float64)
    weights[:, 2] = torch.sin(torch.arange(39, dtype=torch.float64)).view(13, 3)
    ts = 0.4 * RAGGED
    among = kit.solved(name, solver, field, y0, ts, weights=weights)
    alone = kit.solved(name, solver, field, y0[2:3], ts[2:3], weights=weights[:, 2:3])
    torch.testing.assert_close(among.ys[:, 2], alone.ys[:, 0], rtol=0, atol=1e-12)
    for a, b in ((among.of_start[2], alone.of_start[0]), (among.of_parameters, alone.of_parameters)):
        assert float((a - b).norm()) <= 1e-12 * float(b.norm())
