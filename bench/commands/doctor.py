"""The command ``doctor``."""

# ruff: noqa: PLC0415
# Commands import what they need, so that --help is quick and reading results needs no torch.

import json
from typing import Annotated

import typer

from odegrad.commands.options import JsonOption
from odegrad.commands.printing import print_rows


def doctor(
    pairs: Annotated[int, typer.Option(min=6, max=100_000, help="Timed pairs of a fixed kernel and itself.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Say what on this machine makes timings untrustworthy, and which slow-downs could be trusted right now."""
    from odegrad.machine.doctor import examine_machine

    found = examine_machine(pairs)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        print_rows(found.rows(), False, "what makes timings untrustworthy here")
