"""The arrays of this package, by name."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Images = NDArray[np.uint8]  # (n, channels, height, width)
Labels = NDArray[np.int64]  # (n,)
Floats = NDArray[np.float32]
Contents = tuple[tuple[str, ...], Images, Labels, Images, Labels]  # class names, train set, test set
