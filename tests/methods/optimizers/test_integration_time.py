"""The end time as a trained variable: its gradient, both policies in closed form, and a run on the digits."""

import copy
import math

import pytest
import torch
from torch import nn

from odegrad.binding import solve_with
from odegrad.contracts import ScoringProblem, TrainableEndTime, Training
from odegrad.errors import NonFiniteError, UnsupportedError, UsageError
from odegrad.measuring.passes import run_pass
from odegrad.measuring.training import train
from odegrad.methods.optimizers.snopt.end_slope import EndSlope
from odegrad.methods.optimizers.snopt.factory import snopt
from odegrad.methods.optimizers.snopt.integration_time import IntegrationTime
from odegrad.methods.optimizers.snopt.optimizer import SNOpt
from odegrad.methods.solvers.solver import make_solver
from odegrad.records.record import Run
from odegrad.registry import build_gradient, build_task

F64 = torch.float64
CPU = torch.device("cpu")


def _time(value=1.0):
    return torch.tensor(value, dtype=F64)


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class _Constant(nn.Module):
    """dy/dt = layer(1): y(T) = y0 + T w, whose loss in T is a parabola."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False).double()
        self.layer.weight.data.fill_(1.0)

    def forward(self, t, y):
        return self.layer(torch.ones_like(y))


@pytest.mark.parametrize("name", ["adjoint", "naive", "interpolation", "symplectic_adjoint"])
def test_gradient_of_the_end_time_is_the_fields_product_with_the_costate(name):
    """dL/dT = f(T, y_T) . dL/dy_T, on the digits' own loss."""
    problem = build_task("digits_mlp").build("tiny", 0, CPU, F64)
    solve = solve_with(build_gradient(name), make_solver("dopri5", rtol=1e-8, atol=1e-8))
    seen = {}

    def watched(field, y0, ts):
        ys = solve(field, y0, ts)
        ys.retain_grad()
        seen.update(ys=ys, field=field)
        return ys

    problem.end_time.fill_(0.7).requires_grad_()
    problem.loss(watched, problem.batch(0)).backward()
    with torch.no_grad():
        slope = (seen["field"](problem.end_time, seen["ys"][-1]) * seen["ys"].grad[-1]).sum()
    assert torch.allclose(problem.end_time.grad, slope, rtol=1e-12)
    assert abs(slope) > 1e-6


@pytest.mark.parametrize("name", ["adjoint", "naive", "interpolation", "symplectic_adjoint", "anode", "aca"])
def test_samples_slopes_are_those_of_their_own_losses(name):
    """The tap's m_i against dL_i/dT of each sample's own loss, and their mean against the batch's gradient."""
    problem, seen = build_task("digits_mlp").build("tiny", 0, CPU, F64), []
    images, labels = (part[:5] for part in problem.batch(0))
    problem.end_time.fill_(0.7).requires_grad_()
    method, solver = build_gradient(name), make_solver("rk4", num_steps=3)
    tap = EndSlope(problem.end_time, seen.append)
    problem.loss(solve_with(method.with_tap(tap), solver), (images, labels)).backward()
    (slopes,) = seen
    assert torch.allclose(slopes.mean(), problem.end_time.grad, rtol=1e-12)
    for i, slope in enumerate(slopes):
        (alone,) = torch.autograd.grad(
            problem.loss(solve_with(method, solver), (images[i : i + 1], labels[i : i + 1])), problem.end_time
        )
        assert torch.allclose(alone, slope, rtol=1e-10)


def test_a_tap_beside_sees_what_it_would_see_alone():
    """Same sample times, states, costates and weights; the slopes come once."""
    problem, slopes = build_task("digits_mlp").build("tiny", 0, CPU, F64), []

    class Noting:
        def __init__(self):
            self.seen = []

        def sample_times(self, t0, t1):
            return [t0, (t0 + t1) / 2, t1]

        def observe(self, field, t, y, a, weight):
            self.seen.append((t, y.sum().item(), a.abs().sum().item(), weight))

    alone, beside = Noting(), Noting()
    for tap in (alone, EndSlope(problem.end_time, slopes.append, beside)):
        method = build_gradient("adjoint").with_tap(tap)
        problem.loss(solve_with(method, make_solver("dopri5", rtol=1e-4, atol=1e-4)), problem.probe_batch()).backward()
    assert alone.seen == beside.seen
    assert [t for t, *_ in alone.seen] == [1.0, 0.5, 0.0]
    assert len(slopes) == 1


