"""Models that commands in tests name as ``tests.cli.models:scores``."""

import os
import time

import numpy as np


def scores(batch):
    """Two numbers a patch: its mean over 255, and the rest to 1."""
    mean = batch.astype(np.float32).mean((1, 2, 3)) / 255
    return np.stack([mean, 1 - mean], 1)


def maps(batch):
    """Two channels: red over 255, and green over 510."""
    return batch[:, :2].astype(np.float32) / np.float32([[[255]], [[510]]])


def both(batch):
    """A map and a vector."""
    return {"map": maps(batch), "score": scores(batch)}


def lookup(batch):
    """A single number a patch, not finite where the patch is black."""
    mean = batch.astype(np.float32).mean((1, 2, 3))
    return np.where(mean == 0, np.float32("nan"), mean)


def slow(batch):
    """As `scores`, and as slow as the environment says, so that it can be interrupted."""
    time.sleep(float(os.environ.get("SECONDS_A_PATCH", "0")) * len(batch))
    return scores(batch)


def rest(batch):
    """`scores` the other way round."""
    return scores(batch)[:, ::-1].copy()
