"""Every kind of figure by name, with how to read it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from odegrad.errors import UnknownNameError
from odegrad.reports.figures import (
    break_even,
    costs,
    differences,
    evaluations,
    log_norm,
    samples,
    targets,
    training,
    work_precision,
)
from odegrad.reports.figures.sweeps import depth, integration_time, precision
from odegrad.reports.summary import Results, Source

AROUND = "Thick lines are medians over seeds; thin ones are the seeds, or a band lies between their quartiles."
BOTH_PASSES = "The f calls are those of the forward and the backward pass together."
FRONT = "The thin grey line joins what no other point beats in both: the Pareto front."


@dataclass(frozen=True)
class FigureKind:
    """One kind of figure."""

    name: str
    title: str
    draw: Callable[..., Figure]
    """``(frame, columns) -> Figure``: of records or results, as wide as 1 or 2 columns of a page."""
    describe: Callable[[Results], str]
    """``frame -> alt text``, from the same data."""
    reads: str = ""
    """What lines, points and marks are, for the page."""
    split: bool = True
    """Whether tasks beyond ``MAX_TASKS`` go to further files; a figure over all tasks is one."""


FIGURE_KINDS = (
    *(
        FigureKind(
            name,
            training.TITLES[against],
            partial(training.draw, against=against),
            partial(training.describe, against=against),
            f"{AROUND} The dotted line is the task's target.",
        )
        for name, against in (("training", "seconds"), ("training_iterations", "iterations"), ("training_nfe", "nfe"))
    ),
    FigureKind("nfe_over_training", evaluations.TITLE, evaluations.draw, evaluations.describe, AROUND),
    FigureKind("optimizers", training.OPTIMIZERS_TITLE, training.draw_optimizers, training.describe_optimizers, AROUND),
    *(
        FigureKind(
            name,
            work_precision.TITLES[error],
            partial(work_precision.draw, error=error),
            partial(work_precision.describe, error=error),
            f"Medians over seeds; down and to the left is better. {FRONT} {BOTH_PASSES}",
        )
        for name, error in (
            ("work_precision", "gradient_relative_error"),
            ("work_precision_trained", "trained_gradient_relative_error"),
            ("method_error", "gradient_method_error"),
        )
    ),
    FigureKind(
        "gradient_differences",
        differences.TITLE,
        differences.draw,
        differences.describe,
        "Gradients at the initial parameters, in float64; numbers are powers of ten, = stands where the bits agree.",
    ),
    FigureKind(
        "log_norm",
        log_norm.TITLE,
        log_norm.draw,
        log_norm.describe,
        "Lines are medians over seeds, bands their least and largest values. Above 0 solving backwards is unstable.",
    ),
    FigureKind("time_to_target", targets.TITLE, targets.draw, targets.describe, "Medians over seeds."),
    FigureKind(
        "performance_profiles",
        targets.PROFILES_TITLE,
        targets.draw_profiles,
        targets.describe_profiles,
        "Up and to the left is better: at 1 stands how often a method is the best, at the right how much it solves at "
        "all. A failed run solves nothing.",
        split=False,
    ),
    FigureKind("integration_time", integration_time.TITLE, integration_time.draw, integration_time.describe, AROUND),
    FigureKind(
        "sample_steps",
        samples.TITLE,
        samples.draw,
        samples.describe,
        "Outlines are shares of the samples, each by its own steps; an upright line is where all share them.",
    ),
    FigureKind(
        "memory_depth",
        depth.TITLE,
        depth.draw,
        depth.describe,
        "Medians over seeds; dashed lines are what the method's cost model predicts.",
    ),
    FigureKind(
        "precision_steps",
        precision.TITLE,
        precision.draw,
        precision.describe,
        "Medians over seeds: solid lines have the field alone in 16 bits, dashed ones all of it; dotted: roundoff.",
    ),
    FigureKind(
        "cost_stiffness",
        costs.STIFFNESS_TITLE,
        costs.draw_stiffness,
        costs.describe_stiffness,
        "Medians over seeds: solid lines are the forward pass, dashed ones the backward pass.",
    ),
    FigureKind(
        "break_even",
        break_even.TITLE,
        break_even.draw,
        break_even.describe,
        "A line for each library's fastest method: seconds of compiling, and of so many gradients. Where two cross, "
        "compiling is paid back.",
        split=False,
    ),
    FigureKind(
        "costs", costs.TITLE, costs.draw, costs.describe, "Medians over seeds, of one iteration before training."
    ),
)


def figure(frame: Source, name: str, columns: int = 2) -> Figure:
    """Return one kind of figure of the records in ``frame``, as the report draws it.

    Parameters
    ----------
    frame
        Records from ``odegrad.load``, or a part of them.
    name
        One of ``FIGURE_KINDS``: ``training``, ``work_precision``, ``costs``, ...; the file's name in a report.
    columns
        1 or 2: columns of a page that the figure spans (3.5 or 7.2 inches).

    Raises
    ------
    UnknownNameError
        If there is no such kind.
    """
    for kind in FIGURE_KINDS:
        if kind.name == name:
            return kind.draw(frame, columns)
    raise UnknownNameError("figure", name, [kind.name for kind in FIGURE_KINDS])