def _watch(policy, slopes):
    """Let the policy's tap see samples of these slopes, and leave their mean as the gradient."""
    m = torch.tensor(slopes, dtype=F64)[:, None]
    tap = policy.tap(None)
    if tap is not None:
        tap.observe(lambda _t, y: torch.ones_like(y), policy.end_time.item(), torch.zeros_like(m), m / len(m), 1.0)
    policy.end_time.grad = m.mean()


@pytest.mark.parametrize("policy", ["baseline", "feedback"])
def test_policies_reach_the_optimum_of_a_parabola(policy):
    """With L = (T - a)^2 / 2 and the penalty c T^2 / 2 the optimum is a / (1 + c), for either policy."""
    a, penalty, t1, field = 2.0, 0.5, _time(), _Constant()
    policy = IntegrationTime(t1, policy, lr=0.2, penalty=penalty, update_freq=1, memory=0.0)
    for _ in range(400):
        method, tap = build_gradient("adjoint"), policy.tap(None)
        method = method if tap is None else method.with_tap(tap)
        y = method(field, make_solver("rk4", num_steps=1), torch.zeros(1, 1, dtype=F64), torch.stack([_time(0.0), t1]))[
            -1
        ]
        (0.5 * (y - a) ** 2).sum().backward()
        parameters = list(field.parameters())
        policy.before_step(parameters)
        policy.after_step(parameters)  # the parameters stand still
    assert t1.item() == pytest.approx(a / (1 + penalty), rel=1e-8)
    assert t1.grad is None


def test_feedback_move_in_closed_form():
    """Three steps of averages, then dt1 = -(lr Q_T + Q_Ttheta . dtheta) / Q_TT by hand; in between t1 rests."""
    t1, p, memory, c, lr = _time(1.8), nn.Parameter(_randn(3)), 0.9, 0.05, 0.3
    policy = IntegrationTime(t1, "feedback", lr=lr, penalty=c, update_freq=3, memory=memory)
    slopes = [[0.4, 1.4], [-0.2, -0.6], [0.7, -1.7]]
    moves = [_randn(3, seed=i + 20) for i in range(3)]
    for i in range(3):
        assert t1.item() == 1.8
        _watch(policy, slopes[i])
        p.grad = _randn(3, seed=i + 10)
        policy.before_step([p])
        p.data += moves[i]
        policy.after_step([p])
    weights = torch.tensor([memory**2, memory, 1.0], dtype=F64)
    weights /= weights.sum()
    m, squares = torch.tensor(slopes, dtype=F64).mean(1), torch.tensor(slopes, dtype=F64).square().mean(1)
    grads = torch.stack([_randn(3, seed=i + 10) for i in range(3)])
    q_t, q_tt = c * 1.8 + weights @ m, c + weights @ squares
    q_t_theta = (weights * m) @ grads
    assert t1.item() == pytest.approx((1.8 - (lr * q_t + q_t_theta @ moves[2]) / q_tt).item(), rel=1e-12)


def test_feedback_answers_where_the_parameters_have_done_the_work():
    """On L = (w T - a)^2 / 2 the step in w lowers the slope in T: the move is that much shorter, in closed form."""
    a, c, lr, moved = 2.0, 0.1, 0.5, 0.3
    found = []
    for step in (0.0, moved):
        t1, w = _time(), nn.Parameter(_time(1.0))
        policy = IntegrationTime(t1, "feedback", lr=lr, penalty=c, update_freq=1, memory=0.5)
        _watch(policy, [(w * t1 - a).item() * w.item()])
        t1.grad = None
        (0.5 * (w * t1 - a) ** 2).backward()
        policy.before_step([w])
        w.data += step
        policy.after_step([w])
        found.append(t1.item())
    m, slope_w = (1.0 - a) * 1.0, (1.0 - a) * 1.0
    assert found[0] == pytest.approx(1.0 - lr * (c + m) / (c + m * m), rel=1e-12)
    assert found[1] - found[0] == pytest.approx(-m * slope_w * moved / (c + m * m), rel=1e-12)


