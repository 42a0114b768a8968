"""diffrax's methods: fields in jax against torch, gradients against the reference, counts against diffrax's statistics.

What needs jax is skipped where it is not installed; tracing and refusals are tested everywhere.
"""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from odegrad.binding import solve_with
from odegrad.catalogue import TASKS
from odegrad.checks.problems import SmoothNet
from odegrad.errors import SolverError, UnsupportedError
from odegrad.measuring.call_counts import count_columns
from odegrad.methods.peers.diffrax import DiffraxCheckpointed, _jax
from odegrad.methods.peers.jax_field import HeldArrays, _check_operators, _holding, array, disagreement, translated
from odegrad.methods.solvers.solver import make_solver
from odegrad.reference.reference import reference
from odegrad.reference.subject import Subject, of_problem
from odegrad.reference.two_ways import relative_distance
from odegrad.registry import build_gradient, build_task
from odegrad.states import mapped

needs_jax = pytest.mark.skipif(find_spec("diffrax") is None, reason="diffrax is not installed")
TOLERANCE = 1e-7
Y0 = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TS = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("name", [task.name for task in TASKS if task.offline])
def test_field_in_jax_is_torch_s(name):
    """Value and vector-Jacobian product to 1e-12 at random states and another time, for every offline task."""
    problem = build_task(name).build("tiny", 0, torch.device("cpu"), torch.float64)
    field, y0, ts = problem.dynamics(problem.probe_batch())
    generator = torch.Generator().manual_seed(1)
    y = mapped(y0, lambda part: part + 0.1 * torch.randn(part.shape, generator=generator, dtype=part.dtype))
    jax = _jax()
    found = translated(field, ts[0], y0, jax)
    assert disagreement(field, found, 0.3 * ts[0] + 0.7 * ts[-1], y, jax) < 1e-12


@needs_jax
@pytest.mark.minutes
@pytest.mark.parametrize("task", ["linear", "moons", "digits_mlp"])
@pytest.mark.parametrize("name", ["diffrax_checkpointed", "diffrax_backsolve"])
def test_gradient_is_certified(name, task):
    """Within 10 times the tolerance of the float64 reference; the known fault of the backward solve is reproduced."""
    built = build_task(task)

    def make():
        return of_problem(built.build("tiny", 0, torch.device("cpu"), torch.float64), smooth=built.info.smooth)

    solve = solve_with(build_gradient(name), make_solver("dopri5", rtol=TOLERANCE, atol=TOLERANCE))
    error = relative_distance(make().gradient(solve), reference(make()).gradient) / TOLERANCE
    if (name, task) == ("diffrax_backsolve", "moons"):
        assert 10 < error < 30, "a mean loss has a small costate, which the absolute tolerance swallows"
    else:
        assert error < 10


def _subject(field):
    return Subject(lambda solve: (solve(field, Y0, TS)[1:] ** 2).sum(), tuple(field.parameters()), (field,))


def _statistics(field, tolerance):
    """Return diffrax's own number of steps."""
    import diffrax

    jax = _jax()
    inner, held = translated(field, TS[0], Y0, jax), [array(x, jax) for x in HeldArrays.by(field).tensors]
    control = diffrax.PIDController(rtol=tolerance, atol=tolerance, safety=0.9, factormin=0.2, factormax=10.0)
    term = diffrax.ODETerm(lambda t, y, _: inner(t, y, held))
    start = (array(Y0, jax),)
    solved = diffrax.diffeqsolve(term, diffrax.Dopri5(), 0.0, 1.0, None, start, stepsize_controller=control)
    return int(solved.stats["num_steps"])


@needs_jax
@pytest.mark.minutes
def test_calls_are_steps_times_stages():
    """The callbacks count six calls per step of diffrax's own statistics, and a start that is always the same."""
    method, field = DiffraxCheckpointed(), SmoothNet(d=4, hidden=8)
    starts = []
    for tolerance in (1e-3, 1e-8):
        columns = count_columns(_subject(field), method, make_solver("dopri5", rtol=tolerance, atol=tolerance))
        starts.append(columns["nfe_forward"] - 6 * _statistics(field, tolerance))
        assert columns["vjps"] > 0
        assert {columns[name] for name in ("operators_forward", "flops_backward", "nfe_outside", "accepted_steps")} == {
            None
        }
    assert starts[0] == starts[1]
    assert 1 <= starts[0] <= 3


