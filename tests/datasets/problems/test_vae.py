"""The amortised flow against dense matrices, and the bound against closed forms."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from odegrad.datasets.nets.amortised_flow import AmortisedFlowField
from odegrad.datasets.nets.flow import standard_normal_log_density
from odegrad.datasets.nets.layers import ConcatSquashNet
from odegrad.datasets.problems.gaussian import diagonal_kl, log_density_about
from odegrad.datasets.problems.likelihoods import bernoulli
from odegrad.datasets.problems.vae import vae_problem
from odegrad.datasets.sources.seeding import generator
from odegrad.datasets.tasks.vae_images import VAEDigits
from odegrad.errors import UsageError
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

CPU = torch.device("cpu")
SPLITS = ("train", "validation", "test")


def solved(name: str, tolerance: float = 1e-9) -> Any:
    method, solver = build_gradient(name), make_solver("dopri5", rtol=tolerance, atol=tolerance)
    return lambda field, y0, ts: method(field, solver, y0, ts)


def field() -> AmortisedFlowField:
    torch.manual_seed(0)
    return AmortisedFlowField(3, (5, 4), 2).double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def problem() -> Any:
    return VAEDigits().build("tiny", 0, CPU, torch.float64)


def test_without_matrices_of_its_own_it_is_a_concat_squash_net() -> None:
    mine, z, t = field(), normal(6, 3), torch.tensor(0.3, dtype=torch.float64)
    plain = ConcatSquashNet(3, (5, 4)).double()
    plain.layers.load_state_dict(mine.layers.state_dict())
    torch.testing.assert_close(mine.velocity(t, z, torch.zeros(6, mine.amortised_size).double()), plain(t, z))


def test_each_sample_has_the_matrices_that_its_numbers_say() -> None:
    """A sample with ``W + U V^T / rank`` written into a net of its own moves the same way."""
    mine, z, t = field(), normal(4, 3), torch.tensor(0.7, dtype=torch.float64)
    low_rank = normal(4, mine.amortised_size, seed=1)
    found = mine.velocity(t, z, low_rank)
    for i in range(4):
        own = ConcatSquashNet(3, (5, 4)).double()
        own.layers.load_state_dict(mine.layers.state_dict())
        place = 0
        for layer, (a, b) in zip(own.layers, ((3, 5), (5, 4), (4, 3)), strict=True):
            v = low_rank[i, place : place + 2 * a].reshape(a, 2)
            u = low_rank[i, place + 2 * a : place + 2 * (a + b)].reshape(b, 2)
            place += 2 * (a + b)
            with torch.no_grad():
                layer.get_parameter("linear.weight").add_(u @ v.T / 2)
        torch.testing.assert_close(found[i], own(t, z[i : i + 1])[0])
    assert place == mine.amortised_size


def test_log_density_change_is_the_dense_determinant() -> None:
    """The estimates of all axes add up to the trace, hence their integrals to the log-determinant."""
    mine, low_rank = field(), normal(1, field().amortised_size, seed=1)
    ts, start = torch.tensor([0.0, 0.8], dtype=torch.float64), normal(1, 3, seed=2)
    naive = solved("naive", 1e-10)

    def image(z: Tensor) -> Tensor:
        with torch.enable_grad():
            state = (z[None], torch.zeros(1, dtype=torch.float64), low_rank)
            return naive(mine.with_probe(torch.ones(1, 3).double()), state, ts)[0][-1, 0]  # type: ignore[no-any-return]

    jacobian = torch.autograd.functional.jacobian(image, start[0])  # type: ignore[no-untyped-call]
    total = 0.0
    for axis in torch.eye(3, dtype=torch.float64):
        state = (start, torch.zeros(1, dtype=torch.float64), low_rank)
        total += naive(mine.with_probe(axis[None]), state, ts)[1][-1].item()
    assert -total == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-7)


def test_every_kind_of_method_returns_the_encoders_gradient() -> None:
    """The matrices are state at rest: the adjoint and the interpolation give naive's gradient, the encoder's too."""
    task = problem()
    batch = task.probe_batch()
    grads = {}
    for name in ("naive", "aca", "adjoint", "interpolation"):
        loss = task.loss(solved(name), batch)
        found = torch.autograd.grad(loss, list(task.model.parameters()))
        grads[name] = {key: g for (key, _), g in zip(task.model.named_parameters(), found, strict=True)}
    assert float(grads["naive"]["to_low_rank.weight"].norm()) > 1e-3
    for name, of_method in grads.items():
        for key, expected in grads["naive"].items():
            torch.testing.assert_close(of_method[key], expected, rtol=1e-5, atol=1e-6, msg=f"{name} {key}")


def test_bound_without_flow_is_likelihood_minus_divergence() -> None:
    """With a field of zero and a decoder that sees nothing: the mean over noise is closed form."""
    task = problem()
    with torch.no_grad():
        for parameter in [*task.net.flows.parameters(), *task.net.decoder.parameters()]:
            parameter.zero_()
        task.net.to_low_rank.weight.zero_()
        task.net.to_low_rank.bias.zero_()
    batch = task.probe_batch()
    mean, log_deviation, _ = task.net.encode(batch.pixels)
    expected = -64.0 * math.log(2.0) - diagonal_kl(mean, log_deviation).mean().item()
    source, found = generator(3), []
    with torch.no_grad():
        for _ in range(600):
            noise = torch.randn(batch.noise.shape, dtype=torch.float64, generator=source)
            found.append(-task.loss(solved("naive", 1e-3), batch._replace(noise=noise)).item())
    values = torch.tensor(found)
    assert abs(float(values.mean()) - expected) <= 4 * float(values.std()) / math.sqrt(len(found))


def test_flows_in_a_row_have_the_dense_determinant() -> None:
    """The bound holds the log-determinant of the whole chain; every axis as a probe in turn adds up to the trace."""
    settings = dataclasses.replace(VAEDigits().at("tiny"), latent=3, blocks=2, activation="softplus")
    images = {name: torch.rand(4, 10, generator=generator(i)).round().double() for i, name in enumerate(SPLITS)}
    task: Any = vae_problem(images, settings, 0, CPU, torch.float64)
    batch, exact = task.probe_batch(), solved("naive", 1e-10)
    pixels, noise = batch.pixels[:1], batch.noise[:1]
    mean, log_deviation, matrices = task.net.encode(pixels)
    start = (mean + log_deviation.exp() * noise)[0].detach()

    def image(z: Tensor) -> Tensor:
        state = z[None]
        for flow, low_rank in zip(task.net.fields, matrices, strict=True):
            fields = flow.with_probe(torch.ones(1, 3, dtype=torch.float64))
            state = exact(fields, (state, torch.zeros(1, dtype=torch.float64), low_rank), task.ts)[0][-1]
        return state[0]

    jacobian = torch.autograd.functional.jacobian(image, start)  # type: ignore[no-untyped-call]
    bounds = []
    with torch.no_grad():
        for axis in torch.eye(3, dtype=torch.float64):
            each = batch._replace(pixels=pixels, noise=noise, probes=axis.expand(2, 1, 3))
            bounds.append(task.net.bound(exact, each, task.ts).item())
        z1 = image(start)[None]
        gaussian = log_density_about(mean, log_deviation, start[None]).sum(1)
        rest = bernoulli(task.net.decoder(z1), pixels) + standard_normal_log_density(z1) - gaussian
    assert sum(b - rest.item() for b in bounds) == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-6)


def test_warm_up_weighs_the_divergence() -> None:
    """Without weight the bound is the likelihood; the weight rises by iterations to one and is one in evaluation."""
    settings = dataclasses.replace(VAEDigits().at("tiny"), warm_up_iterations=4)
    images = {name: torch.rand(40, 10, generator=generator(i)).round().double() for i, name in enumerate(SPLITS)}
    task: Any = vae_problem(images, settings, 0, CPU, torch.float64)
    assert [task.batch(i).warmth.item() for i in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert {x.warmth.item() for x in (task.probe_batch(), *task.held_out.values())} == {1.0}
    naive, batch = solved("naive"), task.batch(0)
    values = [task.loss(naive, batch._replace(warmth=torch.tensor(w).double())).item() for w in (0.0, 0.5, 1.0)]
    assert values[1] == pytest.approx((values[0] + values[2]) / 2, rel=1e-12)
    mean, log_deviation, (low_rank,) = task.net.encode(batch.pixels)
    field, z = task.net.fields[0].with_probe(batch.probes[0]), mean + log_deviation.exp() * batch.noise
    z1 = naive(field, (z, z.new_zeros(len(z)), low_rank), task.ts)[0][-1]
    expected = -bernoulli(task.net.decoder(z1), batch.pixels).mean().item()
    assert values[0] == pytest.approx(expected, rel=1e-12)


def test_images_are_ink_or_none_and_splits_are_the_digits() -> None:
    task = problem()
    assert set(task.train.unique().tolist()) == {0.0, 1.0}
    assert [len(task.train), *(len(x.pixels) for x in task.held_out.values())] == [1257, 180, 360]
    assert 0.2 < float(task.train.mean()) < 0.45


def test_a_field_without_probe_is_refused() -> None:
    with pytest.raises(UsageError, match="call with_probe before a solve"):
        field()(torch.tensor(0.0), (normal(1, 3), torch.zeros(1), torch.zeros(1, 38)))