def test_samples_that_disagree_shorten_the_step():
    """Slopes -1 and 1.2 have the mean 0.1: by its square the Newton step would be 10, by theirs it is 0.08."""
    t1 = _time(2.0)
    policy = IntegrationTime(t1, "feedback", lr=1.0, penalty=1e-6, update_freq=1, memory=0.5)
    _watch(policy, [-1.0, 1.2])
    policy.before_step([])
    policy.after_step([])
    assert t1.item() == pytest.approx(2.0 - (0.1 + 2e-6) / (1.22 + 1e-6), rel=1e-12)


def test_feedback_without_a_tap_is_named():
    """A gradient alone does not tell the samples' slopes; what another pass has shown does not count."""
    t1 = _time()
    policy = IntegrationTime(t1, "feedback", update_freq=1)
    _watch(policy, [1.0])
    policy.forget()
    with pytest.raises(UsageError, match="t1_policy: 'feedback' expected a tap to watch the backward pass"):
        policy.before_step([])


def test_end_time_stays_above_the_least():
    """A steep slope stops at 0.1."""
    t1 = _time(0.3)
    policy = IntegrationTime(t1, "baseline", lr=1.0, update_freq=1)
    t1.grad = _time(5.0)
    policy.before_step([])
    policy.after_step([])
    assert t1.item() == 0.1


