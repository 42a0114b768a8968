"""What the reports of the papers show: each figure and table, from which of the paper's suites."""

from collections.abc import Mapping
from functools import partial

import pandas as pd

from odegrad.reports import units
from odegrad.reports.figures import log_norm, training
from odegrad.reports.figures.kinds import FigureKind
from odegrad.reports.figures.sweeps import depth, integration_time, nodes, sensitivity
from odegrad.reports.figures.sweeps import precision as errors_of_types
from odegrad.reports.papers import irdm, precision, relative_costs, snopt, stiff_gradients
from odegrad.reports.papers.equal_error import sweep_rows
from odegrad.reports.papers.exhibits import Exhibit, PaperFigure, PaperTable
from odegrad.reports.summary import Results
from odegrad.reports.tables.columns import PageColumn

NODES, NORMS = "paper-irdm-nodes", "paper-irdm-norms"
SENSITIVITY, DEPTH, HORIZON = "paper-snopt-sensitivity", "paper-snopt-depth", "paper-snopt-horizon"


def _training(name: str) -> FigureKind:
    return FigureKind(name, training.TITLES["seconds"], training.draw, training.describe)


def _nodes(name: str, across: str) -> PaperFigure:
    draw, describe = partial(nodes.draw, across=across), partial(nodes.describe, across=across)
    return PaperFigure(NODES, FigureKind(name, nodes.TITLES[across], draw, describe))


def _node_rows(results: Results) -> pd.DataFrame:
    """Return the points of the node sweep; the adjoint has no nodes."""
    points = nodes.points_of(results)
    return points.assign(nodes=points["nodes"].where(points["nodes"] > 0))


def _norm_rows(results: Results) -> pd.DataFrame:
    ok = results.ok
    names = [column.value for column in NORM_COLUMNS]
    return ok[names].sort_values(["task", "method", "seed"]).reset_index(drop=True)


def _ratio(value: float) -> str:
    return f"{value:.2f} x"


def _stiff_rows(results: Results) -> pd.DataFrame:
    names = [column.value for column in STIFF_COLUMNS]
    return results.ok[names].sort_values(["task", "solver", "seed"]).reset_index(drop=True)


NODE_COLUMNS = (
    PageColumn("task", "task", right=False),
    PageColumn("gradient", "gradient", right=False),
    PageColumn("rtol", "rtol", lambda value: f"{value:g}"),
    PageColumn("nodes", "nodes", units.count),
    PageColumn("NFE forward", "nfe_forward", units.count),
    PageColumn("NFE backward", "nfe_backward", units.count),
    PageColumn("gradient error", "error", units.error),
    PageColumn("method error", "method_error", units.error),
)
NORM_COLUMNS = (
    PageColumn("task", "task", right=False),
    PageColumn("method", "method", right=False),
    PageColumn("seed", "seed", units.count),
    PageColumn("mu_2(J)", "log_norm_max", units.significant),
    PageColumn("mu_2(J), trained", "trained_log_norm_max", units.significant),
    PageColumn("mu_2(-J)", "log_norm_minus_max", units.significant),
    PageColumn("mu_2(-J), trained", "trained_log_norm_minus_max", units.significant),
    PageColumn("int mu_2(-J)", "log_norm_minus_integral", units.significant),
    PageColumn("int mu_2(-J), trained", "trained_log_norm_minus_integral", units.significant),
)
SWEEP_COLUMNS = (
    PageColumn("task", "task", right=False),
    PageColumn("method", "method", right=False),
    PageColumn("rtol", "rtol", lambda value: f"{value:g}"),
    PageColumn("gradient error, trained", "error", units.error),
    PageColumn("least", "error_least", units.error),
    PageColumn("most", "error_most", units.error),
    PageColumn("NFE backward over the training", "calls", units.significant),
    PageColumn("least", "calls_least", units.significant),
    PageColumn("most", "calls_most", units.significant),
    PageColumn("seeds", "seeds", units.count),
)
COST_COLUMNS = (
    PageColumn("task", "task", right=False),
    PageColumn("time: adam", "iteration_seconds_adam", units.seconds),
    PageColumn("time: sgd / adam", "iteration_seconds_sgd", _ratio),
    PageColumn("time: snopt / adam", "iteration_seconds_snopt", _ratio),
    PageColumn("least", "iteration_seconds_snopt_low", _ratio),
    PageColumn("most", "iteration_seconds_snopt_high", _ratio),
    PageColumn("memory: adam", "peak_bytes_adam", units.memory),
    PageColumn("memory: sgd / adam", "peak_bytes_sgd", _ratio),
    PageColumn("memory: snopt / adam", "peak_bytes_snopt", _ratio),
    PageColumn("pairs", "pairs", units.count),
)
MEMORY_COLUMNS = (
    PageColumn("task", "task", right=False),
    PageColumn("accepted steps", "steps", units.count),
    PageColumn("adam", "peak_bytes_adam", units.memory),
    PageColumn("snopt", "peak_bytes_snopt", units.memory),
    PageColumn("snopt / adam", "ratio", _ratio),
)
SENSITIVITY_COLUMNS = (
    PageColumn("task", "task", right=False),
    PageColumn("eps", "eps", lambda value: f"{value:g}"),
    PageColumn("refresh every", "update_freq", units.count),
    PageColumn("metric", "metric_name", right=False),
    PageColumn("median", "metric", units.metric),
    PageColumn("least", "metric_low", units.metric),
    PageColumn("most", "metric_high", units.metric),
    PageColumn("training loss", "loss", units.significant),
    PageColumn("runs", "runs", units.count),
)

