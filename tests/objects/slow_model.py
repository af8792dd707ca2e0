"""A model with a map and a score, in a module that other processes import."""

from __future__ import annotations

import os
import time

import numpy as np


def predict(batch: np.ndarray) -> dict[str, np.ndarray]:
    """Deterministic, and as slow as ``PAUSE`` says."""
    time.sleep(float(os.environ.get("PAUSE", "0")) * len(batch))
    local = (batch % 977).astype(np.float32)
    return {"map": local, "score": local.mean((1, 2, 3), dtype=np.float64)}
