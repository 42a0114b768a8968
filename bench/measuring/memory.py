"""The bytes of one forward and one backward pass: kept between the two, and at the peak of both."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from odegrad.contracts import Solve
from odegrad.measuring.meters import memory_meter
from odegrad.reference.subject import Subject


@contextmanager
def cheap_collections() -> Iterator[None]:
    """Let garbage collections inside pass over what lives at the start.

    ``measured_bytes`` begins with one, so that its figures repeat; torch's own objects let it take a third of a
    second. Nothing changes where somebody else has frozen objects.
    """
    mine = gc.get_freeze_count() == 0
    if mine:
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if mine:
            gc.unfreeze()


def measured_bytes(subject: Subject, bind: Callable[[], Solve]) -> dict[str, int]:
    """Return the columns ``saved_bytes`` and ``peak_bytes``, above what lived before.

    ``bind`` gives the solve, inside of the measurement: an optimizer may take curvature samples there.
    """
    gc.collect()
    with memory_meter(subject.device) as meter:
        loss = subject.loss(bind())
        saved = meter.current_bytes()
        subject.pull_back(loss)
        return {"saved_bytes": saved, "peak_bytes": meter.peak_bytes()}
