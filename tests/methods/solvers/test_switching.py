"""The solver that switches: when it takes which method, what that costs, and what it refuses."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from odegrad.checks.problems import StepLog
from odegrad.contracts import ImplicitWork
from odegrad.datasets.nets.stiff_fields import ProtheroRobinsonField, RobertsonField, VanDerPolField
from odegrad.errors import UnsupportedError, UsageError
from odegrad.measuring.counting import CountedField, Counts
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver
from odegrad.methods.solvers.switching.rule import (
    FILLED,
    SPARED,
    STEPS_TO_EXPLICIT,
    STEPS_TO_IMPLICIT,
    Switch,
    stability_interval,
)
from odegrad.methods.solvers.tableaus import TABLEAUS


class Taken:
    """What a forward solve has taken, and its end."""

    def __init__(self, name, field, y0, end, rtol, atol, **options):
        log, counts = StepLog(), Counts()
        solver = make_solver(name, rtol=rtol, atol=atol, **options).observed_by(log)
        with torch.no_grad():
            ts = torch.tensor([0.0, end], dtype=y0.dtype)
            self.y = Naive()(CountedField(field, counts), solver, y0, ts)[-1]
        self.calls, self.steps, self.rejections = counts.calls["forward"], len(log.ends), log.rejections
        self.work = sum(log.works, ImplicitWork())
        self.kinds = [work.newton > 0 for work in log.works if work.newton or work.explicit_steps]
        self.predicted = (
            Naive().predicted_calls(solver.counted(1, (self.steps, self.rejections), works=tuple(log.works))).forward
        )

    @property
    def cost(self):
        """Calls, and the pull-backs that formed Jacobians."""
        return self.calls + self.work.products

    @property
    def switches(self):
        return sum(a != b for a, b in pairwise(self.kinds))


def vector(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


@pytest.mark.parametrize(("name", "length"), [("dopri5", 3.3066), ("rk4", 2.7853), ("bosh3", 2.5127), ("euler", 2.0)])
def test_stability_intervals_are_those_of_the_literature(name, length):
    """Hairer and Wanner, Solving ODEs II, section IV.2; of Euler's method 2, exactly."""
    assert stability_interval(TABLEAUS[name]) == pytest.approx(length, abs=2e-3)


def test_the_rule_needs_a_majority_of_steps_each_way():
    """A step that speaks for the method that is taken takes one back; a share that is no number speaks for it."""
    switch = Switch()
    for share in [FILLED, 0.0] * 20:
        switch.hear(share)
    assert not switch.stiff
    for _ in range(STEPS_TO_IMPLICIT):
        assert not switch.stiff
        switch.hear(FILLED)
    assert switch.stiff
    for share in [float("nan"), SPARED, 1.0] * 20:
        switch.hear(share)
    assert switch.stiff
    for _ in range(STEPS_TO_EXPLICIT):
        assert switch.stiff
        switch.hear(SPARED)
    assert not switch.stiff


class Spiral(nn.Module):
    def forward(self, t, y):
        a, b = y.unbind(-1)
        return torch.stack([-0.1 * a - 2.0 * b + 0.1 * torch.cos(t), 2.0 * a - 0.1 * b], dim=-1)


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9])
def test_where_nothing_is_stiff_it_takes_the_explicit_steps(rtol):
    """All of them, at their calls, to the same end: bit for bit."""
    y0 = torch.tensor([[1.0, 0.3], [0.2, -1.0]], dtype=torch.float64)
    explicit, found = (Taken(name, Spiral(), y0, 10.0, rtol, rtol) for name in ("dopri5", "auto_stiff"))
    assert (found.calls, found.steps, found.rejections) == (explicit.calls, explicit.steps, explicit.rejections)
    assert torch.equal(found.y, explicit.y)
    assert (found.work.explicit_steps, found.work.jacobians) == (explicit.steps, 0)


@pytest.mark.parametrize(
    ("field", "y0", "end", "rtol", "atol", "factor"),
    [
        # Costs measured: 2,809 against 3,821; 3,248 against 4,958; 659 against 668; 248 against 166.
        (VanDerPolField(100.0), vector(2.0, 0.0), 200.0, 1e-4, 1e-6, 0.8),
        (VanDerPolField(1000.0), vector(2.0, 0.0), 2000.0, 1e-4, 1e-6, 0.8),
        (RobertsonField(), vector(1.0, 0.0, 0.0), 1e4, 1e-4, 1e-8, 1.1),
        (ProtheroRobinsonField(1e4), vector(1.0), 10.0, 1e-4, 1e-6, 1.6),
    ],
    ids=["van der Pol 100", "van der Pol 1000", "Robertson", "Prothero and Robinson"],
)
def test_stiff_problems(field, y0, end, rtol, atol, factor):
    """Both methods are taken; f calls and products stay near the implicit method's, or below; counts are predicted."""
    implicit, found = (Taken(name, field, y0, end, rtol, atol) for name in ("kencarp4", "auto_stiff"))
    assert found.cost <= factor * implicit.cost
    assert 0 < found.work.explicit_steps < found.steps
    assert found.calls == found.predicted
    assert found.work.jacobians == found.steps - found.work.explicit_steps
    scale = atol + rtol * implicit.y.abs()
    assert float(((found.y - implicit.y) / scale).abs().max()) <= 100.0


