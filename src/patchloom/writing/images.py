"""Whole images: the samples of an image are collected until all are there, then written as one array."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import PredictionError
from patchloom.predictions.files import output_error
from patchloom.writing.collecting import Collecting, Gathering
from patchloom.writing.prediction import ImageShape, Sample
from patchloom.writing.scratch import MEMORY, Scratch
from patchloom.writing.strategy import OnIncomplete, WriteFunc

__all__ = ["Output", "WriteImage"]


class WriteImage(Collecting):
    """Writes images whose samples are predicted whole.

    The samples of an image may come in any order and in any batches. Once all of them are there they are combined,
    in OME order ``(S)(T)(C)(Z)YX`` as ``run[image].stitched()`` has it, without the axes that neither the source nor
    the predictions have, and written.

    Parameters
    ----------
    write_func
        Called as ``write_func(file_path=…, img=…, **kwargs)``; see `WriteFunc`, and `write_func_for` for ours.
    extension
        Of the files that it writes.
    kwargs
        Passed on to it.
    on_incomplete
        ``"raise"`` or ``"warn"``: what `close` does about images that were never completed.
    memory
        Bytes of unfinished images that are kept in memory; what is more is kept in temporary files in the folder.

    Examples
    --------
    >>> import tempfile
    >>> from patchloom.writing import ImagePrediction, write_npy
    >>> folder, strategy = Path(tempfile.mkdtemp()), WriteImage(write_npy, ".npy")
    >>> samples = [ImagePrediction(np.full((1, 8, 8), i), "SYX", (3, 8, 8), 0, i, "a/s.tif") for i in range(3)]
    >>> strategy.write_batch(folder, samples[:2])
    >>> strategy.write_batch(folder, samples[2:])
    >>> strategy.close()
    >>> np.load(folder / "a" / "s.npy").shape
    (3, 1, 8, 8)
    """

    def __init__(
        self,
        write_func: WriteFunc,
        extension: str,
        kwargs: Mapping[str, Any] | None = None,
        *,
        on_incomplete: OnIncomplete = "raise",
        memory: int = MEMORY,
    ) -> None:
        super().__init__(extension, on_incomplete)
        self._output = Output(write_func, kwargs or {})
        self._scratch = Scratch(memory)

    def _gather(self, folder: Path, path: Path, sample: Sample) -> Gathering:
        return _Samples(sample.shape, folder, self._output, self._scratch)


class Output:
    """A write function with its arguments."""

    def __init__(self, write_func: WriteFunc, kwargs: Mapping[str, Any]) -> None:
        self._write_func, self._kwargs = write_func, dict(kwargs)
        self._takes_axes = "axes" not in self._kwargs and _has_parameter(write_func, "axes")

    def write(self, path: Path, image: NDArray[Any], axes: str) -> None:
        """Write an image, in a folder that is made if it does not exist."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(error, path) from error
        about = {"axes": axes} if self._takes_axes else {}
        self._write_func(file_path=path, img=image, **about, **self._kwargs)


def _has_parameter(function: Any, name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin does not say
        return False


class _Samples:
    """Samples of one image, each put into its place at once."""

    what = "samples"

    def __init__(self, shape: ImageShape, folder: Path, output: Output, scratch: Scratch) -> None:
        self._shape, self._folder, self._output, self._scratch = shape, folder, output, scratch
        self._seen = np.zeros(shape.samples, bool)
        self._array: NDArray[Any] | None = None

    @property
    def expected(self) -> int:
        return self._shape.samples

    @property
    def complete(self) -> bool:
        return bool(self._seen.all())

    def check(self, sample: Sample) -> bool:
        if sample.start is not None and any(sample.start):
            raise PredictionError(f"{sample} is no whole image", "tiles are for WriteTiles and WriteTilesZarr")
        if sample.shape.extent != self._shape.plane:
            raise PredictionError(
                f"{sample} has {sample.shape.extent} pixels, and the image has {self._shape.plane}",
                "data_shape is that of the image; where predictions are larger or smaller, give theirs",
            )
        return bool(self._seen[sample.sample])

    def add(self, sample: Sample) -> None:
        if self._array is None:
            self._array = self._scratch.take(self._shape.output_shape(), self._shape.dtype, self._folder)
        self._array[self._shape.index(sample.sample)] = sample.values
        self._seen[sample.sample] = True

    def finish(self, path: Path) -> None:
        assert self._array is not None
        self._output.write(path, self._array, self._shape.output_axes)

    def discard(self) -> None:
        if self._array is not None:
            self._scratch.give(self._array)
            self._array = None
