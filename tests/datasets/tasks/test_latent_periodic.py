"""Sinusoids at times of their own: what is drawn, what the encoder sees, and own times beside shared ones."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from odegrad.binding import solve_with
from odegrad.datasets.sources.seeding import generator
from odegrad.datasets.tasks.latent_periodic import (
    END_TIME,
    FREQUENCIES,
    OBSERVED_NOISE,
    TIME_MARKS,
    LatentPeriodic,
    draw_ticks,
)
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

CPU = torch.device("cpu")


def tight(batch: str) -> Any:
    """Solve far below 1e-10."""
    return solve_with(build_gradient("aca"), make_solver("dopri8", rtol=1e-12, atol=1e-13, batch=batch))


@pytest.fixture(scope="module")
def problem() -> Any:
    return LatentPeriodic().build("tiny", 0, CPU, torch.float64)


def test_times_are_even_and_no_two_of_a_series_are_one() -> None:
    """Ticks are uniform to a Kolmogorov-Smirnov test, and distinct in float32 too."""
    ticks = draw_ticks(400, 18, generator(0))
    assert all(len(set(row)) == 18 for row in ticks.tolist())
    assert 1 <= int(ticks.min()) <= int(ticks.max()) <= TIME_MARKS
    assert stats.kstest((ticks.flatten().numpy() - 0.5) / TIME_MARKS, "uniform").pvalue > 0.01
    batch: Any = LatentPeriodic().build("default", 0, CPU, torch.float32).batch(0)
    counts = batch.seen.sum(1)
    assert int(counts.min()) >= 10
    assert int(counts.max()) <= 20
    for ts, later, count in zip(batch.ts, batch.later, counts.tolist(), strict=True):
        assert bool((ts[: count + 1].diff() > 0).all())
        assert bool((ts[count:] == ts[count]).all())
        assert 0.0 < float(ts[count]) <= END_TIME
        assert bool((later.diff() > 0).all())
        assert not set(ts.tolist()[1:]) & set(later.tolist())


def test_values_are_noisy_sinusoids(problem: Any) -> None:
    """The best sinusoid through the clean values is exact; about it the seen ones scatter by the noise."""
    batch = LatentPeriodic().build("default", 0, CPU, torch.float64).batch(0)
    frequencies = np.linspace(*FREQUENCIES, 601)
    residuals = []
    for i in range(40):
        later, clean = batch.later[i, 1:].numpy(), batch.clean[i, :, 0].numpy()

        def waves(f: float, t: Any) -> Any:
            return np.stack([np.sin(2 * math.pi * f * t), np.cos(2 * math.pi * f * t)], axis=1)

        fits = [np.linalg.lstsq(waves(f, later), clean, rcond=None) for f in frequencies]
        best = min(range(len(fits)), key=lambda k: float(fits[k][1][0]))
        assert float(fits[best][1][0]) < 1e-3
        assert float(np.hypot(*fits[best][0])) == pytest.approx(1.0, abs=0.02)
        count = int(batch.seen[i].sum())
        own = batch.ts[i, 1 : count + 1].numpy()
        residuals.append(batch.values[i, :count, 0].numpy() - waves(frequencies[best], own) @ fits[best][0])
        assert not bool(batch.values[i, count:].any())
    assert float(np.concatenate(residuals).std()) == pytest.approx(OBSERVED_NOISE, rel=0.1)
    assert problem.probe_batch().values.shape == (8, 10, 1)


def test_own_times_and_their_union_are_one_loss_and_gradient(problem: Any) -> None:
    """To 1e-10: samples with steps of their own, and all together at all times of any."""
    batch, parameters = problem.probe_batch(), list(problem.model.parameters())
    losses = [problem.loss(tight(each), batch) for each in ("per_sample", "joint")]
    own, union = (torch.autograd.grad(loss, parameters) for loss in losses)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=0)
    for a, b in zip(own, union, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10 * float(b.abs().max()))


def test_rows_of_one_time_are_times_that_all_share(problem: Any) -> None:
    """Where all series are seen at one row of times, it is the loss that these times alone give."""
    batch = problem.probe_batch()
    row = torch.linspace(0.0, END_TIME, batch.ts.shape[1], dtype=torch.float64)
    same = batch._replace(ts=row.expand_as(batch.ts), seen=torch.ones_like(batch.seen))
    found = problem.loss(tight("per_sample"), same)

    def shared(field: Any, y0: Any, _ts: Any) -> Any:
        return tight("joint")(field, y0, row)

    torch.testing.assert_close(found, problem.loss(shared, same), rtol=1e-10, atol=0)


def test_loss_is_the_bound_and_padding_is_never_seen(problem: Any) -> None:
    """Where the decoder knows nothing and the posterior is the prior, the bound is the evidence; KL is not negative."""
    blank: Any = LatentPeriodic().build("tiny", 0, CPU, torch.float64)
    with torch.no_grad():
        for parameter in [*blank.net.decoder.parameters(), *blank.net.to_latent.parameters()]:
            parameter.zero_()
    batch = blank.probe_batch()
    seen = batch.values[batch.seen].numpy()
    expected = -stats.norm.logpdf(seen, 0.0, OBSERVED_NOISE).sum() / len(seen)
    solve = solve_with(build_gradient("naive"), make_solver("dopri5", batch="per_sample"))
    assert blank.loss(solve, batch).item() == pytest.approx(expected, rel=1e-12)
    junk = batch._replace(values=torch.where(batch.seen[..., None], batch.values, 7.0))
    assert not bool(batch.seen.all())
    torch.testing.assert_close(problem.loss(solve, junk), problem.loss(solve, batch), rtol=1e-12, atol=0)


def test_encoder_does_not_see_what_the_metric_is_of(problem: Any) -> None:
    """Other unseen times and values leave the latent states as they are."""
    batch = problem.probe_batch()
    other = batch._replace(later=batch.later * 0.5, clean=batch.clean + 1.0)
    for a, b in zip(problem.encode(batch), problem.encode(other), strict=True):
        assert torch.equal(a, b)
