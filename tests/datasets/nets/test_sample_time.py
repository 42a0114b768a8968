"""Fields that say they take a time for each sample: each row is what the field gives of that sample alone."""

import pytest
import torch

from odegrad.datasets.nets.image_nets import ConvField, LinearField
from odegrad.datasets.nets.layers import AutonomousNet, ConcatSquashNet
from odegrad.datasets.nets.stiff_fields import ProtheroRobinsonField, SpreadVanDerPolField, VanDerPolField


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        (ConvField(2), (2, 4, 4)),
        (LinearField(3), (3,)),
        (ConcatSquashNet(3, (5,)), (3,)),
        (AutonomousNet(3, (5,)), (3,)),
        (VanDerPolField(5.0), (2,)),
        (ProtheroRobinsonField(7.0), (2,)),
        (SpreadVanDerPolField(torch.tensor([0.9, 1.1, 1.2])), (3,)),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, torch.nn.Module) else "",
)
def test_every_row_is_at_its_own_time(field, shape):
    """Three samples, as many as numbers in the states of some: a time that went the wrong way would show."""
    assert field.sample_time
    field = field.double()
    y = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.1, 0.7, -1.3], dtype=torch.float64)
    together = field(t.view(3, *[1] * len(shape)), y)
    alone = torch.cat([field(time, sample[None]) for time, sample in zip(t, y, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-13)
