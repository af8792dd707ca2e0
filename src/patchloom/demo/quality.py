"""How well a class map agrees with the truth, counted block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Confusion"]


@dataclass(frozen=True)
class Confusion:
    """How often each class was taken for which.

    Parameters
    ----------
    classes
        Names of the classes.
    counts
        int64 of shape ``(K, K + 1)``: pixels by true class (rows) and predicted class (columns); the last column is for
        what was not predicted.
    """

    classes: tuple[str, ...]
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, classes: Iterable[str]) -> Confusion:
        """Nothing counted yet."""
        names = tuple(classes)
        return cls(names, np.zeros((len(names), len(names) + 1), np.int64))

    @classmethod
    def of(cls, classes: Iterable[str], truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> Confusion:
        """Count the pixels of two maps of one shape.

        Raises
        ------
        ValueError
            If the truth holds a value that is no class, or the shapes differ.
        """
        names = tuple(classes)
        k = len(names)
        if truth.shape != predicted.shape or truth.max(initial=0) >= k:
            raise ValueError(f"truth of shape {truth.shape} with values below {k}, and a prediction of the same shape")
        pairs = truth.ravel().astype(np.int32) * (k + 1) + np.minimum(predicted.ravel(), k).astype(np.int32)
        return cls(names, np.bincount(pairs, minlength=k * (k + 1)).astype(np.int64).reshape(k, k + 1))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.classes, self.counts + other.counts)

    @property
    def pixels(self) -> int:
        """Pixels counted."""
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """Part of the pixels whose class is right."""
        return float(np.trace(self.counts) / max(1, self.pixels))

    @property
    def iou(self) -> Mapping[str, float]:
        """Intersection over union of each class that occurs in the truth or the prediction."""
        both = np.diag(self.counts)
        either = self.counts[:, :-1].sum(0) + self.counts.sum(1) - both
        return {name: float(i / u) for name, i, u in zip(self.classes, both, either, strict=True) if u}

    @property
    def mean_iou(self) -> float:
        """Mean of `iou` over the classes, each counting the same; NaN where nothing was counted."""
        values = list(self.iou.values())
        return float(np.mean(values)) if values else float("nan")

    @property
    def shares(self) -> Mapping[str, float]:
        """Part of the truth's pixels that each class has."""
        return dict(zip(self.classes, (self.counts.sum(1) / max(1, self.pixels)).tolist(), strict=True))
