"""The type of numbers that come from files, simulations and densities."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