class _Model(nn.Module):
    """A field, an end time of its own, and a loss that prefers another one."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3).double()
        for i, p in enumerate(self.layer.parameters()):
            p.data = 0.5 * _randn(*p.shape, seed=i)
        self.register_buffer("end_time", _time(0.6))

    def forward(self, t, y):
        return torch.tanh(self.layer(y))


def _trained(model, optimizer, first, last):
    losses = []
    for i in range(first, last):
        tap = optimizer.next_tap()
        method = build_gradient("adjoint") if tap is None else build_gradient("adjoint").with_tap(tap)
        optimizer.zero_grad()
        ts = torch.stack([_time(0.0), model.end_time])
        loss = (method(model, make_solver("rk4"), _randn(4, 3, seed=i), ts)[-1] - 1.0).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("policy", ["baseline", "feedback"])
def test_state_continues_bit_for_bit(policy):
    """S10 with the end time: saved between two moves and loaded into a new optimizer, training goes on the same."""

    def made(model):
        time = IntegrationTime(model.end_time, policy, lr=0.2, update_freq=3)
        return SNOpt(model, [model], lambda p: torch.optim.SGD(p, lr=0.05), update_freq=4, integration_time=time)

    model = _Model()
    optimizer = made(model)
    _trained(model, optimizer, 0, 5)
    other = _Model()
    other.layer.load_state_dict(model.layer.state_dict())
    restored = made(other)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert _trained(model, optimizer, 5, 12) == _trained(other, restored, 5, 12)
    assert torch.equal(model.end_time, other.end_time)
    assert model.end_time.item() != pytest.approx(0.6)
    state = optimizer.state_dict()
    del state["t1"]
    with pytest.raises(UsageError, match=r"got one without \['t1'\]"):
        restored.load_state_dict(state)


def test_a_loss_that_does_not_see_the_end_time_is_named():
    """A copy of its number leaves no gradient; one that is not finite stops the step."""
    t1 = _time()
    policy = IntegrationTime(t1, "baseline")
    with pytest.raises(UsageError, match="end_time: expected a gradient, found none"):
        policy.before_step([])
    t1.grad = _time(math.nan)
    with pytest.raises(NonFiniteError, match="end_time: its gradient is nan at t1 = 1"):
        policy.before_step([])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"policy": "newton"}, "t1_policy: expected 'baseline' or 'feedback'"),
        ({"lr": 0.0}, "t1_lr: expected a positive number"),
        ({"penalty": -1.0}, "t1_penalty: expected a positive number"),
        ({"policy": "feedback", "penalty": 0.0}, "t1_penalty: expected a positive number"),
        ({"update_freq": 0}, "t1_update_freq: expected a positive whole number"),
        ({"memory": 1.0}, r"memory: expected a number in \[0, 1\)"),
        ({"least": 0.0}, "least: expected a positive time"),
        ({"end_time": torch.ones(2)}, "end_time: expected a 0-d floating-point leaf tensor"),
    ],
    ids=lambda v: ",".join(v) if isinstance(v, dict) else None,
)
def test_bad_options_are_refused(options, match):
    """Options out of range are refused with the name that a suite gives them."""
    with pytest.raises(UsageError, match=match):
        IntegrationTime(**({"end_time": _time(), "policy": "baseline"} | options))


def test_digits_train_their_end_time():
    """The options reach a run; the end time is told for every iteration."""
    problem = build_task("digits_mlp").build("tiny", 0, CPU, torch.float32)
    assert isinstance(problem, TrainableEndTime)
    assert isinstance(problem, ScoringProblem)
    optimizer = snopt(problem, t1_policy="feedback", t1_lr=0.1, t1_update_freq=2, t1_penalty=4e-4)
    trace = train(problem, build_gradient("adjoint"), make_solver("dopri5", rtol=1e-3), optimizer, 8, lambda _: None)
    assert len(trace.end_times) == 8
    assert trace.end_times[0] == trace.end_times[1] == 1.0
    moves = [a != b for a, b in zip(trace.end_times[:-1], trace.end_times[1:], strict=True)]
    assert moves[:2] == [False, True]
    assert not any(moves[::2])
    fresh = build_task("digits_mlp").build("tiny", 0, CPU, F64)
    fresh.model.load_state_dict({k: v.double() for k, v in problem.model.state_dict().items()})
    assert fresh.dynamics(fresh.probe_batch())[2][1].item() == pytest.approx(problem.end_time.item())


def test_passes_of_the_curvature_do_not_count_as_slopes():
    """With R = 10 a refresh walks back from vectors of its own: only the other iterations tell the loss's slopes."""
    problem = build_task("digits_mlp").build("tiny", 0, CPU, torch.float32)
    optimizer = snopt(problem, curvature="gauss_newton", update_freq=2, t1_policy="feedback", t1_update_freq=4)
    train(problem, build_gradient("adjoint"), make_solver("rk4", num_steps=2), optimizer, 4, lambda _: None)
    assert optimizer.integration_time.steps == 4
    assert optimizer.integration_time.seen == 2
    assert problem.end_time.item() != 1.0


def test_a_run_records_the_end_time(tmp_path):
    """The train pass fills the columns; without a policy they are empty."""
    values = {
        "suite": "test",
        "task": "digits_mlp",
        "size": "tiny",
        "gradient": "adjoint",
        "optimizer": "snopt",
        "solver": "rk4",
        "seed": 0,
        "rtol": 1e-3,
        "atol": 1e-3,
        "iterations": 3,
    }
    options = (("t1_policy", "baseline"), ("t1_update_freq", 1))
    moved = run_pass("train", Run(**values, optimizer_options=options), str(tmp_path), lambda _: None)
    fixed = run_pass("train", Run(**values), str(tmp_path), lambda _: None)
    assert len(moved["train_end_time"]) == 3
    assert moved["trace_nfe_forward"] == [4 + 2] * len(moved["trace_iteration"])  # f at both ends, for dL/dts
    assert fixed["train_end_time"] is None
    assert fixed["trace_nfe_forward"] == [4] * len(fixed["trace_iteration"])


def test_a_task_without_an_end_time_refuses():
    """The message names the option."""

    class Problem:
        model = _Constant()
        fields = (model,)
        training = Training(1, {})

    with pytest.raises(UnsupportedError, match="t1_policy: this task has no end time that could be trained"):
        snopt(Problem(), t1_policy="feedback")
