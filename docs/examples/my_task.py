"""A task of one's own in one file: a neural field fitted to oscillators that slow down."""

import torch
from torch import nn

from odegrad.contracts import TaskInfo, Training
from odegrad.errors import UnknownNameError


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, t, y):
        return self.layers(y)


class Oscillators:
    """Damped oscillators ``[batch, 2]`` from random starts, seen at five times; everything from the seed."""

    def __init__(self, training, seed, device, dtype):
        with torch.random.fork_rng(devices=[]):  # the global generator stays as it was
            torch.manual_seed(seed)
            self.model = Field().to(device, dtype)
        self.fields, self.training, self.seed = (self.model,), training, seed
        self.ts = torch.linspace(0.0, 2.0, 5, device=device, dtype=dtype)

    def draw(self, count, *stream):
        """Return starts ``[count, 2]`` and the true solution ``[time, count, 2]``."""
        numbers = torch.Generator().manual_seed(hash((self.seed, *stream)) % 2**63)
        start = torch.randn(count, 2, dtype=torch.float64, generator=numbers)
        z = torch.exp((-0.3 + 1.5j) * self.ts.double().cpu())[:, None] * torch.view_as_complex(start)
        return start.to(self.ts), torch.view_as_real(z).to(self.ts)

    def batch(self, iteration):
        return self.draw(64, 0, iteration)

    def probe_batch(self):
        return self.draw(8, 1)

    def loss(self, solve, batch):
        start, truth = batch
        return (solve(self.model, start, self.ts) - truth).square().mean()

    def evaluate(self, solve, split="test"):
        with torch.no_grad():
            return float(self.loss(solve, self.draw(256, 2 if split == "test" else 3)))

    def dynamics(self, batch):
        return self.model, batch[0], self.ts


class DampedOscillators:
    info = TaskInfo(
        name="damped_oscillators",
        kind="time series",
        summary="damped oscillators from random starts; neural field of two linear layers",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 1e-2},
        offline=True,
        citation="generated",
        licence="none needed (generated)",
        sizes=("tiny",),
    )

    def training(self, size):
        if size != "tiny":
            raise UnknownNameError("size of damped_oscillators", size, ["tiny"])
        return Training(iterations=150, optimizers={"adam": {"lr": 2e-2}, "sgd": {"lr": 0.1}})

    def build(self, size, seed, device, dtype):
        return Oscillators(self.training(size), seed, device, dtype)
