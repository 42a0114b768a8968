"""One reference for all gradient methods of a comparison: kept in a file while a sweep runs."""

import hashlib
from pathlib import Path

import torch
from filelock import FileLock

from odegrad.reference.reference import Reference, reference
from odegrad.reference.subject import Subject


def shared_reference(subject: Subject, name: str, folder: Path) -> Reference:
    """Return the reference of ``subject``, from ``folder`` if another run has left it there.

    Parameters
    ----------
    subject
        In float64.
    name
        What else the reference depends on: task, size, seed. Parameters and buffers are told by their bits.
    folder
        Of one sweep, and so of one version of the code; made if it does not exist.
    """
    key = _key(subject, name)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}.pt"
    with FileLock(folder / f"{key}.lock"):  # whoever comes second waits, which is cheaper than to find it again
        if path.exists():
            return Reference(**torch.load(path, weights_only=True))
        found = reference(subject)
        aside = path.with_suffix(".part")
        torch.save(vars(found), aside)
        aside.replace(path)
    return found


def _key(subject: Subject, name: str) -> str:
    told = hashlib.sha256(f"{name} on {subject.device}".encode())
    for module in subject.modules:
        for key, value in module.state_dict().items():
            told.update(key.encode())
            told.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return told.hexdigest()[:32]
