"""Variational autoencoders of small images whose posterior is refined by amortised continuous flows.

Grathwohl et al., "FFJORD", ICLR 2019, section 4.3; encoder and decoder are of linear layers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from odegrad.contracts import Problem, Solve, State, Training, VectorField
from odegrad.datasets.nets.amortised_flow import AmortisedFlowField
from odegrad.datasets.nets.flow import draw_probe, standard_normal_log_density
from odegrad.datasets.nets.layers import tanh_layers
from odegrad.datasets.problems.gaussian import log_density_about
from odegrad.datasets.problems.held_out import LossIsMetric
from odegrad.datasets.problems.likelihoods import bernoulli, discretized_logistic
from odegrad.datasets.sources.seeding import (
    PARAMETERS,
    PROBE,
    TEST,
    TRAIN,
    VALIDATION,
    epoch_rows,
    generator,
    seeded_module,
)
from odegrad.states import sent_to

Likelihood = Literal["bernoulli", "discretized_logistic"]
LIKELIHOODS: Mapping[Likelihood, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "bernoulli": (1, bernoulli),
    "discretized_logistic": (2, discretized_logistic),
}
"""The decoder's scores for a pixel, and the log-likelihood of an image given them."""
DECODER_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "softplus": nn.functional.softplus}

NOISE_STREAM = 7
"""Beside an iteration's batch, its noise and probe."""


class NoisyImages(NamedTuple):
    """Images ``[batch, pixels]`` in [0, 1], with what is random in their bound and how much its divergence weighs."""

    pixels: Tensor
    noise: Tensor
    """``[batch, latent]``, standard normal."""
    probes: Tensor
    """``[blocks, batch, latent]``, of the flows' traces."""
    warmth: Tensor
    """0-d, in (0, 1]: the weight of the divergence from the prior; 1 is the evidence lower bound."""


@dataclass(frozen=True)
class VAESettings:
    """One size: the nets and the training."""

    hidden: int
    """Width of the encoder's and the decoder's hidden layer."""
    latent: int
    flow_hidden: tuple[int, ...]
    rank: int
    end_time: float
    batch_size: int
    training: Training
    blocks: int = 1
    """Flows, one behind the other."""
    activation: Literal["tanh", "softplus"] = "tanh"
    """Between the layers of the flows."""
    likelihood: Likelihood = "bernoulli"
    warm_up_iterations: int = 0
    """Over which the weight of the divergence rises to 1."""


class FlowVAE(nn.Module):
    """Encoder to a Gaussian and the flows' matrices of low rank, flows of the latent state, decoder of the pixels."""

    def __init__(self, pixels: int, settings: VAESettings) -> None:
        super().__init__()
        self.latent = settings.latent
        scores, self.log_likelihood = LIKELIHOODS[settings.likelihood]
        activation = DECODER_ACTIVATIONS[settings.activation]
        self.flows = nn.ModuleList(
            AmortisedFlowField(settings.latent, settings.flow_hidden, settings.rank, activation)
            for _ in range(settings.blocks)
        )
        self.body = nn.Sequential(nn.Linear(pixels, settings.hidden), nn.Tanh())
        self.to_gaussian = nn.Linear(settings.hidden, 2 * settings.latent)
        self.to_low_rank = nn.Linear(settings.hidden, settings.blocks * self.fields[0].amortised_size)
        self.decoder = tanh_layers(settings.latent, settings.hidden, scores * pixels)

    @property
    def fields(self) -> list[AmortisedFlowField]:
        """Return the flows' vector fields in their order."""
        return [flow for flow in self.flows if isinstance(flow, AmortisedFlowField)]

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """Return mean, logarithm of the deviation ``[batch, latent]``, and each flow's matrices ``[batch, m]``."""
        features = self.body(2.0 * pixels - 1.0)
        mean, log_deviation = self.to_gaussian(features).chunk(2, dim=-1)
        return mean, log_deviation, self.to_low_rank(features).chunk(len(self.flows), dim=1)

    def bound(self, solve: Solve, batch: NoisyImages, ts: Tensor) -> Tensor:
        """Return the evidence lower bound ``[batch]`` in nats, from one sample of the posterior.

        ``log p(x | z_1) + warmth (log p(z_1) - log q(z_1))`` with ``log q(z_1) = log q(z_0) - int tr(df/dz)``, the
        integral over all flows.
        """
        mean, log_deviation, matrices = self.encode(batch.pixels)
        z = mean + log_deviation.exp() * batch.noise
        posterior = log_density_about(mean, log_deviation, z).sum(1)
        for field, low_rank, probe in zip(self.fields, matrices, batch.probes, strict=True):
            zs, changes, _ = solve(field.with_probe(probe), (z, z.new_zeros(len(z)), low_rank), ts)
            z, posterior = zs[-1], posterior + changes[-1]
        likelihood = self.log_likelihood(self.decoder(z), batch.pixels)
        return likelihood + batch.warmth * (standard_normal_log_density(z) - posterior)


