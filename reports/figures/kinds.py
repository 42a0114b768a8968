"""Every kind of figure by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from odegrad.reports.figures import (
    costs,
    depth,
    differences,
    evaluations,
    integration_time,
    log_norm,
    targets,
    training,
    work_precision,
)
from odegrad.reports.summary import Results


@dataclass(frozen=True)
class Kind:
    """One kind of figure."""

    name: str
    title: str
    draw: Callable[..., Figure]
    """``(frame, columns) -> Figure``."""
    describe: Callable[[Results], str]
    """``frame -> alt text``, from the same data."""
    split: bool = True
    """Whether tasks beyond ``MOST_TASKS`` go to further files; a figure over all tasks is one."""


KINDS = (
    *(
        Kind(
            name,
            training.TITLES[against],
            partial(training.draw, against=against),
            partial(training.describe, against=against),
        )
        for name, against in (("training", "seconds"), ("training_iterations", "iterations"), ("training_nfe", "nfe"))
    ),
    Kind("nfe_over_training", evaluations.TITLE, evaluations.draw, evaluations.describe),
    Kind("optimizers", training.OPTIMIZERS_TITLE, training.draw_optimizers, training.describe_optimizers),
    *(
        Kind(
            name,
            work_precision.TITLES[error],
            partial(work_precision.draw, error=error),
            partial(work_precision.describe, error=error),
        )
        for name, error in (
            ("work_precision", "gradient_relative_error"),
            ("work_precision_trained", "trained_gradient_relative_error"),
            ("method_error", "gradient_method_error"),
        )
    ),
    Kind("gradient_differences", differences.TITLE, differences.draw, differences.describe),
    Kind("log_norm", log_norm.TITLE, log_norm.draw, log_norm.describe),
    Kind("time_to_target", targets.TITLE, targets.draw, targets.describe),
    Kind("performance_profiles", targets.PROFILES_TITLE, targets.draw_profiles, targets.describe_profiles, split=False),
    Kind("integration_time", integration_time.TITLE, integration_time.draw, integration_time.describe),
    Kind("memory_depth", depth.TITLE, depth.draw, depth.describe),
    Kind("costs", costs.TITLE, costs.draw, costs.describe),
)
