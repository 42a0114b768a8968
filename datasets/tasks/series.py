"""Classification of series by an ODE-RNN: the state follows an ODE between observations and jumps at each of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from odegrad.contracts import Problem, Solve, Split, State, TaskInfo, Training, VectorField
from odegrad.datasets.nets.neural_cde import NeuralCDE
from odegrad.datasets.nets.ode_rnn import ODERNN, from_zero
from odegrad.datasets.problems.sizes import Sized, trained
from odegrad.datasets.sources.seeding import PARAMETERS, SPLIT_SEED, epoch_rows, generator, seeded_module
from odegrad.datasets.sources.uea_archive import CITATION, Series, read
from odegrad.errors import UsageError
from odegrad.states import sent_to

THINNING_SEED = 0
CDE = (
    "Kidger et al., Neural Controlled Differential Equations for Irregular Time Series, NeurIPS 2020; Morrill et al., "
    "On the Choice of Interpolation Scheme for Neural CDEs, TMLR 2022"
)


@dataclass(frozen=True)
class SeriesSettings:
    """One size: the net, how much is seen of the series, and the training."""

    hidden: int
    """Numbers of the state, and of each hidden layer of the field."""
    batch_size: int
    training: Training
    time_step: float = 0.1
    """Between two observations."""
    dropped: float = 0.0
    """Share of the observations that is dropped, the same ones for all seeds: irregular sampling."""
    stride: int = 1
    """Every so many observations one is kept, from the first on; ``time_step`` is between those kept."""
    ragged: bool = False
    """Whether each series is solved from its own observations to its own next ones, and leaves the batch at its end."""


SeriesNet = ODERNN | NeuralCDE
"""From a solve, values, which of them are seen, and times to scores."""


class SeriesProblem:
    """A net on series: cross-entropy in nats, accuracy.

    Parameters
    ----------
    model
        The net, on the data's device.
    train, held_out
        Series; those held out by the name of the split.
    settings
        Batch, times and training.
    seed
        Orders the batches.
    """

    model: nn.Module
    fields: Sequence[nn.Module]
    training: Training

    def __init__(
        self, model: SeriesNet, train: Series, held_out: Mapping[str, Series], settings: SeriesSettings, seed: int
    ) -> None:
        self.net = model
        self.model = model
        self.fields = (model.field,)
        self.training = settings.training
        self.train = train
        self.held_out = held_out
        self.batch_size = settings.batch_size
        self.seed = seed
        values = train.values
        steps = torch.arange(values.shape[1], dtype=torch.float64) * settings.time_step
        self.ts = steps.to(values.dtype)
        self.lengths = _lengths(train)

    def batch(self, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return values ``[batch, length, channels]``, which are seen ``[batch, length]``, and classes ``[batch]``."""
        return self._rows(epoch_rows(len(self.train.labels), self.batch_size, self.seed, iteration))

    def probe_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first eight training series."""
        return self._rows(torch.arange(8))

    def _rows(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the training series of ``rows [batch]`` (on the CPU), as long as the longest of them."""
        # The host knows the lengths, so that no iteration has to read them from a GPU.
        chosen = self.train.rows(sent_to(self.train.labels.device, rows))
        return self._parts(chosen, int(self.lengths[rows].max()))

    def _parts(self, series: Series, length: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        length = int(_lengths(series).max()) if length is None else length
        return series.values[:, :length], series.seen[:, :length], series.labels

    def loss(self, solve: Solve, batch: Any) -> Tensor:
        """Return the mean cross-entropy of ``batch`` in nats, 0-d."""
        return nn.functional.cross_entropy(self.scores(solve, batch), batch[2])

    def scores(self, solve: Solve, batch: Any) -> Tensor:
        """Return the scores ``[batch, classes]``."""
        values, seen, _ = batch
        scores: Tensor = self.net(solve, values, seen, self.ts)
        return scores

    def evaluate(self, solve: Solve, split: Split = "test") -> float:
        """Return the fraction of held-out series whose class has the highest score."""
        batch = self._parts(self.held_out[split])
        with torch.no_grad():
            guesses = self.scores(solve, batch).argmax(1)
        return float((guesses == batch[2]).double().mean())

    def held_out_loss(self, solve: Solve, split: Split) -> float:
        """Return the mean cross-entropy of held-out series in nats."""
        with torch.no_grad():
            return float(self.loss(solve, self._parts(self.held_out[split])))

    def dynamics(self, batch: Any) -> tuple[VectorField, State, Tensor]:
        """Return the field, the state at the first observation (detached) and the first two times."""
        values, seen, _ = batch
        with torch.no_grad():
            return self.net.dynamics(values, seen, self.ts)


class RaggedProblem(SeriesProblem):
    """The same on series of unlike length at times of their own: no time is solved for at which a series is not seen.

    The numbers are those of the other one, as far as the solver is exact. A batch holds values ``[batch, most,
    channels]``, times ``[batch, most]`` and classes ``[batch]``.
    """

    def __init__(
        self, model: ODERNN, train: Series, held_out: Mapping[str, Series], settings: SeriesSettings, seed: int
    ) -> None:
        self.time_step = settings.time_step
        self.rnn = model
        super().__init__(model, train, held_out, settings, seed)

    def _parts(self, series: Series, length: int | None = None) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        values, ts = series.at_own_times(self.time_step)
        return values, ts, series.labels

    def scores(self, solve: Solve, batch: Any) -> Tensor:
        """Return the scores ``[batch, classes]``."""
        values, ts, _ = batch
        return self.rnn.at_own_times(solve, values, ts)

    def dynamics(self, batch: Any) -> tuple[VectorField, State, Tensor]:
        """Return the field, the states after the first observations (detached) and times ``[batch, 2]`` to the next.

        Of series that are seen once nothing is solved: they are left out.
        """
        values, ts, _ = batch
        gaps = ts[:, 1] - ts[:, 0]
        moving = gaps > 0
        with torch.no_grad():
            state = self.rnn.cell(values[:, 0], values.new_zeros((len(values), self.rnn.hidden)))
        return self.rnn.field, state[sent_to(state.device, moving)], from_zero(gaps[moving])


def _lengths(series: Series) -> Tensor:
    """Return how many times each series lasts, to its last observation, ``[count]`` on the CPU."""
    return (series.seen.size(1) - series.seen.flip(1).int().argmax(1)).cpu()


class SeriesClassification(Sized[SeriesSettings]):
    """A data set of the UEA archive: a subclass names itself and its settings."""

    info: ClassVar[TaskInfo]
    archive_name: ClassVar[str]
    settings: ClassVar[Mapping[str, SeriesSettings]]
    net: ClassVar[Callable[[int, int, int], SeriesNet]] = ODERNN
    """From channels, hidden size and classes to the net."""

    def built(self, s: SeriesSettings, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Read the series and build the net; a fifth of the archive's training series is for validation.

        Raises
        ------
        DataError
            If sktime is not installed, or the data set cannot be fetched.
        """
        every, test = (series.strided(s.stride) for series in read(self.archive_name))
        if s.dropped > 0.0:
            source = generator(THINNING_SEED)
            every, test = every.thinned(s.dropped, source), test.thinned(s.dropped, source)
        rows, labels = list(range(len(every.labels))), every.labels.tolist()
        train_rows, other = train_test_split(rows, test_size=0.2, stratify=labels, random_state=SPLIT_SEED)
        train, validation = (every.rows(torch.tensor(part)) for part in (train_rows, other))
        scaled = [part.scaled(train).to(device, dtype) for part in (train, validation, test)]
        channels, classes = every.values.shape[2], int(every.labels.max()) + 1
        net = seeded_module(
            lambda: type(self).net(channels, s.hidden, classes), generator(seed, PARAMETERS), device, dtype
        )
        held_out = {"validation": scaled[1], "test": scaled[2]}
        if not s.ragged:
            return SeriesProblem(net, scaled[0], held_out, s, seed)
        if not isinstance(net, ODERNN):
            raise UsageError(f"ragged: expected an ODE-RNN, got {type(net).__name__}; leave it out")
        return RaggedProblem(net, scaled[0], held_out, s, seed)


EVERY_SIZE = ("tiny", "default", "paper")


def series_info(
    name: str, archive_name: str, summary: str, target: Mapping[str, float], sizes: tuple[str, ...] = EVERY_SIZE
) -> TaskInfo:
    """Return what a data set of the archive states about itself."""
    return TaskInfo(
        name=name,
        kind="time series",
        summary=f"{summary}; ODE-RNN: an ODE between observations, a gated unit at each",
        metric_name="accuracy",
        higher_is_better=True,
        target=target,
        offline=archive_name in ("JapaneseVowels", "BasicMotions"),
        citation=CITATION.format(name=archive_name),
        licence="as the archive's: for research",
        sizes=sizes,
    )


def series_training(iterations: int, adam: float) -> Training:
    """Return how an ODE-RNN is trained."""
    return trained(iterations, adam=adam, sgd=0.1, snopt=0.02, eps=0.05, update_freq=100, full_precond=True)


class JapaneseVowels(SeriesClassification):
    """Nine speakers by the cepstrum of two vowels: 12 channels, 7 to 29 observations."""

    archive_name: ClassVar[str] = "JapaneseVowels"
    info: ClassVar[TaskInfo] = series_info(
        "japanese_vowels", "JapaneseVowels", "nine speakers by the cepstrum of two vowels, 7 to 29 observations",
        {"tiny": 0.9, "default": 0.93, "irregular": 0.9, "ragged": 0.9, "paper": 0.93},
        ("tiny", "default", "irregular", "ragged", "paper"),
    )  # fmt: skip
    settings: ClassVar[Mapping[str, SeriesSettings]] = {
        "tiny": SeriesSettings(hidden=16, batch_size=64, training=series_training(40, 2e-2)),
        "default": SeriesSettings(hidden=32, batch_size=72, training=series_training(200, 5e-3)),
        "irregular": SeriesSettings(hidden=32, batch_size=72, training=series_training(200, 5e-3), dropped=0.3),
        "ragged": SeriesSettings(
            hidden=32, batch_size=72, training=series_training(200, 5e-3), dropped=0.3, ragged=True
        ),
        "paper": SeriesSettings(hidden=32, batch_size=256, training=series_training(600, 3e-3)),
    }


class CDEVowels(SeriesClassification):
    """Nine speakers by the cepstrum of two vowels, by a path through the observations that drives a neural CDE."""

    archive_name: ClassVar[str] = "JapaneseVowels"
    info: ClassVar[TaskInfo] = replace(
        series_info(
            "cde_vowels", "JapaneseVowels", "", {"tiny": 0.8, "default": 0.88, "paper": 0.88},
        ),
        summary="nine speakers by the cepstrum of two vowels; neural CDE along a cubic Hermite path of 13 channels",
        citation=f"{CITATION.format(name='JapaneseVowels')}; {CDE}",
    )  # fmt: skip
    net: ClassVar[Callable[[int, int, int], SeriesNet]] = NeuralCDE
    settings: ClassVar[Mapping[str, SeriesSettings]] = {
        "tiny": SeriesSettings(hidden=8, batch_size=32, training=series_training(120, 2e-2), stride=2, time_step=0.2),
        "default": SeriesSettings(hidden=32, batch_size=72, training=series_training(80, 5e-3)),
        "paper": SeriesSettings(hidden=32, batch_size=216, training=series_training(200, 5e-3)),
    }


class BasicMotions(SeriesClassification):
    """Four activities by a smart watch: 6 channels, 100 observations."""

    archive_name: ClassVar[str] = "BasicMotions"
    info: ClassVar[TaskInfo] = series_info(
        "basic_motions", "BasicMotions", "four activities by a smart watch's 6 channels, 100 observations",
        {"tiny": 0.7, "default": 0.95, "paper": 0.95},
    )  # fmt: skip
    settings: ClassVar[Mapping[str, SeriesSettings]] = {
        "tiny": SeriesSettings(hidden=16, batch_size=32, training=series_training(40, 2e-2), stride=4),
        "default": SeriesSettings(hidden=32, batch_size=32, training=series_training(100, 1e-2)),
        "paper": SeriesSettings(hidden=64, batch_size=32, training=series_training(500, 3e-3)),
    }


def _published(width: int, batch_size: int, paper: Training) -> Mapping[str, SeriesSettings]:
    """Return small sizes, and the SNOpt paper's with its rates (its schedules of them are left out)."""
    return {
        "tiny": SeriesSettings(hidden=16, batch_size=64, training=series_training(10, 1e-2)),
        "default": SeriesSettings(hidden=width, batch_size=batch_size, training=series_training(500, 5e-3)),
        "paper": SeriesSettings(hidden=width, batch_size=batch_size, training=paper),
    }


def _paper(iterations: int, adam: float, sgd: float, snopt: float, eps: float) -> Training:
    """Return the training of the SNOpt paper: Adam steps the gated unit and the read-out beside SNOpt."""
    return trained(iterations, adam, sgd, snopt, eps=eps, update_freq=100, outside_lr=3e-3)


class CharacterTrajectories(SeriesClassification):
    """Twenty letters by a pen's velocity and force: 3 channels, 60 to 182 observations."""

    archive_name: ClassVar[str] = "CharacterTrajectories"
    info: ClassVar[TaskInfo] = series_info(
        "character_trajectories", "CharacterTrajectories", "20 letters by a pen's path, 60 to 182 observations",
        {}, (*EVERY_SIZE, "ragged"),
    )  # fmt: skip
    settings: ClassVar[Mapping[str, SeriesSettings]] = {
        **_published(32, 512, _paper(800, 1e-3, 1e-3, 3e-3, 0.05)),
        "ragged": SeriesSettings(
            hidden=32, batch_size=128, training=series_training(500, 5e-3), dropped=0.3, ragged=True
        ),
    }


class ArticularyWordRecognition(SeriesClassification):
    """Twenty-five words by sensors on tongue and lips: 9 channels, 144 observations."""

    archive_name: ClassVar[str] = "ArticularyWordRecognition"
    info: ClassVar[TaskInfo] = series_info(
        "articulary_word_recognition", "ArticularyWordRecognition",
        "25 words by sensors on tongue and lips, 144 observations", {},
    )  # fmt: skip
    settings: ClassVar[Mapping[str, SeriesSettings]] = _published(64, 256, _paper(600, 1e-3, 3e-3, 3e-3, 0.1))


class SpokenArabicDigits(SeriesClassification):
    """Ten spoken digits by their cepstrum: 13 channels, 4 to 93 observations."""

    archive_name: ClassVar[str] = "SpokenArabicDigits"
    info: ClassVar[TaskInfo] = series_info(
        "spoken_arabic_digits", "SpokenArabicDigits", "ten spoken digits by their cepstrum, 4 to 93 observations",
        {},
    )  # fmt: skip
    settings: ClassVar[Mapping[str, SeriesSettings]] = _published(32, 128, _paper(410, 3e-3, 1e-2, 5e-3, 0.05))
