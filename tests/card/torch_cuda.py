"""``torch.cuda`` as it answers where there is one card: patched for as long as the simulated one is there."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from tests.card.device import DEVICE, Card, CardTensor, made_on_the_host_first

NAME = "simulated card"
TOTAL_BYTES = 2**34
PROPERTIES = SimpleNamespace(
    uuid="GPU-simulated", name=NAME, total_memory=TOTAL_BYTES, major=9, minor=0, multi_processor_count=1
)


@contextmanager
def simulated_card() -> Iterator[Card]:
    """Let there be a card ``cuda:0`` inside, in a process that has loaded the library (``library.load``)."""
    card = Card()
    lifts_cpu_only = torch._C._only_lift_cpu_tensors()
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        for name, answer in _answers(card).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
            if name in ("device_count", "current_device", "_lazy_init", "is_initialized"):
                stack.enter_context(mock.patch.object(torch.cuda.random, name, answer))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda x, *_: card.pin(x)))
        stack.enter_context(mock.patch.object(Tensor, "is_pinned", lambda x, *_: card.is_pinned(x)))
        stack.enter_context(mock.patch.object(torch, "load", _load_to_card(torch.load)))
        stack.enter_context(mock.patch.object(torch, "save", _save_from_card(torch.save)))
        for make in ("tensor", "as_tensor"):
            stack.enter_context(mock.patch.object(torch, make, made_on_the_host_first(getattr(torch, make))))
        stack.enter_context(mock.patch.object(Card, "current", card))
        torch._C._set_only_lift_cpu_tensors(True)
        # A parameter on the card is another class of tensor: moving a module must swap it, not give it other data.
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            with card:
                yield card
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts_cpu_only)
            torch.__future__.set_swap_module_params_on_conversion(swaps)


class Event:
    """A CUDA event: its time is when it was recorded."""

    def __init__(self, *_: object, **__: object) -> None:
        self.seconds = 0.0

    def record(self, *_: object) -> None:
        """Note the time."""
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        """Wait for it."""
        assert Card.current is not None
        Card.current.wait("event")

    def elapsed_time(self, other: "Event") -> float:
        """Return the milliseconds to ``other``."""
        return 1e3 * (other.seconds - self.seconds)

    def query(self) -> bool:
        """Return that it has happened."""
        return True


def _answers(card: Card) -> dict[str, Any]:
    """Return what replaces functions of ``torch.cuda``."""
    memory = card.memory

    def set_sync_debug_mode(mode: int | str) -> None:
        card.warns = mode in ("warn", 1)
        if card.warns:
            # torch does so once in a process; here at every use, so that no test depends on another.
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)

    def reset_peak(*_: object) -> None:
        memory.peak = memory.live

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "synchronize": lambda *_: None,
        "set_sync_debug_mode": set_sync_debug_mode,
        "get_sync_debug_mode": lambda: int(card.warns),
        "memory_allocated": lambda *_: memory.live,
        "max_memory_allocated": lambda *_: memory.peak,
        "memory_reserved": lambda *_: memory.live,
        "reset_peak_memory_stats": reset_peak,
        "empty_cache": lambda: None,
        "get_device_properties": lambda *_: PROPERTIES,
        "get_device_name": lambda *_: NAME,
        "get_device_capability": lambda *_: (PROPERTIES.major, PROPERTIES.minor),
        "default_generators": (card.generator,),
        "Event": Event,
    }


def _save_from_card(save: Callable[..., None]) -> Callable[..., None]:
    """Return ``torch.save`` for tensors on the card: they are stored as plain ones, since only such are loaded."""

    def saved(content: Any, *arguments: Any, **options: Any) -> None:
        save(tree_map_only(CardTensor, lambda x: x.on_host.clone(), content), *arguments, **options)

    return saved


def _load_to_card(load: Callable[..., Any]) -> Callable[..., Any]:
    def loaded(file: Any, map_location: Any = None, **options: Any) -> Any:
        if map_location is None or torch.device(map_location).type != DEVICE.type:
            return load(file, map_location=map_location, **options)
        found = load(file, map_location="cpu", **options)
        return tree_map_only(Tensor, lambda x: x.to(DEVICE), found)

    return loaded
