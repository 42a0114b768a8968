"""Random numbers and parameters from a seed."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from odegrad.datasets.sources.seeding import PARAMETERS, TRAIN, generator, seeded_module
from odegrad.errors import UsageError

CPU = torch.device("cpu")


def draws(*words: int) -> list[float]:
    values: list[float] = torch.rand(4, generator=generator(*words)).tolist()
    return values


def test_same_stream_same_numbers_and_other_streams_other_numbers() -> None:
    assert draws(3, TRAIN, 5) == draws(3, TRAIN, 5)
    different = [draws(3), draws(3, PARAMETERS), draws(3, TRAIN), draws(3, TRAIN, 0), draws(4, TRAIN, 0)]
    assert len({tuple(d) for d in different}) == len(different)


@pytest.mark.parametrize("words", [(-1,), (0, -2)])
def test_negative_seed_is_refused(words: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="seed, stream: expected non-negative integers"):
        generator(*words)


def test_parameters_are_uniform_within_the_bound_of_their_layer() -> None:
    layer = seeded_module(lambda: nn.Linear(100, 400), generator(0), CPU, torch.float64)
    bound = 0.1
    for values in (layer.weight.detach(), layer.bias.detach()):
        assert values.abs().max() <= bound
        standard_error = bound / (3 * values.numel()) ** 0.5
        assert abs(values.mean()) < 4 * standard_error
    # E[x^2] of a uniform is bound^2 / 3, and the standard deviation of x^2 is bound^2 sqrt(4/45).
    weight = layer.weight.detach()
    standard_error = bound**2 * (4 / 45 / weight.numel()) ** 0.5
    assert abs(weight.square().mean() - bound**2 / 3) < 4 * standard_error


def test_float32_parameters_are_the_rounded_float64_ones() -> None:
    def build(dtype: torch.dtype) -> nn.Module:
        return seeded_module(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(4, 2)), generator(1), CPU, dtype)

    for single, double in zip(build(torch.float32).parameters(), build(torch.float64).parameters(), strict=True):
        assert single.dtype is torch.float32
        assert torch.equal(single, double.to(torch.float32))


def test_parameters_without_a_weight_are_refused() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(3))

    with pytest.raises(UsageError, match=r"submodule 'Scale' has the parameters \['factor'\] but no 'weight'"):
        seeded_module(Scale, generator(0), CPU, torch.float32)


def test_normalisations_start_as_the_identity_and_draw_nothing() -> None:
    def with_norms() -> nn.Module:
        return nn.ModuleList([nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.LayerNorm(3), nn.Linear(3, 2)])

    layers: Any = seeded_module(with_norms, generator(0), CPU, torch.float32)
    batch, group, layer, linear = layers
    for norm in (batch, group, layer):
        assert norm.weight.tolist() == [1.0] * 3
        assert norm.bias.tolist() == [0.0] * 3
    assert batch.running_mean.tolist() == [0.0] * 3
    assert batch.running_var.tolist() == [1.0] * 3
    assert batch.num_batches_tracked.item() == 0
    alone = seeded_module(lambda: nn.Linear(3, 2), generator(0), CPU, torch.float32)
    assert torch.equal(linear.weight, alone.weight)


def test_a_reparametrised_layer_with_a_bias_draws_as_without() -> None:
    normed = seeded_module(lambda: weight_norm(nn.Linear(3, 2)), generator(0), CPU, torch.float64)
    plain = seeded_module(lambda: nn.Linear(3, 2), generator(0), CPU, torch.float64)
    torch.testing.assert_close(normed.weight, plain.weight, rtol=1e-14, atol=0)
    assert torch.equal(normed.bias, plain.bias)


def test_buffers_of_unknown_layers_are_refused() -> None:
    """Under the meta device they would come out with whatever lies in memory."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("levels", torch.ones(3))

    with pytest.raises(
        UsageError, match=r"submodule 'Table' has the buffers \['levels'\]; .* set a buffer in reset_buffers"
    ):
        seeded_module(Table, generator(0), CPU, torch.float32)
