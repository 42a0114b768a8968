"""SNOpt with R > 1: the dense second-order ODE, the Hessians of the losses, and what a refresh leaves behind."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from odegrad.binding import next_solve, solve_with
from odegrad.contracts import CurvaturePasses, Training
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.optimizers.snopt.factory import snopt
from odegrad.methods.optimizers.snopt.low_rank import LowRank, cross_entropy_roots, pull_back_each, squared_error_roots
from odegrad.methods.optimizers.snopt.optimizer import SNOpt
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, build_task

F64 = torch.float64
TS = torch.tensor([0.0, 1.0], dtype=F64)
CPU = torch.device("cpu")


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class _Net(nn.Module):
    """A field on three numbers that knows the time."""

    def __init__(self, width=3):
        super().__init__()
        self.first, self.second = nn.Linear(width, 4).double(), nn.Linear(4, width, bias=False).double()
        for i, p in enumerate(self.parameters()):
            p.data = 0.7 * _randn(*p.shape, seed=i)

    def forward(self, t, y):
        return self.second(torch.tanh(self.first(y) + t))


class _Samples:
    """Notes state and costate at eleven times."""

    def __init__(self):
        self.seen = []

    def sample_times(self, t0, t1):
        return [t0 + i * (t1 - t0) / 10 for i in range(11)]

    def observe(self, field, t, y, a, weight):
        self.seen.append((t, y[0], a[0]))


def _dense_second_order(field, z0, roots, times):
    """Return Q_zz at ``times`` (from the last to the first) and Q_thetatheta(t0) of the dense equations, by scipy."""
    d, names = 3, [n for n, _ in field.named_parameters()]
    shapes = [p.shape for p in field.parameters()]
    theta = torch.cat([p.detach().reshape(-1) for p in field.parameters()])
    n = len(theta)

    def f(t, z, flat):
        parts = torch.split(flat, [s.numel() for s in shapes])
        named = {k: v.view(s) for k, v, s in zip(names, parts, shapes, strict=True)}
        return torch.func.functional_call(field, named, (torch.tensor(t, dtype=F64), z[None]))[0]

    exact = {"rtol": 1e-12, "atol": 1e-13, "method": "DOP853"}
    forward = solve_ivp(lambda t, z: f(t, torch.from_numpy(z), theta).numpy(), (0, 1), z0.numpy(), **exact)

    def back(t, x):
        z, q_zz, q_zp, _ = np.split(x, [d, d + d * d, d + d * d + d * n])
        z, q_zz, q_zp = torch.from_numpy(z), q_zz.reshape(d, d), q_zp.reshape(d, n)
        f_z, f_p = (j.numpy() for j in torch.func.jacrev(f, argnums=(1, 2))(t, z, theta))
        dq_zz = f_z.T @ q_zz + q_zz @ f_z
        dq_zp = f_z.T @ q_zp + q_zz @ f_p
        dq_pp = f_p.T @ q_zp + q_zp.T @ f_p
        return np.concatenate([f(t, z, theta).numpy(), *(-q.reshape(-1) for q in (dq_zz, dq_zp, dq_pp))])

    start = np.concatenate([forward.y[:, -1], (roots.T @ roots).numpy().reshape(-1), np.zeros(d * n + n * n)])
    x = solve_ivp(back, (1, 0), start, t_eval=times, **exact).y
    return x[d : d + d * d].T.reshape(-1, d, d), x[-n * n :, -1].reshape(n, n)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", ["adjoint", "interpolation"])
def test_low_rank_vectors_solve_the_dense_second_order_equations(name, rank):
    """S2: sum y y^T is Q_zz at every time and sum q q^T is Q_thetatheta, to 1e-8, on a state of three numbers."""
    field, z0, roots = _Net(), _randn(3, seed=5), _randn(rank, 3, seed=6)
    tap, solver = _Samples(), make_solver("dopri5", rtol=1e-11, atol=1e-11)
    options = {} if name == "adjoint" else {"num_nodes": 40}
    solve = solve_with(build_gradient(name, options).with_tap(tap), solver)
    low_rank = LowRank(lambda solve, batch: solve(field, batch, TS)[-1], lambda _: roots[:, None])
    qs = pull_back_each(low_rank.terms(solve, z0[None]), list(field.parameters()))
    assert len(tap.seen) == 11 * rank
    q_zz, q_pp = _dense_second_order(field, z0, roots, [t for t, *_ in tap.seen[:11]])
    for j in range(11):
        ys = [tap.seen[11 * i + j][2] for i in range(rank)]
        assert np.abs(sum(torch.outer(y, y) for y in ys).numpy() - q_zz[j]).max() <= 1e-8
    assert np.abs(sum(torch.outer(q, q) for q in qs).numpy() - q_pp).max() <= 1e-8


def test_roots_of_cross_entropy_are_those_of_its_hessian():
    """The sum of s s^T is the Hessian that autograd finds, for every sample and whatever the label."""
    scores = 2.0 * _randn(5, 4)
    roots = cross_entropy_roots(scores)
    for n, row in enumerate(scores):
        label = torch.tensor(n % 4)
        hessian = torch.autograd.functional.hessian(lambda o, k=label: nn.functional.cross_entropy(o, k), row)
        assert torch.allclose(torch.einsum("ri,rj->ij", roots[:, n], roots[:, n]), hessian, atol=1e-14)


def test_roots_of_the_squared_error_are_those_of_its_hessian():
    """The same for the mean of squares over a sample's outputs."""
    outputs, target = _randn(5, 3), _randn(5, 3, seed=1)
    roots = squared_error_roots(outputs)
    for n, row in enumerate(outputs):
        hessian = torch.autograd.functional.hessian(lambda o, n=n: nn.functional.mse_loss(o, target[n]), row)
        assert torch.allclose(torch.einsum("ri,rj->ij", roots[:, n], roots[:, n]), hessian, atol=1e-14)


