"""From a task or a user's model to a diagnosis, trained for a while if asked, as rows and figure."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from odegrad.binding import solve_with
from odegrad.checks.limits import CONTRACTIONS, contraction_error
from odegrad.contracts import Problem
from odegrad.diagnosis.bounds import MEANINGS
from odegrad.diagnosis.first_solve import first_solve
from odegrad.diagnosis.prediction import Diagnosis, diagnose
from odegrad.diagnosis.probe import largest_norms
from odegrad.diagnosis.verdict import sentences
from odegrad.errors import UnsupportedError, UsageError
from odegrad.measuring.training import evaluation_points
from odegrad.methods.solvers.solver import make_solver
from odegrad.records.replacing import replacing
from odegrad.reference.allowance import Tell, in_silence
from odegrad.reference.subject import of_problem
from odegrad.registry import (
    build_gradient,
    build_optimizer,
    build_solver,
    build_task,
    check_supported,
    solver_for,
    tasks,
)
from odegrad.reports.canvas import style
from odegrad.reports.figures import log_norm
from odegrad.reports.units import error, significant
from odegrad.states import parts
from odegrad.user.models import load_model

CPU = torch.device("cpu")
SHOWN_TIMES = 9
LAW_METHODS = ("naive", "interpolation", "adjoint")
LAW_RTOL = 1e-6


@dataclass(frozen=True)
class Examination:
    """A diagnosis, and how the logarithmic norms went while the model was trained before it."""

    diagnosis: Diagnosis
    trained: pd.DataFrame | None
    """Columns ``iteration``, ``mu_2``, ``mu_2_minus``; None if it was not trained."""

    def times(self) -> pd.DataFrame:
        """Return mean, least and largest of each quantity over samples, a row a time."""
        return pd.DataFrame(_times(self.diagnosis))

    def eigenvalues(self) -> pd.DataFrame:
        """Return the eigenvalues of the Jacobian's symmetric part: ``time``, ``sample``, ``eigenvalue``."""
        columns: dict[str, list[object]] = {"time": [], "sample": [], "eigenvalue": []}
        for norms in self.diagnosis.norms:
            if norms.symmetric_eigenvalues is None:
                continue
            _, batch, n = norms.symmetric_eigenvalues.shape
            columns["time"] += norms.times.repeat_interleave(batch * n).tolist()
            columns["sample"] += torch.arange(batch).repeat_interleave(n).repeat(len(norms.times)).tolist()
            columns["eigenvalue"] += norms.symmetric_eigenvalues.reshape(-1).tolist()
        return pd.DataFrame(columns)

    def methods(self) -> pd.DataFrame:
        """Return predicted and observed errors, and the verdict, a row a gradient method."""
        return pd.DataFrame([vars(outcome) for outcome in self.diagnosis.outcomes]).astype(
            {"predicted": float, "observed": float}
        )

    def bounds(self) -> pd.DataFrame:
        """Return the bounds beside what is observed, a row a bound and number of nodes."""
        rows = [vars(b) | {"ratio": b.ratio, "of": MEANINGS[b.letter]} for b in self.diagnosis.bounds]
        return pd.DataFrame(rows)

    def figure(self) -> Figure:
        """Return the figure of everything."""
        return log_norm.draw_diagnosis(self.times(), self.eigenvalues(), self.methods(), self.trained)

    def sentences(self) -> list[str]:
        """Return the verdict in words, and of which parameters it is."""
        told = "" if self.trained is None else f"After {self.trained['iteration'].iloc[-1]} iterations of training: "
        first, *rest = sentences(self.diagnosis)
        return [told + first, *rest]

    def tables(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield title and rows of every table, as a terminal shows them."""
        every = self.times()
        picked = every.iloc[np.unique(np.linspace(0, len(every) - 1, SHOWN_TIMES).round().astype(int))]
        rows = [_growth_row(row) for row in picked.to_dict("records")]
        yield "growth along the trajectory, mean / largest over samples, in 1/time", rows
        yield (
            "bounds on the interpolation's errors, relative, where they are tightest",
            [
                {
                    "bound": row["letter"],
                    "nodes": row["num_nodes"] or "",
                    "predicted": error(row["bound"]),
                    "observed": error(row["observed"]),
                    "holds": "yes" if row["holds"] else "no",
                    "on": row["of"],
                }
                for row in self.bounds().to_dict("records")
            ],
        )
        yield (
            f"gradient methods at rtol {self.diagnosis.rtol:g}",
            [
                {
                    "gradient": row["gradient"],
                    "state": row["state_from"],
                    "growth": significant(row["growth"]),
                    "predicted": error(row["predicted"]),
                    "observed": error(row["observed"]),
                    "safe from rtol": error(row["safe_rtol"]) if row["safe_rtol"] > 0 else "none",
                    "verdict": row["verdict"].partition(":")[0],
                }
                for row in self.methods().to_dict("records")
            ],
        )

    def to_dict(self) -> dict[str, object]:
        """Return everything as plain data."""
        d = self.diagnosis
        plain: dict[str, object] = _finite_or_none(
            {
                "name": d.name,
                "rtol": d.rtol,
                "wanted": d.wanted,
                "growth": vars(d.growth),
                "steps": d.steps,
                "steps_for_stability": d.steps_for_stability,
                "sensitivity_error": d.sensitivity_error,
                "reference_error": d.reference_error,
                "solver": None if d.choice is None else d.choice.to_dict(),
                "notes": list(d.notes),
                "verdict": self.sentences(),
                "times": self.times().to_dict("records"),
                "bounds": self.bounds().to_dict("records"),
                "methods": [vars(outcome) for outcome in d.outcomes],
                "training": None if self.trained is None else self.trained.to_dict("records"),
            }
        )
        return plain


def _finite_or_none(value: object) -> Any:
    """Return plain data with None for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {k: _finite_or_none(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_none(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _growth_row(row: Mapping[str, Any]) -> dict[str, str]:
    pairs = {"mu_2(J)": "mu_2", "mu_2(-J)": "mu_2_minus", "norm of J": "norm"}
    shown = {"time": significant(row["time"])}
    shown |= {
        k: f"{significant(row[f'{name}_mean'])} / {significant(row[f'{name}_high'])}" for k, name in pairs.items()
    }
    abscissa, ratio = row["spectral_abscissa_high"], row["stiffness_ratio_high"]
    return shown | {"spectral abscissa": significant(abscissa), "stiffness ratio": significant(ratio)}


def _times(d: Diagnosis) -> list[dict[str, float]]:
    rows = []
    for place, norms in enumerate(d.norms):
        for k, t in enumerate(norms.times.tolist()):
            if place and k == 0:
                continue  # the end of the interval before
            row = {"time": t}
            for name in ("mu_2", "mu_2_minus", "norm", "spectral_abscissa", "stiffness_ratio"):
                values = getattr(norms, name)
                known = torch.full((1,), torch.nan) if values is None else values[k]
                row |= {f"{name}_mean": float(known.mean()), f"{name}_low": float(known.amin())}
                row[f"{name}_high"] = float(known.amax())
            rows.append(row)
    return rows


def examine(
    name: str,
    *,
    size: str = "tiny",
    seed: int = 0,
    train: int = 0,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    wanted: float = 1e-2,
    methods: list[str] | None = None,
    budget: float | None = None,
    tell: Tell = in_silence,
) -> Examination:
    """Return the examination of a task, or of the model in ``my_model.py:build``.

    Parameters
    ----------
    name
        A task's name, ``file.py:Task``, or ``file.py:function`` that returns a model as ``odegrad compare`` takes it.
    size, seed
        Of a task.
    train
        Iterations of the task's default optimizer before the diagnosis, by naive backprop.
    rtol, atol, wanted, methods, budget, tell
        As ``odegrad.diagnosis.prediction.diagnose`` takes them.

    Raises
    ------
    UsageError
        If the name is no task's and no model's, or a model is to be trained.
    """
    for method in methods or ():
        check_supported(build_gradient(method), _any_solver(method))
    if ".py:" in name and not is_task_class(name):
        if train:
            raise UsageError(f"--train {train}: expected 0 for a model, whose loss has no batches; use a task")
        loaded = load_model(name)
        precision = torch.promote_types(parts(loaded.y0)[0].dtype, torch.float32)
        loaded.check_loss(build_gradient("naive"), build_solver("dopri5", rtol, atol))
        model, trained, whole, beyond = loaded.in_float64(), None, None, ""
    else:
        tell(f"building {name}" + (f" and training it for {train} iterations" if train else ""))
        problem, precision = build_task(name).build(size, seed, CPU, torch.float64), torch.float32
        trained = _trained(problem, train, rtol, atol) if train else None
        first = first_solve(problem)
        model, beyond = first.model, first.beyond
        whole = of_problem(problem) if beyond else None
    found = diagnose(
        name, model,
        rtol=rtol, atol=atol, wanted=wanted, methods=methods, precision=precision, budget=budget, tell=tell,
        whole=whole,
    )  # fmt: skip
    if beyond:
        told = f"The loss is of more than its first solve: {beyond}."
        told += " Observed errors are of all of it, growth and bounds of the first solve."
        found = replace(found, notes=(told, *found.notes))
    return Examination(found, trained)


def is_task_class(name: str) -> bool:
    """Return whether ``file.py:Name`` is a task's class rather than a function that builds a model."""
    return isinstance(tasks.get(name), type)


def _any_solver(method: str) -> Any:
    """Return a solver that the method takes, dopri5 or alf; dopri5 if it takes neither, for the refusal's reason."""
    dopri5 = build_solver("dopri5", 1e-5, 1e-6)
    return solver_for(build_gradient(method), dopri5) or dopri5


def _trained(problem: Problem, iterations: int, rtol: float, atol: float) -> pd.DataFrame:
    """Train, and return the largest logarithmic norms on the way."""
    optimizer = build_optimizer(problem.training.default_optimizer, problem)
    solve = solve_with(build_gradient("naive"), build_solver("dopri5", rtol, atol))
    wanted, rows = set(evaluation_points(iterations)), []
    for i in range(iterations + 1):
        if i in wanted:
            found = largest_norms(problem)
            rows.append({"iteration": i, "mu_2": found.mu_2, "mu_2_minus": found.mu_2_minus})
        if i < iterations:
            optimizer.zero_grad(set_to_none=True)
            problem.loss(solve, problem.batch(i)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return pd.DataFrame(rows)


def law(methods: tuple[str, ...] = LAW_METHODS) -> pd.DataFrame:
    """Return observed and predicted gradient errors on ``y' = A y``, eig(A) = (-1, -lam), T = 1, for growing lam.

    Columns ``gradient``, ``exponent`` (``mu_2(-A) T = lam``), ``observed``, ``predicted`` (none for a method that does
    not solve the state back).

    Raises
    ------
    UnsupportedError
        If a method does not stand on the shared loop with dopri5.
    """
    rows = []
    for name in methods:
        method = build_gradient(name)
        solver = make_solver("dopri5", rtol=LAW_RTOL, atol=1e-9)
        if method.refuses(solver) is not None:
            raise UnsupportedError(f"{name}: expected a method for dopri5, got one that refuses it; take {LAW_METHODS}")
        for lam in CONTRACTIONS:
            exponent = float(lam)  # A is symmetric and T = 1: mu_2(-A) T = lam
            observed, predicted = contraction_error(method, solver, lam), LAW_RTOL * math.exp(exponent)
            solves = method.traits.state_from == "solve"
            rows.append(
                {
                    "gradient": name,
                    "exponent": exponent,
                    "observed": observed,
                    "predicted": predicted if solves else None,
                }
            )
    return pd.DataFrame(rows).astype({"predicted": float})


def write_figure(figure: Figure, path: Path) -> None:
    """Write ``figure`` in the style of all figures."""
    with style.applied(), replacing(path) as part:
        figure.savefig(part)
