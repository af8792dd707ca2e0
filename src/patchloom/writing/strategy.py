"""What every write strategy does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from patchloom.writing.prediction import ImagePrediction

__all__ = ["OnIncomplete", "WriteFunc", "WriteStrategy"]

OnIncomplete = Literal["raise", "warn"]


class WriteFunc(Protocol):
    """Writes one image.

    A function that has a parameter `axes` is also told the axes of the image, such as ``"SCYX"``.
    """

    def __call__(self, *, file_path: Path, img: Any, **kwargs: Any) -> Any:
        """Write `img` to `file_path`, whose folder exists. `img` is an array, memory-mapped where it is large."""


@runtime_checkable
class WriteStrategy(Protocol):
    """Takes predictions in whatever batches a loop makes, and writes images."""

    def write_batch(self, folder: Path, predictions: Sequence[ImagePrediction]) -> None:
        """Take the predictions of one batch; they may be of several images, and an image may go on in the next batch.

        Parameters
        ----------
        folder
            Where images are written; data indices of different folders are different images.
        predictions
            Checked before any of them is kept.

        Raises
        ------
        PredictionError
            If one does not fit its image, or was there already; none of them is kept then.
        OutputError
            If the disk is full or cannot be written.
        """

    def close(self) -> None:
        """End: forget everything, and say which images were never completed. The strategy can be used again.

        Raises
        ------
        IncompleteImageError
            Naming the images, and how much of them there is.
        """