@pytest.mark.parametrize("name", ["adjoint", "naive", "aca", "reversible_rk"])
def test_factors_count_inputs_once_and_sum_over_the_costates(name):
    """A is that of R = 1, B the sum of B's of each vector alone; the loss's gradient is as without a refresh."""
    field, head, y0 = _Net(), nn.Linear(3, 4).double(), _randn(5, 3)
    model = nn.ModuleDict({"field": field, "head": head})
    method, solver, labels = build_gradient(name), make_solver("rk4", num_steps=8), torch.arange(5) % 4

    def scores(solve, batch):
        return head(solve(field, batch, TS)[-1])

    def sums(roots):
        optimizer = SNOpt(
            model,
            [field],
            lambda p: torch.optim.SGD(p, lr=0.1),
            full_precond=True,
            low_rank=LowRank(scores, roots),
        )
        assert isinstance(optimizer, CurvaturePasses)
        solve = next_solve(optimizer, method, solver, y0)
        assert all(p.grad is None for p in model.parameters())
        assert not head._forward_hooks
        nn.functional.cross_entropy(scores(solve, y0), labels).backward()
        grads = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        return optimizer._sums, grads

    total, grads = sums(cross_entropy_roots)
    apart = [sums(lambda o, i=i: cross_entropy_roots(o)[i : i + 1])[0] for i in range(4)]
    assert set(total) == {"field.first", "field.second", "head"}
    for layer, found in total.items():
        summed = sum(part[layer].output_factor for part in apart)
        assert torch.allclose(found.output_factor, summed, rtol=1e-10, atol=1e-14)
        assert torch.allclose(found.input_factor, apart[0][layer].input_factor, rtol=1e-4)
    nn.functional.cross_entropy(scores(solve_with(method, solver), y0), labels).backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))


def test_a_refresh_leaves_buffers_and_random_numbers_alone():
    """Its forward pass is one more: batch statistics and the generator's state stay."""
    field, norm, y0 = _Net(), nn.BatchNorm1d(3).double(), _randn(5, 3)
    model = nn.ModuleDict({"field": field, "norm": norm, "drop": nn.Dropout(0.5)})

    def outputs(solve, batch):
        return model["drop"](norm(solve(field, batch, TS)[-1]))

    optimizer = SNOpt(
        model, [field], lambda p: torch.optim.SGD(p, lr=0.1), low_rank=LowRank(outputs, squared_error_roots)
    )
    before, rng = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    next_solve(optimizer, build_gradient("adjoint"), make_solver("rk4"), y0)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(s.rank == 3 and s.output_factor is not None for s in optimizer._sums.values())


def test_outputs_of_another_shape_are_refused():
    """One row of outputs a sample, R rows of roots for it."""
    field, solve = _Net(), solve_with(build_gradient("naive"), make_solver("rk4"))
    low_rank = LowRank(lambda solve, batch: solve(field, batch, TS), cross_entropy_roots)
    with pytest.raises(UsageError, match=r"low_rank: expected outputs \[batch, n\], got \(2, 2, 3\)"):
        low_rank.terms(solve, _randn(2, 3))
    low_rank = LowRank(lambda solve, batch: solve(field, batch, TS)[-1], lambda outputs: outputs)
    with pytest.raises(UsageError, match=r"low_rank: expected roots \[R, 2, 3\], got \(2, 3\)"):
        low_rank.terms(solve, _randn(2, 3))


def test_digits_take_the_curvature_of_their_classes():
    """curvature="gauss_newton": ten vectors, and a loss that falls; a task without scores refuses it."""
    problem = build_task("digits_mlp").build("tiny", 0, CPU, torch.float32)
    optimizer = snopt(problem, curvature="gauss_newton", lr=0.05, eps=0.1, update_freq=5)
    losses = []
    for i in range(10):
        optimizer.zero_grad()
        batch = problem.batch(i)
        solve = next_solve(optimizer, build_gradient("adjoint"), make_solver("rk4"), batch)
        if i == 0:
            assert {total.rank for total in optimizer._sums.values()} == {10}
        loss = problem.loss(solve, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    with pytest.raises(UsageError, match="curvature: expected 'gradient' or 'gauss_newton', got 'hessian'"):
        snopt(problem, curvature="hessian")

    class Other:
        model = _Net()
        fields = (model,)
        training = Training(1, {})

    with pytest.raises(UnsupportedError, match="needs the scores of a cross-entropy"):
        snopt(Other(), curvature="gauss_newton")