STIFF_COLUMNS = (
    PageColumn("task", "task", right=False),
    PageColumn("solver", "solver", right=False),
    PageColumn("seed", "seed", units.count),
    PageColumn("gradient's norm", "gradient_norm", units.significant),
    PageColumn("gradient error", "gradient_relative_error", units.error),
    PageColumn("reference known to", "reference_error", units.error),
    PageColumn("NFE forward", "nfe_forward", units.count),
)

PRECISION_COLUMNS = (
    PageColumn("task", "task", right=False),
    PageColumn("run in", "dtype", right=False),
    PageColumn("field in", "precision", right=False),
    PageColumn("accepted steps", "steps", units.count),
    PageColumn("gradient error", "error", units.error),
)

EXHIBITS: Mapping[str, tuple[Exhibit, ...]] = {
    irdm.IRDM: (
        PaperFigure("paper-irdm", _training("irdm_training")),
        _nodes("irdm_nodes", "nodes"),
        _nodes("irdm_tolerance", "rtol"),
        PaperFigure(NORMS, FigureKind("irdm_log_norm", log_norm.TITLE, log_norm.draw, log_norm.describe)),
        PaperTable(
            NODES,
            "irdm_nodes",
            "A row a task, tolerance and number of nodes, in float64 at the initial parameters. The gradient error is "
            "relative to the float64 reference, the method error to naive on the same grid.",
            NODE_COLUMNS,
            _node_rows,
        ),
        PaperTable(
            irdm.IRDM_TOLERANCES,
            "irdm_equal_error",
            "What claims at equal gradient error are decided from: f calls of a backward pass, the mean over the "
            "training, and the gradient error at the trained parameters; medians, least and largest over seeds. "
            "Between two tolerances the logarithm of the calls is taken as linear in that of the error.",
            SWEEP_COLUMNS,
            sweep_rows,
        ),
        PaperTable(
            NORMS,
            "irdm_log_norm",
            "Largest logarithmic norms along the probe batch's trajectory, at the initial and the trained parameters. "
            "Where a state is solved back at once its errors grow at most by exp(int mu_2(-J)).",
            NORM_COLUMNS,
            _norm_rows,
        ),
    ),
    snopt.SNOPT_PAPER: (
        PaperFigure("paper-snopt", _training("snopt_training")),
        PaperFigure(
            SENSITIVITY, FigureKind("snopt_sensitivity", sensitivity.TITLE, sensitivity.draw, sensitivity.describe)
        ),
        PaperFigure(
            HORIZON,
            FigureKind(
                "snopt_integration_time", integration_time.TITLE, integration_time.draw, integration_time.describe
            ),
        ),
        PaperFigure(DEPTH, FigureKind("snopt_memory", depth.TITLE, depth.draw, depth.describe)),
        PaperTable(
            "paper-snopt",
            "snopt_costs",
            "Cost of an iteration (training seconds over iterations, refreshes included) and peak bytes (of an "
            "iteration that refreshes), relative to Adam with the same gradient method in the same blocks: medians, "
            "least and largest ratio.",
            COST_COLUMNS,
            relative_costs.table_of,
        ),
        PaperTable(
            DEPTH,
            "snopt_memory",
            "Peak memory of an iteration against the accepted steps of one forward pass, on fixed grids of rk4.",
            MEMORY_COLUMNS,
            relative_costs.memory_of,
        ),
        PaperTable(
            SENSITIVITY,
            "snopt_sensitivity",
            f"SNOpt's damping and refresh period, each varied at the usual value of the other: median, least and "
            f"largest metric over seeds, and the mean training loss of the last {sensitivity.LAST} iterations.",
            SENSITIVITY_COLUMNS,
            sensitivity.table_of,
        ),
    ),
    stiff_gradients.STIFF_GRADIENTS: (
        PaperTable(
            "paper-stiff-gradients",
            "stiff_gradients",
            "Size of the gradient at the initial parameters by each solver, and its error relative to the float64 "
            "reference, the gradient of the equation itself.",
            STIFF_COLUMNS,
            _stiff_rows,
        ),
    ),
    precision.PRECISION: (
        PaperFigure(
            "paper-precision",
            FigureKind("precision", errors_of_types.TITLE, errors_of_types.draw, errors_of_types.describe),
        ),
        PaperTable(
            "paper-precision",
            "precision",
            "Gradient error at the initial parameters, relative to the float64 reference, by the types of the run and "
            "of its field and by the steps of rk4; medians over seeds.",
            PRECISION_COLUMNS,
            errors_of_types.points_of,
        ),
    ),
}
"""A paper's short name -> its figures and tables, in the order of the page."""
