"""Variational autoencoders of binary images whose posterior is refined by an amortised continuous flow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from odegrad.contracts import Problem, Solve, Split, State, TaskInfo, Training, VectorField
from odegrad.datasets.amortised_flow import AmortisedFlowField
from odegrad.datasets.digits import digits_split
from odegrad.datasets.flow import draw_probe, standard_normal_log_density
from odegrad.datasets.gaussian import log_density_about
from odegrad.datasets.layers import tanh_layers
from odegrad.datasets.seeding import PARAMETERS, PROBE, TEST, TRAIN, VALIDATION, epoch_rows, generator, seeded_module
from odegrad.datasets.sizes import Sized, trained

NOISE_STREAM = 7
"""Beside an iteration's batch, its noise and probe."""


class BinaryImages(NamedTuple):
    """Images of zeros and ones ``[batch, pixels]``, with what is random in their bound."""

    pixels: Tensor
    noise: Tensor
    """``[batch, latent]``, standard normal."""
    probe: Tensor
    """``[batch, latent]``, of the flow's trace."""


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


class FlowVAE(nn.Module):
    """Encoder to a Gaussian and the flow's matrices of low rank, flow of the latent state, Bernoulli decoder."""

    def __init__(self, pixels: int, settings: VAESettings) -> None:
        super().__init__()
        self.latent = settings.latent
        self.field = AmortisedFlowField(settings.latent, settings.flow_hidden, settings.rank)
        self.body = nn.Sequential(nn.Linear(pixels, settings.hidden), nn.Tanh())
        self.to_gaussian = nn.Linear(settings.hidden, 2 * settings.latent)
        self.to_low_rank = nn.Linear(settings.hidden, self.field.amortised_size)
        self.decoder = tanh_layers(settings.latent, settings.hidden, pixels)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, logarithm of the deviation ``[batch, latent]`` and the matrices ``[batch, m]``."""
        features = self.body(2.0 * pixels - 1.0)
        mean, log_deviation = self.to_gaussian(features).chunk(2, dim=-1)
        return mean, log_deviation, self.to_low_rank(features)

    def bound(self, solve: Solve, batch: BinaryImages, ts: Tensor) -> Tensor:
        """Return the evidence lower bound ``[batch]`` in nats, from one sample of the posterior.

        ``log p(x | z_1) + log p(z_1) - log q(z_1)`` with ``log q(z_1) = log q(z_0) - int tr(df/dz)``.
        """
        mean, log_deviation, low_rank = self.encode(batch.pixels)
        z0 = mean + log_deviation.exp() * batch.noise
        state = (z0, z0.new_zeros(len(z0)), low_rank)
        zs, changes, _ = solve(self.field.with_probe(batch.probe), state, ts)
        z = zs[-1]
        posterior = log_density_about(mean, log_deviation, z0).sum(1) + changes[-1]
        scores = self.decoder(z)
        likelihood = -nn.functional.binary_cross_entropy_with_logits(scores, batch.pixels, reduction="none").sum(1)
        bound: Tensor = likelihood + standard_normal_log_density(z) - posterior
        return bound


class VAEProblem:
    """A flow VAE on binary images: loss and metric are the negative evidence lower bound in nats an image.

    Parameters
    ----------
    model
        The VAE, on the data's device.
    train, held_out
        Images ``[count, pixels]``; those held out by the name of the split.
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
        self.fields = (model.field,)
        self.training = settings.training
        self.train = train
        self.batch_size = settings.batch_size
        self.seed = seed
        self.ts = torch.tensor([0.0, settings.end_time], dtype=train.dtype, device=train.device)
        streams = {"validation": VALIDATION, "test": TEST}
        self.held_out = {name: self._with_noise(x, generator(0, streams[name])) for name, x in held_out.items()}

    def batch(self, iteration: int) -> BinaryImages:
        """Return the images of ``iteration`` with fresh noise and probes."""
        rows = epoch_rows(len(self.train), self.batch_size, self.seed, iteration).to(self.train.device)
        return self._with_noise(self.train[rows], generator(self.seed, TRAIN, iteration, NOISE_STREAM))

    def probe_batch(self) -> BinaryImages:
        """Return the first eight training images with noise and probes of their own."""
        return self._with_noise(self.train[:8], generator(self.seed, PROBE))

    def _with_noise(self, pixels: Tensor, source: torch.Generator) -> BinaryImages:
        noise = torch.randn(len(pixels), self.net.latent, dtype=torch.float64, generator=source).to(pixels)
        return BinaryImages(pixels, noise, draw_probe(noise, "rademacher", source))

    def loss(self, solve: Solve, batch: Any) -> Tensor:
        """Return the mean negative evidence lower bound of ``batch`` in nats, 0-d."""
        return -self.net.bound(solve, batch, self.ts).mean()

    def evaluate(self, solve: Solve, split: Split = "test") -> float:
        """Return the mean negative evidence lower bound of held-out images in nats, one sample an image."""
        with torch.no_grad():
            return float(self.loss(solve, self.held_out[split]))

    def dynamics(self, batch: Any) -> tuple[VectorField, State, Tensor]:
        """Return the flow's field, its state at the posteriors' means (detached) and the times ``[2]``."""
        with torch.no_grad():
            mean, _, low_rank = self.net.encode(batch.pixels)
        return self.net.field.with_probe(batch.probe), (mean, mean.new_zeros(len(mean)), low_rank), self.ts


def vae_problem(
    images: Mapping[str, Tensor], settings: VAESettings, seed: int, device: torch.device, dtype: torch.dtype
) -> Problem:
    """Return the problem of images ``[count, pixels]`` of zeros and ones by the name of the split."""
    parts = {name: x.to(device, dtype) for name, x in images.items()}
    train = parts.pop("train")
    net = seeded_module(lambda: FlowVAE(train.shape[1], settings), generator(seed, PARAMETERS), device, dtype)
    return VAEProblem(net, train, parts, settings, seed)


class VAEDigits(Sized[VAESettings]):
    """Handwritten digits of 8x8 pixels, ink or no ink."""

    info: ClassVar[TaskInfo] = TaskInfo(
        name="vae_digits",
        kind="inference",
        summary="binary digits of 8x8 pixels; variational autoencoder, posterior refined by an amortised flow",
        metric_name="nelbo",
        higher_is_better=False,
        target={"tiny": 23.0, "default": 20.0},
        offline=True,
        citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
        "1998, doi:10.24432/C50P49, as shipped with scikit-learn; the model after Grathwohl et al., FFJORD, ICLR 2019",
        licence="CC BY 4.0",
    )
    settings: ClassVar[Mapping[str, VAESettings]] = {
        "tiny": VAESettings(
            hidden=64,
            latent=6,
            flow_hidden=(16,),
            rank=2,
            end_time=0.5,
            batch_size=128,
            training=trained(80, adam=1e-2, sgd=2e-3, snopt=2e-3),
        ),
        "default": VAESettings(
            hidden=128,
            latent=12,
            flow_hidden=(32, 32),
            rank=8,
            end_time=0.5,
            batch_size=128,
            training=trained(600, adam=3e-3, sgd=2e-3, snopt=2e-3, update_freq=100),
        ),
    }

    def build(self, size: str, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the VAE and its images.

        Raises
        ------
        UnknownNameError
            If there is no such size.
        """
        s = self.at(size)
        split = digits_split(device, dtype)
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        ink = {name: (images.flatten(1) > 0.8).to(dtype) for name, (images, _) in parts.items()}
        return vae_problem(ink, s, seed, device, dtype)
