"""A task's sizes: settings by name, and how a model is trained at each."""

import abc
from collections.abc import Mapping
from typing import ClassVar, Generic, Protocol, TypeVar

import torch

from odegrad.contracts import Problem, Scalar, TaskInfo, Training
from odegrad.errors import UnknownNameError


class Settings(Protocol):
    """The settings of one size."""

    @property
    def training(self) -> Training:
        """How the model is trained."""
        ...


SettingsT = TypeVar("SettingsT", bound=Settings)


class Sized(abc.ABC, Generic[SettingsT]):
    """A task whose settings are told by the name of a size."""

    info: ClassVar[TaskInfo]
    settings: ClassVar[Mapping[str, Settings]]

    def at(self, size: str) -> SettingsT:
        """Return the settings at ``size``.

        Raises
        ------
        UnknownNameError
            If the task has no such size; the message names those it has.
        """
        if size not in self.settings:
            raise UnknownNameError(f"size of task {self.info.name!r}", size, self.settings)
        found: SettingsT = self.settings[size]  # type: ignore[assignment]
        return found

    def training(self, size: str) -> Training:
        """Return how the model is trained at ``size``."""
        return self.at(size).training

    def build(self, size: str, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the problem of that size; two builds from one seed are equal bit for bit.

        Raises
        ------
        UnknownNameError
            If there is no such size.
        DataError
            If the task's data are not there and cannot be fetched.
        """
        return self.built(self.at(size), seed, device, dtype)

    @abc.abstractmethod
    def built(self, settings: SettingsT, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the problem of these settings."""


def trained(
    iterations: int,
    adam: float,
    sgd: float,
    snopt: float | None,
    *,
    weight_decay: float | None = None,
    momentum: float = 0.9,
    eps: float = 0.1,
    update_freq: int = 20,
    kl_clip: float | None = None,
    outside_lr: float | None = None,
    full_precond: bool = False,
) -> Training:
    """Return a training of ``iterations`` by each optimizer's learning rate.

    ``weight_decay`` is Adam's, ``momentum`` that of the others' base; ``snopt`` is None where the field has no layer
    that it could precondition; ``eps``, ``update_freq``, ``kl_clip`` and ``outside_lr`` are its damping, its refresh
    interval, the bound on its steps and Adam's rate outside of the fields, the last two if any.
    """
    optimizers: dict[str, Mapping[str, Scalar]] = {
        "adam": {"lr": adam} | ({} if weight_decay is None else {"weight_decay": weight_decay}),
        "sgd": {"lr": sgd, "momentum": momentum},
    }
    if snopt is not None:
        if_any = {"kl_clip": kl_clip, "outside_lr": outside_lr}
        optimizers["snopt"] = {
            "lr": snopt, "momentum": 0.9, "eps": eps, "update_freq": update_freq,
            **{name: value for name, value in if_any.items() if value is not None},
        }  # fmt: skip
    return Training(iterations, optimizers, full_precond=full_precond)
