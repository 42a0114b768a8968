"""What processes that measure import once, before any code of a user's is loaded in them."""

from odegrad.registry import gradients, optimizers, tasks

PASSES_MODULE = "odegrad.measuring.passes"
"""The module that measures."""


def preload() -> list[str]:
    """Return the modules that processes which measure import once."""
    builtin = [target for registry in (gradients, optimizers, tasks) for target in registry.builtin.values()]
    return [PASSES_MODULE, *sorted({target.partition(":")[0] for target in builtin})]
