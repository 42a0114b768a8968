"""Arguments and options that several commands take, and what they stand for."""

# ruff: noqa: PLC0415
# torch is imported only where a device is asked for, so that --help is quick.

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from odegrad.errors import UsageError

FIGURE_ENDINGS = (".png", ".svg", ".pdf")


class Device(StrEnum):
    """Where runs compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


SuiteArgument = Annotated[
    str, typer.Argument(metavar="SUITE", help="A suite that comes with odegrad, or a path to a .toml file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override the suite: seeds, iterations, rtol, ..."),
]
TaskSizeOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of every task: tiny, default, paper, ...; as --set size=NAME."),
]
DeviceOption = Annotated[Device, typer.Option(help="auto: a CUDA device if there is one.")]
AcrossOption = Annotated[
    bool, typer.Option("--across-machines", help="Keep times of unlike machines; they do not compare.")
]
FigureOption = Annotated[Path | None, typer.Option(help="Write the figure: .png, .svg or .pdf.")]
TimeoutOption = Annotated[float | None, typer.Option(min=0, max=1e9, help="Seconds that code of your own may take.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def with_size(overrides: list[str] | None, size: str | None) -> list[str]:
    """Return the texts of ``--set`` with that of ``--size``, which wins where both are given."""
    return [*(overrides or ()), *([] if size is None else [f"size={size}"])]


def check_figure(figure: Path | None) -> None:
    """Refuse a file that no figure can be written to, before anything is computed."""
    if figure is not None and not figure.parent.is_dir():
        raise UsageError(f"--figure {figure}: there is no folder {figure.parent}; make it, or give another one")
    if figure is not None and figure.suffix not in FIGURE_ENDINGS:
        raise UsageError(f"--figure {figure}: expected a name that ends in one of {', '.join(FIGURE_ENDINGS)}")


def check_folders(folders: list[Path]) -> None:
    """Refuse results folders that are not there."""
    for folder in folders:
        if not folder.is_dir():
            got = "a file" if folder.exists() else "nothing there"
            raise UsageError(
                f"results folder {folder}: expected a folder, got {got}; give one that `odegrad run` wrote"
            )


def device_name(device: Device) -> str:
    """Return torch's name of ``device``; CUDA that is not there is refused."""
    import torch

    there = torch.cuda.is_available()
    if device is Device.CUDA and not there:
        raise UsageError("--device cuda: expected a CUDA device that torch can use, got none; use --device cpu")
    return str(Device.CUDA if there else Device.CPU) if device is Device.AUTO else str(device)
