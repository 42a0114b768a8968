"""A small latent ODE to compare gradient methods on: a GRU encoder, a field 4-20-4, thirty output times, a decoder."""

import torch
from torch import nn


class Latent(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 20), nn.Tanh(), nn.Linear(20, 4))

    def forward(self, t, z):
        return self.net(z)


class Encoder(nn.Module):
    """Reads the observations backwards in time; its last hidden state says where the latent state starts."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(2, 16)
        self.start = nn.Linear(16, 4)

    def forward(self, observed):
        _, hidden = self.gru(observed.flip(0))
        return self.start(hidden[-1])


def spirals(ts, count):
    """Return noisy observations ``[time, count, 2]`` of damped oscillations."""
    phase = 2.0 * torch.pi * torch.rand(count)
    angle = 2.0 * ts[:, None] + phase
    clean = torch.exp(-0.2 * ts)[:, None, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    return clean + 0.05 * torch.randn_like(clean)


def build():
    torch.manual_seed(0)
    ts = torch.linspace(0.0, 3.0, 30)
    observed = spirals(ts, 16)
    decoder = nn.Linear(4, 2)
    return Latent(), Encoder()(observed), ts, lambda zs: (decoder(zs) - observed).square().mean()
