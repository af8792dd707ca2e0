"""What the declared input of a Keras or TensorFlow model says of the patches that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchloom.errors import ModelInputError, UsageError

__all__ = ["TensorInput", "check_device"]

MOST_CHANNELS = 4
"""An axis of fixed size up to this, where the last axis is larger, is taken for channels that come first."""


@dataclass(frozen=True)
class TensorInput:
    """One input.

    Parameters
    ----------
    shape
        With the batch axis; None where an axis may have any size; None altogether where nothing is known.
    dtype
        Name of its type, such as ``float32`` or ``bfloat16``; None: not known.
    """

    shape: tuple[int | None, ...] | None = None
    dtype: str | None = None

    @classmethod
    def of(cls, shape: Sequence[int | None] | None, dtype: object) -> TensorInput:
        """Input with sizes as plain integers."""
        sizes = None if shape is None else tuple(None if size is None else int(size) for size in shape)
        return cls(sizes, None if dtype is None else str(dtype))

    @property
    def channels_last(self) -> bool:
        """Whether channels are last, as far as the shape tells: they are, unless only the other way makes sense."""
        if self.shape is None or len(self.shape) < 4:
            return True
        first, last = self.shape[1], self.shape[-1]
        if first is not None and last is not None:
            return not first <= MOST_CHANNELS < last
        return first is None

    def says(self, name: str, channels_last: bool) -> dict[str, Any]:
        """Fields of `ModelInfo` that follow from it.

        Raises
        ------
        ModelInputError
            If it is no batch of patches.
        """
        fields: dict[str, Any] = {"channels_last": channels_last, "dtype": self._numpy_dtype(name)}
        if self.shape is None:
            return fields
        if len(self.shape) not in (4, 5):
            shown = tuple("any" if size is None else size for size in self.shape)
            raise ModelInputError(
                f"{name} takes an input of shape ({', '.join(map(str, shown))}), which is no batch of patches",
                "make it take (N, Y, X, C) or (N, Z, Y, X, C); wrap it in a model that reshapes, if need be",
            )
        space = self.shape[1:-1] if channels_last else self.shape[2:]
        return fields | {
            "channels": self.shape[-1 if channels_last else 1],
            "patch": None if None in space else space,
            "batch": self.shape[0],
            "ndim": len(space),
        }

    def _numpy_dtype(self, name: str) -> np.dtype[Any]:
        """Type of the batch; float32 where nothing is said, or where NumPy lacks the type (bfloat16)."""
        if self.dtype is None or self.dtype == "bfloat16" or "float8" in self.dtype:
            return np.dtype(np.float32)
        try:
            dtype = np.dtype(self.dtype)
        except TypeError:
            dtype = np.dtype(object)
        if dtype.kind not in "fiu":
            raise ModelInputError(f"{name} takes {self.dtype}, not pixels", "give a model whose input is numbers")
        return dtype


def check_device(device: str) -> tuple[str, int]:
    """Kind (``auto``, ``cpu``, ``cuda``) and number of a device as the user spells it.

    Raises
    ------
    UsageError
        If it is spelled otherwise.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not number.isdigit()):
        raise UsageError(f"device {device!r} is unknown", "cpu, cuda, cuda:0 or auto")
    return kind, int(number or 0)
