"""The command line: ``odegrad COMMAND``; ``odegrad --help`` names the commands.

Results go to standard output, progress and messages to standard error. Exit codes are those of ``odegrad.exits``.
"""

import importlib.metadata
import logging
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from typer.core import TyperGroup

from odegrad.commands import catalogue, doctor, gate, history, models, results, running
from odegrad.commands.exits import end_politely
from odegrad.errors import InfrastructureError, OdegradError, UsageError
from odegrad.exits import ExitCode


class _Commands(TyperGroup):
    """The commands; Ctrl-C ends each of them with the same exit code."""

    def invoke(self, ctx: Any) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(ExitCode.INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_log = logging.getLogger("odegrad")


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"odegrad {importlib.metadata.version('odegrad')}")
        raise typer.Exit


@app.callback(
    epilog="\n\n".join(
        (
            "Examples:",
            "odegrad run quick",
            "odegrad run my_suite.toml --results out --set 'seeds=[0, 1]'",
            "odegrad report results/quick",
            "odegrad leaderboard results/mine results/yours",
            "odegrad paper irdm",
            "odegrad list methods",
            "odegrad check my_method.py:MyMethod",
            "odegrad advise my_model.py:build",
            "odegrad compare my_model.py:build",
            "odegrad diagnose my_model.py:build",
            "odegrad doctor",
            "odegrad gate gate --baseline gate.json",
            "odegrad history report --history history",
        )
    )
)
def configure(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", help="Show the version and exit.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:  # ``version`` has ended the command before
    """Compare the ways to train Neural ODEs: exactness, function evaluations, memory, time, accuracy."""
    errors = Console(stderr=True)
    _log.handlers = [
        RichHandler(console=errors, show_path=False) if errors.is_terminal else logging.StreamHandler(sys.stderr)
    ]
    _log.setLevel(logging.DEBUG if verbose else logging.INFO)


for name, command, epilog in (
    ("run", running.run, "Example: odegrad run quick --results results/quick; the same command again continues."),
    ("paper", running.paper, "Example: odegrad paper irdm --size tiny; the same command again continues."),
    ("plan", running.plan, "Example: odegrad plan quick --set 'tolerances=[1e-3, 1e-6]'"),
    ("report", results.report, "Example: odegrad report results/quick"),
    (
        "compare-results",
        results.compare_results,
        "Example: odegrad compare-results results/before results/after",
    ),
    (
        "leaderboard",
        results.leaderboard,
        "Example: odegrad leaderboard results/mine results/yours --out leaderboard",
    ),
    ("list", catalogue.list_names, "Example: odegrad list methods"),
    (
        "check",
        catalogue.check,
        "Examples: odegrad check adjoint | odegrad check my_method.py:MyMethod | odegrad check my_task.py:MyTask | "
        "odegrad check --all",
    ),
    (
        "advise",
        models.advise,
        "Example: odegrad advise my_model.py:build --figure advice.png",
    ),
    (
        "compare",
        models.compare,
        "Example: odegrad compare my_model.py:build --gradients naive,adjoint,interpolation --figure out.png",
    ),
    (
        "diagnose",
        models.diagnose,
        "Examples: odegrad diagnose circles --train 80 | odegrad diagnose my_model.py:build --figure out.png | "
        "odegrad diagnose --law --figure law.png",
    ),
    ("doctor", doctor.doctor, "Example: odegrad doctor --pairs 100"),
    (
        "gate",
        gate.gate,
        "Examples: odegrad gate gate --baseline gate.json --update --reason 'first baseline' | "
        "odegrad gate gate --baseline gate.json --junit gate.xml",
    ),
):
    app.command(name, epilog=epilog)(command)
app.add_typer(history.history, name="history")
app.add_typer(results.results_app, name="results")


def main() -> None:
    """Run the command line; an error that odegrad raises on purpose is one message and an exit code."""
    end_politely()
    try:
        app()
    except OdegradError as error:
        print(f"error: {error}", file=sys.stderr)
        usage, machine = isinstance(error, UsageError), isinstance(error, InfrastructureError)
        sys.exit(ExitCode.USAGE if usage else ExitCode.TRY_AGAIN if machine else ExitCode.FAILED_CHECK)


if __name__ == "__main__":
    main()
