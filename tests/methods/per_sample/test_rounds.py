"""Rounds of steps of each sample's own: grids, counts, reads, compaction, and samples that fail."""

import itertools
import re

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from odegrad import odeint
from odegrad.checks.problems import StepLog
from odegrad.errors import FailedSamplesWarning, NonFiniteError, StepSizeUnderflowError, TooManyStepsError
from odegrad.measuring.counting import CountedField, Counts
from odegrad.methods.solvers.per_sample import control
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

TS = torch.tensor([0.0, 0.7, 2.0], dtype=torch.float64)
COMPACTIONS = ("none", "each", "halving")


class _Log(StepLog):
    """A log of steps that also keeps the rounds."""

    def __init__(self):
        super().__init__()
        self.rounds = []
        self.steps = []

    def accepted(self, t, h):
        super().accepted(t, h)
        self.steps.append((t, h))

    def solved_in_rounds(self, counts):
        self.rounds.append(counts)


def walked(solver, field, y0, ts=TS):
    """Return the solution, what was counted, and what was heard; without a gradient."""
    log, counts = _Log(), Counts()
    with torch.no_grad():
        ys = build_gradient("aca")(CountedField(field, counts), solver.observed_by(log), y0, ts)
    return ys, counts, log


@pytest.mark.parametrize("name", ["dopri5", "bosh3", "tsit5", "dopri8"])
@pytest.mark.parametrize("options", [{}, {"first_step": 0.3}, {"control": "pi"}, {"max_step": 0.1}])
def test_one_sample_takes_the_joint_loops_steps_bit_for_bit(kit, unlike, name, options):
    """S1: the same grid, the same calls, the same state."""
    field, y0 = unlike
    for ts in (TS, TS.flip(0)):
        alone, counts, log = walked(kit.per_sample(name, **options), field, y0[5:6], ts)
        joint, counted, heard = walked(make_solver(name, rtol=1e-6, atol=1e-8, **options), field, y0[5:6], ts)
        assert log.steps == heard.steps
        assert log.rejections == heard.rejections
        assert counts.calls == counted.calls
        assert torch.equal(alone, joint)


def test_every_sample_takes_the_steps_that_it_takes_alone(kit, unlike):
    """The grid of a sample is its own, whichever its mates are: up to what the width of a kernel rounds otherwise."""
    field, y0 = unlike
    together, _, log = walked(kit.per_sample(), field, y0)
    alone = [walked(kit.per_sample(), field, y[None]) for y in y0]
    assert log.rounds[0].steps == tuple(each[2].rounds[0].steps[0] for each in alone)
    assert log.rounds[0].attempted == tuple(each[2].rounds[0].attempted[0] for each in alone)
    assert len(set(log.rounds[0].steps)) > 4, "the samples must be unlike"
    torch.testing.assert_close(together, torch.cat([each[0] for each in alone], 1), rtol=0, atol=1e-13)


def test_solutions_are_within_the_tolerance_of_another_librarys(kit, unlike):
    """SciPy's own 8th order method at 1e-12, sample by sample."""
    field, y0 = unlike
    ys, *_ = walked(kit.per_sample(), field, y0)

    def rate(t, y):
        with torch.no_grad():
            return field(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y)).numpy()

    for i, y in enumerate(y0):
        true = solve_ivp(rate, (0.0, 2.0), y.numpy(), "DOP853", TS.numpy(), rtol=1e-12, atol=1e-12).y.T
        np.testing.assert_allclose(ys[:, i].numpy(), true, rtol=0, atol=2e-5)


