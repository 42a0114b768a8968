"""A sketch of a gradient: 64 numbers from which the distance between two gradients of one problem can be told.

``S g`` with a fixed ``[64, parameters]`` matrix of random signs over 8 keeps distances (Johnson and Lindenstrauss,
1984; signs: Achlioptas, 2003): ``||S g - S h||`` estimates ``||g - h||`` with a relative standard deviation of about
``1 / sqrt(2 * 64)``, 9 %. The sketches' rounding is that of the gradients: differences below about 1e-14 of a
gradient's norm are not resolved.
"""

import math

import numpy as np
from torch import Tensor

SKETCH_SIZE = 64
"""Numbers of a sketch: the bits of the one random word that each parameter has."""
SKETCH_SEED = 20_260_101
_CHUNK = 2**16
"""Parameters whose signs are unpacked at a time: 34 MB."""


def sketch(vector: Tensor) -> list[float]:
    """Return the sketch ``[64]`` of a float64 vector ``[parameters]`` on the CPU.

    The signs depend on the number of parameters alone, the same on every machine.
    """
    values = vector.numpy()
    words = np.random.PCG64([SKETCH_SEED, values.size])
    out = np.zeros(SKETCH_SIZE)
    for start in range(0, values.size, _CHUNK):
        part = values[start : start + _CHUNK]
        bits = np.unpackbits(words.random_raw(part.size).astype("<u8").view(np.uint8).reshape(-1, 8), axis=1)
        out += part @ (2.0 * bits - 1.0)
    return [float(value) for value in out / math.sqrt(SKETCH_SIZE)]
