"""A model of one's own to compare gradient methods on: a damped vector field, a batch, output times."""

import torch
from torch import nn


class Damped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 4))

    def forward(self, t, y):
        return self.net(y) - 4.0 * y


def build():
    torch.manual_seed(0)
    return Damped(), torch.randn(64, 4), torch.tensor([0.0, 1.0])