class VAEProblem(LossIsMetric):
    """A flow VAE on images: loss and metric are the negative evidence lower bound in nats an image.

    Held-out images have one sample of noise each, frozen.

    Parameters
    ----------
    model
        The VAE, on the data's device.
    train, held_out
        Images ``[count, pixels]`` in [0, 1]; those held out by the name of the split.
    settings
        Batch, times and training.
    seed
        Of batches, noise and probes.
    """

    model: nn.Module
    fields: Sequence[nn.Module]
    training: Training

    def __init__(
        self, model: FlowVAE, train: Tensor, held_out: Mapping[str, Tensor], settings: VAESettings, seed: int
    ) -> None:
        self.net = model
        self.model = model
        self.fields = tuple(model.fields)
        self.training = settings.training
        self.train = train
        self.settings = settings
        self.seed = seed
        self.ts = torch.tensor([0.0, settings.end_time], dtype=train.dtype)
        streams = {"validation": VALIDATION, "test": TEST}
        self.held_out = {name: self._with_noise(x, generator(0, streams[name])) for name, x in held_out.items()}

    def batch(self, iteration: int) -> NoisyImages:
        """Return the images of ``iteration`` with fresh noise and probes, as warm as the iteration says."""
        drawn = epoch_rows(len(self.train), self.settings.batch_size, self.seed, iteration)
        rows = sent_to(self.train.device, drawn)
        warmth = min(1.0, (iteration + 1) / max(self.settings.warm_up_iterations, 1))
        return self._with_noise(self.train[rows], generator(self.seed, TRAIN, iteration, NOISE_STREAM), warmth)

    def probe_batch(self) -> NoisyImages:
        """Return the first eight training images with noise and probes of their own."""
        return self._with_noise(self.train[:8], generator(self.seed, PROBE))

    def _with_noise(self, pixels: Tensor, source: torch.Generator, warmth: float = 1.0) -> NoisyImages:
        drawn = torch.randn(len(pixels), self.net.latent, dtype=torch.float64, generator=source)
        noise = sent_to(pixels.device, drawn, pixels.dtype)
        probes = torch.stack([draw_probe(noise, "rademacher", source) for _ in self.fields])
        return NoisyImages(pixels, noise, probes, sent_to(pixels.device, torch.tensor(warmth), pixels.dtype))

    def loss(self, solve: Solve, batch: Any) -> Tensor:
        """Return the mean negative evidence lower bound of ``batch`` in nats, 0-d."""
        return -self.net.bound(solve, batch, self.ts).mean()

    def dynamics(self, batch: Any) -> tuple[VectorField, State, Tensor]:
        """Return the first flow's field, its state at the posteriors' means (detached) and the times ``[2]``."""
        with torch.no_grad():
            mean, _, (low_rank, *_) = self.net.encode(batch.pixels)
        field = self.net.fields[0].with_probe(batch.probes[0])
        return field, (mean, mean.new_zeros(len(mean)), low_rank.contiguous()), self.ts


def vae_problem(
    images: Mapping[str, Tensor], settings: VAESettings, seed: int, device: torch.device, dtype: torch.dtype
) -> Problem:
    """Return the problem of images ``[count, pixels]`` in [0, 1] by the name of the split."""
    parts = {name: x.to(device, dtype) for name, x in images.items()}
    train = parts.pop("train")
    net = seeded_module(lambda: FlowVAE(train.shape[1], settings), generator(seed, PARAMETERS), device, dtype)
    return VAEProblem(net, train, parts, settings, seed)
