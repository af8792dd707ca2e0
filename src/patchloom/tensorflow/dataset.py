"""Patches of images as a ``tf.data.Dataset``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from patchloom.config import Pad
from patchloom.errors import ImageError, MissingExtraError
from patchloom.geometry.grid import Edge
from patchloom.images.filters import Filter, as_filter
from patchloom.loop.patches import Cut, Patches
from patchloom.loop.stream import stream

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    raise MissingExtraError.of("tensorflow", "tensorflow", "tf_dataset") from error

__all__ = ["tf_dataset"]


def tf_dataset(
    source: Any,
    patch: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    *,
    overlap: int | Sequence[int] | None = None,
    edge: Edge = "shift",
    pad: Pad = "reflect",
    fill: float = 0.0,
    axes: str | None = None,
    channels: Sequence[int | str] | None = None,
    level: int = 0,
    skip: str | Filter | Callable[..., bool] | None = None,
    on_error: str = "raise",
    channels_last: bool = True,
) -> Any:
    """Patches of all images of a source, in order, such that each chunk of an image is decoded once.

    Parameters
    ----------
    source, patch, stride, overlap, edge, pad, fill, axes, channels, level, skip, on_error
        As for `patchloom.torch.PatchStream`.
    channels_last
        Patches are ``(Y, X, C)`` or ``(Z, Y, X, C)``, as Keras takes them by default; else channels come first.

    Returns
    -------
    tf.data.Dataset
        Of dicts: ``patch`` in the dtype of the first image that can be read, ``image`` (its name), ``index`` (its
        number in the source), ``sample`` (its plane: S outside, then T, then Z) and ``start``, ``(y, x)`` or
        ``(z, y, x)``. Call ``batch`` and ``prefetch`` on it as on any other.

    Raises
    ------
    UsageError, SourceError, ImageError
        As `patchloom.torch.PatchDataset` does.

    Examples
    --------
    >>> dataset = tf_dataset({"a": np.zeros((64, 96, 3), np.uint8)}, patch=32)
    >>> next(iter(dataset.batch(4)))["patch"].shape
    TensorShape([4, 32, 32, 3])
    """
    patches = Patches(source, patch, stride, overlap=overlap, edge=edge, pad=pad, fill=fill, axes=axes,
                      channels=channels, level=level, on_error=on_error)
    chosen = None if skip is None else as_filter(skip)

    def items() -> Iterator[dict[str, Any]]:
        return (_item(cut, channels_last) for cut in stream(patches, skip=chosen))

    dataset = tf.data.Dataset.from_generator(items, output_signature=_signature(patches, channels_last))
    if chosen is None and on_error == "raise":
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(patches)))
    return dataset


def _item(cut: Cut, channels_last: bool) -> dict[str, Any]:
    return {
        "patch": np.moveaxis(cut.pixels, 0, -1) if channels_last else cut.pixels,
        "image": cut.name,
        "index": cut.crop.image,
        "sample": cut.crop.sample,
        "start": np.asarray(cut.crop.start, np.int64),
    }


def _signature(patches: Patches, channels_last: bool) -> dict[str, Any]:
    plane = next(_readable(patches))
    shape = (*patches.patch, plane.channels) if channels_last else (plane.channels, *patches.patch)
    number = tf.TensorSpec((), tf.int64)
    return {
        "patch": tf.TensorSpec(shape, tf.dtypes.as_dtype(plane.dtype)),
        "image": tf.TensorSpec((), tf.string),
        "index": number,
        "sample": number,
        "start": tf.TensorSpec((len(patches.patch),), tf.int64),
    }


def _readable(patches: Patches) -> Iterator[Any]:
    """First planes of the images that have patches and can be opened."""
    for image in np.flatnonzero(np.diff(patches.index.first)):
        try:
            yield patches.reader.planes(int(image))[0]
        except ImageError as error:
            patches.give_up(int(image), error)
    raise ImageError("none of the images has a patch", "choose a smaller patch, or another edge than drop")
