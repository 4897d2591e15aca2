"""Features and labels to measure metrics on: scikit-learn's digits, as pixels."""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

_DIGITS: Any = load_digits()
PIXELS = _DIGITS.data.astype(np.float32)  # [1797, 64]
LABELS = _DIGITS.target  # [1797]
TRAIN, TEST = slice(0, 900), slice(900, None)
