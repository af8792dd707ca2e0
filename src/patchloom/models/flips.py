"""Test-time augmentation: a model that sees patches from all sides, and answers as if it had seen them from one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelOutputError, UsageError
from patchloom.models.ensemble import Answer, combined, combined_identity
from patchloom.models.load import with_steps
from patchloom.models.model import Model, ModelInfo
from patchloom.models.steps import Steps

__all__ = ["Augmented", "Sides", "View"]

Sides = Literal["flips", "d4"]


@dataclasses.dataclass(frozen=True)
class View:
    """One way to look at a plane: Y and X may be exchanged, then each may be turned round.

    Examples
    --------
    >>> view = View(exchange=True, flip_y=False, flip_x=True)
    >>> turned = view.seen(np.array([[1, 2], [3, 4]]), 0, 1)
    >>> turned
    array([[3, 1],
           [4, 2]])
    >>> view.back(turned, 0, 1)
    array([[1, 2],
           [3, 4]])
    """

    exchange: bool
    flip_y: bool
    flip_x: bool

    def seen(self, array: NDArray[Any], y: int, x: int) -> NDArray[Any]:
        """View of an array whose axes Y and X are `y` and `x`."""
        return np.flip(np.swapaxes(array, y, x) if self.exchange else array, self._flipped(y, x))

    def back(self, array: NDArray[Any], y: int, x: int) -> NDArray[Any]:
        """What `seen` gave, as it was before."""
        flipped = np.flip(array, self._flipped(y, x))
        return np.swapaxes(flipped, y, x) if self.exchange else flipped

    def _flipped(self, y: int, x: int) -> tuple[int, ...]:
        return (y,) * self.flip_y + (x,) * self.flip_x


class Augmented:
    """A model that predicts flipped and turned copies of each patch; it does not preprocess or reduce by itself.

    Maps are turned back before they are combined. Scores are averaged, in float32; class numbers (heads of integers)
    are voted, of classes with equally many votes the smallest wins. Of 3-D patches Y and X are turned, Z never.

    Parameters
    ----------
    model
        Any model. Steps that it would do on its device are left out: whoever calls does them.
    sides
        ``flips``: as it is, turned round on Y, on X, and on both (4 calls). ``d4``: also with Y and X exchanged, which
        makes all turns by 90 degrees and their mirror images (8 calls); for square patches.

    Raises
    ------
    UsageError
        If there is no such choice, or the model's patches are not square for ``d4``.

    Examples
    --------
    >>> from patchloom.models.load import load_model
    >>> first_pixel = load_model(lambda batch: batch[:, 0, 0, 0])
    >>> patch = np.array([[[[1, 2], [3, 6]]]], np.float32)
    >>> Augmented(first_pixel, "flips").predict(patch)["prediction"]
    array([3.], dtype=float32)
    """

    def __init__(self, model: Model, sides: Sides) -> None:
        if sides not in get_args(Sides):
            raise UsageError(f"tta: {sides!r} is no way to augment patches", "flips or d4")
        self._model = with_steps(model, Steps())
        self._views = [View(*choice) for choice in itertools.product((False, True), repeat=3)]
        if sides == "flips":
            self._views = [view for view in self._views if not view.exchange]
        info = self._model.info
        if info.patch is not None:
            self._check(info.patch)
        identity = combined_identity(f"tta {sides}", [info])
        self._info = dataclasses.replace(info, identity=identity, on_device=False)

    @property
    def info(self) -> ModelInfo:
        """That of the model, with an identity of its own."""
        return self._info

    def predict(self, batch: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Predict a batch from all sides; see `Model.predict`.

        Raises
        ------
        UsageError
            If patches are not square and Y and X would be exchanged.
        """
        self._check(batch.shape[1:-1] if self._info.channels_last else batch.shape[2:])
        return combined(self._answers(batch), "mean", batch.ndim)

    def _answers(self, batch: NDArray[Any]) -> Iterator[Answer]:
        y = batch.ndim - (3 if self._info.channels_last else 2)
        for view in self._views:
            # A copy in the batch's order of memory: frameworks do not take arrays that run backwards.
            turned = np.empty_like(batch)
            np.copyto(turned, view.seen(batch, y, y + 1))
            answer = self._model.predict(turned)
            yield self._info.name, {head: self._back(view, head, array) for head, array in answer.items()}

    def _back(self, view: View, head: str, array: NDArray[Any]) -> NDArray[Any]:
        if array.ndim < 3:
            return array
        if view.exchange and array.shape[-1] != array.shape[-2]:
            raise ModelOutputError(
                f"head {head!r} of {self._info.name} is not square for square patches: shape {array.shape}",
                "use --tta flips",
            )
        return view.back(array, -2, -1)

    def _check(self, patch: tuple[int, ...]) -> None:
        if self._views[-1].exchange and patch[-1] != patch[-2]:
            size = " x ".join(map(str, patch))
            raise UsageError(f"tta d4 turns patches by 90 degrees, and these are {size} pixels",
                             "use --tta flips, or a square patch")