@pytest.mark.parametrize("compaction", COMPACTIONS)
def test_calls_rows_and_reads_are_what_the_steps_say(kit, unlike, compaction, monkeypatch):
    """S4: calls = start + s M, rows = start B + s sum of widths; one read a round and two at the start."""
    reads = []
    read = control._read
    monkeypatch.setattr(control, "_read", lambda x: reads.append(x.shape) or read(x))
    field, y0 = unlike
    walked(kit.per_sample(), field, y0)  # whether samples depend on each other is looked at once, and read
    reads.clear()
    with _HostReads() as others:
        _, counts, log = walked(kit.per_sample(compaction=compaction), field, y0)
    (rounds,) = log.rounds
    attempts, most, batch, s = sorted(rounds.attempted), max(rounds.attempted), len(y0), 6
    assert rounds.rounds == most
    assert len(log.steps) == sum(rounds.steps)
    assert log.rejections == sum(attempts) - sum(rounds.steps) > 0
    assert counts.calls["forward"] == 2 + s * most == rounds.calls(s)
    live = [sum(m > r for m in attempts) for r in range(most)]
    widths = {"none": [batch] * most, "each": live, "halving": _halved(live)}[compaction]
    assert counts.rows["forward"] == 2 * batch + s * sum(widths) == rounds.rows(s)
    assert rounds.useful_rows(s) == 2 * batch + s * sum(attempts)
    assert sum(a != b for a, b in itertools.pairwise(widths)) <= (3 if compaction == "halving" else batch)
    assert len(reads) == 2 + most
    assert others.count == 0


def _halved(live):
    """Return the widths where rows are dropped once at most half of them are on their way."""
    widths, width = [], live[0]
    for count in live:
        width = count if 2 * count <= width else width
        widths.append(width)
    return widths


class _HostReads(TorchDispatchMode):
    """Counts numbers that are read from tensors one at a time."""

    def __init__(self):
        super().__init__()
        self.count = 0

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # torch need not import its compiler to keep it out of these lines

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def one_stiff_of_64(kit):
    """Van der Pol to T = 10, stiffness 100 in one sample of 64 and 1 in the others; and where the stiff one ends."""
    y0 = torch.tensor([2.0, 0.0], dtype=torch.float64) + 0.1 * torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None]
    y0[0] = torch.tensor([2.0, 0.0])
    mu = torch.ones(64, 1, dtype=torch.float64)
    mu[0] = 100.0
    x = solve_ivp(
        lambda _t, y: [y[1], 100 * (1 - y[0] ** 2) * y[1] - y[0]], (0, 10), [2.0, 0.0], "LSODA", rtol=1e-12, atol=1e-12
    ).y[:, -1]
    return kit.SpreadVanDerPol(), (y0, mu), x


def test_one_stiff_sample_costs_its_own_rows_and_meets_its_tolerance(kit, one_stiff_of_64):
    """S5: section 1's problem: rows <= 1.05 x 43,472, error / tolerance <= 1; joint: all pay, and it misses."""
    field, start, true = one_stiff_of_64
    ts = torch.tensor([0.0, 10.0], dtype=torch.float64)
    found = {}
    for batch in ("joint", "per_sample"):
        (ys, _), counts, log = walked(make_solver("dopri5", rtol=1e-6, atol=1e-6, batch=batch), field, start, ts)
        off = (ys[1, 0].numpy() - true) / (1e-6 + 1e-6 * np.abs(true))
        rows = counts.rows["forward"]
        found[batch] = rows, float(np.sqrt(np.mean(off**2))), counts.calls["forward"], log
    rows, error, calls, log = found["per_sample"]
    assert rows <= 1.05 * 43_472
    assert error <= 1.0
    joint_rows, joint_error, joint_calls, _ = found["joint"]
    assert joint_rows > 9 * rows
    assert joint_error > 1.5 > error
    assert abs(calls - joint_calls) < 0.02 * joint_calls, "the calls hardly move: rows are saved"
    assert max(log.rounds[0].steps) > 8 * sorted(log.rounds[0].steps)[-2]


class _Square(nn.Module):
    """``y' = y^2``: leaves every bound at ``t = 1 / y0``."""

    sample_time = True

    def forward(self, t, y):
        return y * y


class _Poisoned(nn.Module):
    """``y' = -y``, not a number above 2."""

    sample_time = True

    def forward(self, t, y):
        return -y + torch.where(y > 2.0, torch.nan, 0.0)


