"""Any loader of image batches as a loader of patches."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from patchloom.config import Pad
from patchloom.errors import UsageError
from patchloom.geometry.grid import Edge
from patchloom.loop import arrays
from patchloom.loop.batches import split_batch

__all__ = ["PatchesOf", "patches_of"]

REGIONS = "regions"
LEAST_AXES = 4
"""The first array of a batch with so many axes is its images."""


def patches_of(
    loader: Iterable[Any],
    patch: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    *,
    key: str | int | None = None,
    overlap: int | Sequence[int] | None = None,
    edge: Edge = "shift",
    pad: Pad = "reflect",
    fill: float = 0,
    channels_last: bool | None = None,
) -> PatchesOf:
    """Split every batch of a loader into patches; labels and whatever else a batch holds go along with each patch.

    Parameters
    ----------
    loader
        Any iterable of batches, with workers or without: a PyTorch DataLoader, a list, a generator. A batch is an
        array of images as `split_batch` takes it, or a tuple, list, named tuple or dict that holds one.
    key
        Which entry of a batch is the images: its place, or its name in a dict or named tuple. By default the first
        array with at least 4 axes.
    patch, stride, overlap, edge, pad, fill, channels_last
        As for `split_batch`.

    Returns
    -------
    PatchesOf
        Iterable of ``(patches, regions, labels, …)``: a batch as the loader made it, the patches in place of the
        images, followed by their regions (in a dict under `regions`). It has a length if the loader has one, and can
        be iterated again if the loader can.

    Raises
    ------
    UsageError
        While iterating, if a batch holds no images or they cannot be split.

    Notes
    -----
    Samples are numbered within their batch of N images. An array whose first axis is N long, and a list or tuple of
    N things, have one entry a patch; dicts and named tuples inside a batch are looked through; anything else is passed
    on as it is. Masks count as labels and are repeated whole: to cut them, give them to `split_batch` too.

    Examples
    --------
    >>> import numpy as np
    >>> loader = [(np.zeros((2, 3, 64, 64)), ["cat", "dog"])]
    >>> for patches, regions, labels in patches_of(loader, patch=(64, 32)):
    ...     print(patches.shape, regions[-1], labels)
    (4, 3, 64, 32) [ 1  0 32] ['cat', 'cat', 'dog', 'dog']
    """
    split = partial(
        split_batch,
        patch=patch,
        stride=stride,
        overlap=overlap,
        edge=edge,
        pad=pad,
        fill=fill,
        channels_last=channels_last,
    )
    return PatchesOf(loader, split, key)


class PatchesOf:
    """What `patches_of` makes of a loader."""

    def __init__(self, loader: Iterable[Any], split: Callable[..., tuple[Any, Any]], key: str | int | None) -> None:
        self.loader = loader
        self._split, self._key = split, key

    def __iter__(self) -> Iterator[Any]:
        return map(self._patches, self.loader)

    def __len__(self) -> int:
        """Number of batches; TypeError if the loader does not know."""
        return len(self.loader)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        """True, as for a loader without a length."""
        return True

    def _patches(self, batch: Any) -> Any:
        if _has_images(batch):
            return self._split(batch)
        key = _images_in(batch) if self._key is None else self._key
        if isinstance(batch, Mapping):
            return self._in_mapping(batch, key)
        if not isinstance(batch, (tuple, list)):
            raise UsageError(f"a batch is a {type(batch).__name__}", "a batch is an array, a tuple, a list or a dict")
        fields = getattr(batch, "_fields", None)
        place = fields.index(key) if fields and key in fields else key
        if not isinstance(place, int) or not -len(batch) <= place < len(batch):
            raise UsageError(f"a batch of {len(batch)} entries has no entry {key!r}", "give the images' place as key")
        return self._in_sequence(batch, place % len(batch), fields)

    def _in_mapping(self, batch: Mapping[Any, Any], key: Any) -> dict[Any, Any]:
        if key not in batch:
            raise UsageError(f"a batch has no entry {key!r}", f"it has {', '.join(map(repr, batch))}")
        if REGIONS in batch:
            raise UsageError(f"a batch already has {REGIONS!r}", "rename that entry")
        patches, regions = self._split(batch[key])
        repeat = _Repeat.of(batch[key], patches)
        split = {name: patches if name == key else repeat(value) for name, value in batch.items()}
        return {**split, REGIONS: regions}

    def _in_sequence(self, batch: Sequence[Any], place: int, fields: tuple[str, ...] | None) -> Any:
        patches, regions = self._split(batch[place])
        repeat = _Repeat.of(batch[place], patches)
        entries = [*map(repeat, batch[:place]), patches, regions, *map(repeat, batch[place + 1 :])]
        if fields is None:
            return type(batch)(entries) if type(batch) in (tuple, list) else tuple(entries)  # type: ignore[call-arg]
        if REGIONS in fields:
            raise UsageError(f"a batch already has {REGIONS!r}", "rename that field")
        names = (*fields[: place + 1], REGIONS, *fields[place + 1 :])
        return _named_tuple(type(batch).__name__, names)(*entries)


class _Repeat:
    """Gives what belongs to a sample to each of its patches."""

    def __init__(self, samples: int, times: int) -> None:
        self._samples, self._times = samples, times

    @classmethod
    def of(cls, images: Any, patches: Any) -> _Repeat:
        samples = len(images)
        return cls(samples, len(patches) // samples if samples else 0)

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self(entry) for name, entry in value.items()}
        if arrays.is_array(value):
            many = len(value.shape) > 0 and value.shape[0] == self._samples
            return arrays.repeated(value, self._times) if many else value
        if hasattr(value, "_fields"):
            return type(value)(*map(self, value))
        if isinstance(value, (list, tuple)) and len(value) == self._samples:
            return type(value)(entry for entry in value for _ in range(self._times))
        return value


@lru_cache
def _named_tuple(name: str, fields: tuple[str, ...]) -> Callable[..., Any]:
    return namedtuple(name, fields)


def _has_images(value: Any) -> bool:
    return arrays.is_array(value) and len(value.shape) >= LEAST_AXES


def _images_in(batch: Any) -> Any:
    """Key or place of the images."""
    entries = batch.items() if isinstance(batch, Mapping) else enumerate(batch if isinstance(batch, Sequence) else ())
    for key, value in entries:
        if _has_images(value):
            return key
    raise UsageError(
        f"a batch holds no array with at least {LEAST_AXES} axes ({_described(batch)})",
        "collate images of one size to (N, C, Y, X), or name the entry with key=",
    )


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return ", ".join(f"{name}: {_described(value)}" for name, value in batch.items())
    if isinstance(batch, (tuple, list)):
        return ", ".join(_described(value) for value in batch[:8])
    return f"{type(batch).__name__} {tuple(batch.shape)}" if arrays.is_array(batch) else type(batch).__name__