def test_it_is_below_both_where_stiffness_comes_and_goes():
    """Van der Pol's oscillator at mu = 20 is stiff between its jumps: 3,038 calls and products, 4,724 and 5,111."""
    given = VanDerPolField(20.0), vector(2.0, 0.0), 40.0, 1e-6, 1e-8
    explicit, implicit, found = (Taken(name, *given) for name in ("dopri5", "kencarp4", "auto_stiff"))
    assert found.cost <= 0.75 * min(explicit.cost, implicit.cost)
    assert found.switches == 5


@pytest.mark.parametrize("rate", [1.0, 10.0, 300.0, 1e3])
def test_it_does_not_switch_to_and_fro(rate):
    """It is near the cheaper one, and has switched once at most."""
    given = ProtheroRobinsonField(rate), vector(1.5), 5.0, 1e-5, 1e-7
    explicit, implicit, found = (Taken(name, *given) for name in ("dopri5", "kencarp4", "auto_stiff"))
    assert found.switches == (rate >= 300.0)
    assert found.cost <= 1.2 * min(explicit.cost, implicit.cost) + 6 * STEPS_TO_IMPLICIT


def test_steps_that_accuracy_binds_stay_explicit():
    """Though an implicit step may be more accurate: of two thirds of the stability interval nothing is concluded."""
    given = ProtheroRobinsonField(100.0), vector(1.5), 5.0, 1e-5, 1e-7
    explicit, implicit, found = (Taken(name, *given) for name in ("dopri5", "kencarp4", "auto_stiff"))
    assert found.calls == explicit.calls > 2 * implicit.cost


def test_products_alone_tell_it_too():
    """With GMRES no Jacobian is formed: the fastest mode is followed from step to step, and found to be slow again."""
    given = VanDerPolField(20.0), vector(2.0, 0.0), 40.0, 1e-6, 1e-8
    found = Taken("auto_stiff", *given, linear="krylov")
    assert found.switches == 5


def test_samples_are_judged_each():
    """One stiff sample among many is enough."""
    rates = torch.ones(20, 1, dtype=torch.float64)
    rates[7] = 1e4

    class Decays(nn.Module):
        def forward(self, t, y):
            return -rates * (y - torch.cos(t))

    found = Taken("auto_stiff", Decays(), torch.ones(20, 1, dtype=torch.float64), 5.0, 1e-4, 1e-6)
    assert found.work.explicit_steps < found.steps


@pytest.mark.parametrize("option", [{"num_steps": 5}, {"step_size": 0.1}])
def test_fixed_steps_are_refused(option):
    with pytest.raises(UsageError, match=r"auto_stiff switches by what its step control does.*dopri5 or kencarp4"):
        make_solver("auto_stiff", **option)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"batch": "per_sample"}, "samples have steps of their own on Runge-Kutta methods, which auto_stiff is not"),
        ({"compile": True}, "auto_stiff is no explicit Runge-Kutta method"),
        ({"sees": "tangent"}, "auto_stiff is not"),
        ({"coupling": 0.99}, "auto_stiff, whose steps have no inverse"),
        ({"newton": 2.0}, "newton: expected a part of the tolerance"),
    ],
)
def test_options_that_it_cannot_take(option, why):
    with pytest.raises(UsageError, match=why):
        make_solver("auto_stiff", **option)


def test_samples_that_mix_are_refused_where_it_goes_over():
    """Before that nothing supposes that they do not; as one matrix they are solved."""

    class Meeting(nn.Module):
        def forward(self, t, y):
            return -1e3 * (y - y.mean(0)) - (y - torch.cos(t))

    y0 = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    with pytest.raises(UnsupportedError, match="its samples depend on each other"):
        Taken("auto_stiff", Meeting(), y0, 2.0, 1e-4, 1e-6)
    found = Taken("auto_stiff", Meeting(), y0, 2.0, 1e-4, 1e-6, linear="dense")
    assert 0 < found.work.explicit_steps < found.steps
    # The mean falls to (cos t + sin t) / 2 from 7 / 3.
    mean = (math.cos(2.0) + math.sin(2.0)) / 2 + (7 / 3 - 0.5) * math.exp(-2.0)
    assert found.y.flatten().tolist() == pytest.approx([mean] * 3, abs=1e-3)


def test_an_explicit_step_reads_the_device_once(monkeypatch):
    """The share of the stability interval comes with the error: as many reads as dopri5 makes, one for each attempt."""
    stability_interval(TABLEAUS["dopri5"])  # by numbers of the host, once in a process
    reads = []
    for name in ("tolist", "__float__", "__bool__", "item"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda x, plain=plain: (reads.append(x), plain(x))[1])
    counts = []
    for name in ("dopri5", "auto_stiff"):
        reads.clear()
        Naive()(Spiral(), make_solver(name, rtol=1e-6, atol=1e-6), vector(1.0, 0.3), torch.tensor([0.0, 10.0]).double())
        counts.append(len(reads))
    assert counts[0] > 50
    assert counts[1] == counts[0]