@pytest.mark.parametrize("compaction", COMPACTIONS)
@pytest.mark.parametrize(
    ("field", "bad", "options", "why"),
    [
        (_Square(), 1.0, {}, "sample 1: .*(not finite|no longer changes the time)"),
        (_Square(), 1.0, {"max_steps": 40}, "sample 1: 40 steps were attempted"),
        (_Poisoned(), 3.0, {}, r"sample 1: f\(t0, y0\) is not finite at t = 0"),
        (_Poisoned(), float("nan"), {}, "sample 1: y0 is not finite"),
    ],
    ids=["escapes", "too many steps", "field", "start"],
)
def test_a_sample_that_fails_is_named_and_its_mates_are_as_without_it(field, bad, options, why, compaction):
    """Its outputs are NaN from where it failed, theirs are those of a batch without it."""
    good = torch.tensor([[0.3], [0.45]], dtype=torch.float64)
    y0 = torch.tensor([[0.3], [bad], [0.45]], dtype=torch.float64)
    ts = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    settings = {"batch": "per_sample", "compaction": compaction, **options}
    with pytest.warns(FailedSamplesWarning, match=why) as caught:
        ys = odeint(field, y0, ts, rtol=1e-6, atol=1e-8, options=settings)
    assert caught[0].message.samples == (1,)
    without = odeint(field, good, ts, rtol=1e-6, atol=1e-8, options=settings)
    torch.testing.assert_close(ys[:, [0, 2]], without, rtol=1e-14, atol=0)
    assert ys[-1, 1].isnan().all()
    if isinstance(field, _Square):
        assert ys[1, 1].isfinite(), "what it had reached is kept"


def test_a_batch_in_which_every_sample_fails_raises():
    """There is nothing to keep."""
    y0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    ts = torch.tensor([0.0, 3.0], dtype=torch.float64)
    with pytest.raises((NonFiniteError, StepSizeUnderflowError), match="sample"):
        odeint(_Square(), y0, ts, options={"batch": "per_sample"})
    with pytest.raises(TooManyStepsError, match="sample 0: 3 steps were attempted"):
        odeint(_Square(), 0.1 * y0, ts, options={"batch": "per_sample", "max_steps": 3})


def test_a_failed_sample_leaves_its_mates_gradients_alone(kit):
    """Every method: NaN of the failed sample is left out of the loss, and nothing of it comes back."""
    y0 = torch.tensor([[0.3], [1.0], [0.45]], dtype=torch.float64)
    ts = torch.tensor([0.0, 0.5, 1.2], dtype=torch.float64)
    for method in (
        "naive",
        "aca",
        "anode",
        "revolve",
        "symplectic_adjoint",
        "adjoint",
        "interpolation",
        "gauss_adjoint",
    ):
        found = []
        for start in (y0, y0[[0, 2]]):
            field, y = kit.Sinh(1.0), start.clone().requires_grad_()
            with pytest.warns() if len(start) == 3 else _no_context():
                ys = odeint(_Scaled(field), y, ts, rtol=1e-6, options={"batch": "per_sample"}, gradient=method)
            ys[ys.detach().isfinite()].sum().backward()
            found.append((y.grad[[0, -1]], field.w.grad))
        # The failed sample has an output of its own at 0.5, which the parameter's gradient is by, too.
        assert found[0][0].isfinite().all()
        assert found[0][1].isfinite()
        torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=0)


class _Scaled(nn.Module):
    """``y' = w sinh(y) y^2``, which leaves every bound early for large starts."""

    sample_time = True

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, t, y):
        return self.inner(t, y) * y


class _no_context:  # noqa: N801
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_the_message_names_a_few_of_many_failed_samples():
    """Eight of them, and how many more."""
    y0 = torch.cat([torch.full((12, 1), 1.0), torch.full((1, 1), 0.2)]).double()
    with pytest.warns(FailedSamplesWarning, match=re.escape("12 of 13 samples")) as caught:
        odeint(_Square(), y0, torch.tensor([0.0, 2.0], dtype=torch.float64), options={"batch": "per_sample"})
    assert "and 4 more" in str(caught[0].message)