@needs_jax
@pytest.mark.minutes
def test_programs_are_kept_and_parameters_are_not():
    """A second solve compiles nothing and sees what an optimizer has changed; the step limit is an error."""
    method, field, solver = DiffraxCheckpointed(), SmoothNet(d=4, hidden=8), make_solver("dopri5", rtol=1e-6, atol=1e-6)
    first = method(field, solver, Y0, TS)
    seconds = method.compile_seconds(field.modules())
    assert seconds > 0
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(1.5)
    second = method(field, solver, Y0, TS)
    assert method.compile_seconds(field.modules()) == seconds
    assert not torch.allclose(first, second)
    expected = build_gradient("naive")(field, solver, Y0, TS)
    torch.testing.assert_close(second, expected, rtol=1e-4, atol=1e-4)
    loose = method(field, make_solver("dopri5", rtol=1e-2, atol=1e-2), Y0, TS)
    assert method.compile_seconds(field.modules()) == seconds, "tolerances are arguments of a program"
    assert not torch.allclose(loose, second, rtol=1e-7)
    with pytest.raises(SolverError, match="step limit"):
        method(field, make_solver("dopri5", rtol=1e-9, atol=1e-9, max_steps=2), Y0, TS)


@needs_jax
def test_programs_are_left_for_the_next_process(tmp_path):
    """What compiles a field leaves its programs in the folder, from which another process reads them."""
    code = (
        "import sys, torch; from pathlib import Path; from odegrad.checks.problems import SmoothNet; "
        "from odegrad.methods.peers.diffrax import DiffraxCheckpointed; "
        "from odegrad.methods.solvers.solver import make_solver; "
        "method, field = DiffraxCheckpointed(), SmoothNet(d=2, hidden=2); method.keep_programs(Path(sys.argv[1])); "
        "ts = torch.tensor([0.0, 1.0], dtype=torch.float64); "
        "method(field, make_solver('dopri5', rtol=1e-3, atol=1e-3), torch.ones(1, 2, dtype=torch.float64), ts)"
    )
    left = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, timeout=300)
        left.append({file.name for file in tmp_path.glob("*-cache")})
    assert any("forward" in name for name in left[0])
    assert left[0] == left[1]


class _Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4, dtype=torch.float64))

    def forward(self, t, y):
        return torch.special.bessel_j0(y @ self.weight)


def test_unknown_operator_is_named():
    """Before anything is computed, with its name; no jax is needed to see it."""
    with pytest.raises(UnsupportedError, match=r"aten\.special_bessel_j0\.default.*not translated"):
        _check_operators(make_fx(_Strange())(TS[0], Y0).graph)


def test_every_tensor_of_a_field_is_held():
    """Parameters, buffers and plain attributes, as a flow's probe, of all its modules; they come back after a trace."""
    field = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    field[0].probe = torch.ones(3)
    held = HeldArrays.by(field)
    assert {"0.weight", "0.bias", "1.running_mean", "0.probe"} <= set(held.names)
    assert [held.names[i] for i in held.trained] == [name for name, _ in field.named_parameters()]
    before = dict(zip(held.names, held.tensors, strict=True))
    with _holding(field, {name: torch.zeros_like(x) for name, x in before.items()}):
        assert not any(x.any() for x in HeldArrays.by(field).tensors)
    assert all(now is before[name] for name, now in zip(held.names, HeldArrays.by(field).tensors, strict=True))


@needs_jax
@pytest.mark.parametrize(
    ("rates", "reason"),
    [
        (lambda t, y: y.detach() * y, "differs from torch's in value or vector-Jacobian product"),
        (lambda t, y: torch.randn_like(y) * y, "random"),
        (lambda t, y: y * (1.0 if float(y.sum()) > 0 else 2.0), "cannot be traced"),
        (lambda t, y: y * Y0, "no parameter, buffer or attribute"),
    ],
    ids=["detached", "random", "branch", "closure"],
)
def test_what_jax_would_answer_wrongly_is_refused(rates, reason):
    """Each with its reason, before the first solve."""

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, t, y):
            return self.scale * rates(t, y)

    with pytest.raises(UnsupportedError, match=reason):
        translated(Field(), TS[0], Y0, _jax())


def test_missing_library_is_a_refusal(monkeypatch):
    """With what to install."""
    monkeypatch.setattr("odegrad.methods.peers.mapping.find_spec", lambda _library: None)
    assert DiffraxCheckpointed().refuses(make_solver("dopri5")) == "diffrax is not installed; install odegrad[jax]"
