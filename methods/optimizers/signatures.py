"""Signatures that say which options an optimizer takes, where a function passes them on."""

import inspect
from collections.abc import Callable, Collection
from typing import TypeVar

Factory = TypeVar("Factory", bound=Callable[..., object])


def takes_options_of(kind: Callable[..., object], but: Collection[str] = ()) -> Callable[[Factory], Factory]:
    """Say in a function's signature that its ``**options`` are the optional arguments of ``kind``.

    Suites look there, so that a misspelt option is answered with the nearest known ones.

    Parameters
    ----------
    kind
        What the function passes its ``**options`` to.
    but
        Arguments of ``kind`` that the function sets itself; those that it names in its own signature are left out too.
    """

    def said(function: Factory) -> Factory:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        known = {*but, *(p.name for p in own)}
        passed = [
            p.replace(kind=p.KEYWORD_ONLY)
            for p in inspect.signature(kind).parameters.values()
            if p.default is not p.empty and p.name not in known
        ]
        function.__signature__ = signature.replace(parameters=[*own, *passed])  # type: ignore[attr-defined]
        return function

    return said
