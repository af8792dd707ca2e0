"""Datasets of patches for `torch.utils.data.DataLoader`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from patchloom.config import Pad
from patchloom.errors import ImageError
from patchloom.geometry.axes import spatial_axes
from patchloom.geometry.grid import Edge, Grid
from patchloom.images.filters import Filter, as_filter
from patchloom.loop.patches import Crop, Cut, Patches
from patchloom.loop.stream import stream
from patchloom.torch.ranks import rank_and_world
from patchloom.writing.prediction import ImagePrediction

__all__ = ["PatchDataset", "PatchStream"]

Item = dict[str, Any]
Transform = Callable[[torch.Tensor], Any]


class _Patched:
    """What datasets of patches have in common."""

    patches: Patches
    transform: Transform | None

    @property
    def images(self) -> Sequence[str]:
        """Names of the images; ``index`` counts in it."""
        return self.patches.names

    def grid(self, index: int) -> Grid | None:
        """Where patches are on each plane of image number `index`; None where it has none."""
        layout = self.patches.index.layout(index)
        return None if layout is None else layout.grid

    def failures(self) -> list[str]:
        """Names of the images that were skipped because they cannot be read, in any process so far."""
        return self.patches.failures()

    def predictions(self, batch: Item, data: Iterable[Any]) -> list[ImagePrediction]:
        """What a model said of a batch of patches, for a write strategy or `PredictionWriter`.

        Parameters
        ----------
        batch
            A batch of this dataset, as the default collate function makes it.
        data
            Prediction of each patch, in the same order: ``(C, [Z,] Y, X)`` or numbers, arrays or tensors.
        """
        samples = batch.get("sample", itertools.repeat(0))
        starts = torch.as_tensor(batch["start"]).tolist()
        parts = zip(batch["index"], starts, samples, data)  # noqa: B905 - samples may have no end
        return [self._prediction(int(index), int(sample), start, part) for index, start, sample, part in parts]

    def _prediction(self, index: int, sample: int, start: list[int], data: Any) -> ImagePrediction:
        layout = self.patches.index.layout(index)
        assert layout is not None
        ndim = len(self.patches.patch)
        return ImagePrediction(
            data, layout.loop_axes + spatial_axes(ndim), layout.loop_shape + layout.grid.shape, index, sample,
            self.patches.names[index], start, ndim)

    def _item(self, cut: Cut) -> Item:
        patch: Any = torch.from_numpy(cut.pixels)
        crop = cut.crop
        item = {
            "patch": patch if self.transform is None else self.transform(patch),
            "image": cut.name,
            "index": crop.image,
            "start": torch.tensor(crop.start),
        }
        return item | {"sample": crop.sample} if self.patches.loops else item


class PatchDataset(_Patched, Dataset[Item]):
    """Patches of all images of a source, by number: image by image, plane by plane, row by row.

    Nothing is held but the size of each image: patch ``i`` is found by arithmetic. Images are opened when they are
    needed; each process keeps some open, and keeps decoded blocks for the patches that come next.

    Items are dicts, which the default collate function makes batches of: ``patch``, a tensor ``(C, Y, X)`` or
    ``(C, Z, Y, X)`` in the file's own dtype; ``image``, the image's name; ``index``, its number in the source;
    ``start``, the first pixel ``(y, x)`` or ``(z, y, x)`` in a tensor; and ``sample``, the number of the plane, where
    any image has axes S or T (or Z, for a 2-D patch): S outside, then T, then Z.

    Parameters
    ----------
    source
        As for `patchloom.predict`: a path, a pattern, a list, a manifest, a mapping of names to arrays, a `Source`.
    patch
        Size in pixels, one number or one an axis ((y, x), or (z, y, x) in 3-D).
    stride, overlap
        Pixels from patch to patch, or shared by neighbours; one excludes the other, and neither means no overlap.
    edge
        ``shift``: the last patch moves inward; ``pad``: it reaches over the edge; ``drop``: it is left out. An image
        that is smaller than a patch is one padded patch (none with ``drop``).
    pad, fill
        How to pad: ``reflect``, ``edge``, or ``constant`` with `fill`.
    axes, channels, level
        As for `patchloom.predict`.
    transform
        Applied to each patch; what it returns is the item's ``patch``.
    cache
        ``"memory"`` decodes all images now and keeps them, for images that fit. A size such as ``"512MB"``: decoded
        blocks that each process keeps; 128 MiB unless it is given.
    shape
        (y, x) of every image, where it is known to be the same for all: then no header is read now.
    on_error
        ``raise`` an error that names the image that cannot be read; or ``skip`` it: a batch is then shorter by its
        patches (or, where none of a batch can be read, holds the next patch that can), and `failures` names it,
        whichever process met it.

    Raises
    ------
    UsageError
        If options are wrong or exclude each other.
    SourceError
        If there are no images.
    ImageError
        If an image does not open, and `on_error` is ``raise``.

    Examples
    --------
    >>> dataset = PatchDataset({"a": np.zeros((64, 96), np.uint8)}, patch=32, stride=16)
    >>> len(dataset), dataset[-1]["start"]
    (15, tensor([32, 64]))
    """

    def __init__(
        self,
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
        transform: Transform | None = None,
        cache: str | int | None = None,
        shape: Sequence[int] | None = None,
        on_error: str = "raise",
    ) -> None:
        self.patches = _patches(
            source,
            patch,
            stride,
            overlap=overlap,
            edge=edge,
            pad=pad,
            fill=fill,
            axes=axes,
            channels=channels,
            level=level,
            cache=cache,
            shape=shape,
            on_error=on_error,
        )
        self.transform = transform

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, key: int | Crop) -> Item:
        """Patch number `key`, or one that starts anywhere (what `RandomCropSampler` draws).

        Raises
        ------
        IndexError
            If there is no such patch.
        ImageError
            If the image cannot be read there; the message names it.
        """
        item = self._readable(key)
        return item if item is not None else self._next_readable(key)

    def __getitems__(self, keys: Sequence[int | Crop]) -> list[Item]:
        """Patches of a batch; those that cannot be read are left out where the user asked for that."""
        items = [item for item in map(self._readable, keys) if item is not None]
        return items or [self._next_readable(keys[-1])]

    def number(self, index: int, start: Sequence[int], sample: int = 0) -> int | None:
        """Number of the patch of image `index` that starts at `start`, or None."""
        return self.patches.index.number(index, sample, start)

    def kept(self, skip: str | Filter | Callable[..., bool]) -> list[int]:
        """Numbers of the patches that a filter does not skip, for ``torch.utils.data.Subset``; reads every chunk once.

        Parameters
        ----------
        skip
            As for ``patchloom predict --skip``: ``"background"``, ``"variance:10"``, ``"mask:folder/"``, or a callable.
        """
        cuts = stream(self.patches, skip=as_filter(skip))
        numbers = (self.patches.index.number(cut.crop.image, cut.crop.sample, cut.crop.start) for cut in cuts)
        return [number for number in numbers if number is not None]

    def __repr__(self) -> str:
        failed = len(self.failures())
        return (
            f"<PatchDataset: {len(self):,} patches of {'x'.join(map(str, self.patches.patch))} out of "
            f"{len(self.images):,} images{f', {failed} skipped' if failed else ''}>"
        )

    def _readable(self, key: int | Crop) -> Item | None:
        try:
            cut = self.patches[key]
        except ImageError as error:
            crop = Crop(*key) if isinstance(key, tuple) else self.patches.crop(key)
            self.patches.give_up(crop.image, error)
            return None
        return self._item(cut)

    def _next_readable(self, key: int | Crop) -> Item:
        """First patch of the next image that can be read, beginning again at the first image after the last."""
        first, count = self.patches.index.first, len(self.images)
        begin = key[0] if isinstance(key, tuple) else self.patches.crop(key).image
        for image in (i % count for i in range(begin + 1, begin + 1 + count)):
            if not self.patches.unreadable[image] and first[image] < first[image + 1]:
                item = self._readable(int(first[image]))
                if item is not None:
                    return item
        raise ImageError("none of the images can be read", "see failures() of the dataset")


class PatchStream(_Patched, IterableDataset[Item]):
    """The same patches in order, such that each chunk of an image is decoded once.

    Planes are dealt out to the workers of a `DataLoader`, and to the ranks of a distributed run; every patch comes
    once. Only where there are fewer planes than these, planes are cut, and the chunks at the cuts are decoded twice.

    Parameters
    ----------
    source, patch, stride, overlap, edge, pad, fill, axes, channels, level, transform, shape
        As for `PatchDataset`.
    skip
        Leaves out patches: ``"background"``, ``"variance:10"``, ``"mask:folder/"``, or a callable, as for
        ``patchloom predict --skip``.
    on_error
        ``raise``, or ``skip`` images that cannot be read: nothing stands in for their patches.
    rank, world
        Of a distributed run; those of ``torch.distributed`` where it is in use.

    Examples
    --------
    >>> stream = PatchStream({"a": np.zeros((64, 96), np.uint8)}, patch=32)
    >>> [tuple(item["start"].tolist()) for item in stream][:2]
    [(0, 0), (0, 32)]
    """

    def __init__(
        self,
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
        transform: Transform | None = None,
        shape: Sequence[int] | None = None,
        skip: str | Filter | Callable[..., bool] | None = None,
        on_error: str = "raise",
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        self.patches = _patches(
            source,
            patch,
            stride,
            overlap=overlap,
            edge=edge,
            pad=pad,
            fill=fill,
            axes=axes,
            channels=channels,
            level=level,
            shape=shape,
            on_error=on_error,
        )
        self.transform, self._rank, self._world = transform, rank, world
        self._filter = None if skip is None else as_filter(skip)

    def __iter__(self) -> Iterator[Item]:
        rank, world = rank_and_world(self._rank, self._world)
        worker = get_worker_info()
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        cuts = stream(self.patches, share=rank * workers + number, shares=world * workers, skip=self._filter)
        for cut in cuts:
            yield self._item(cut)


def _patches(source: Any, patch: int | Sequence[int], stride: Any, *, on_error: str, **options: Any) -> Patches:
    patches = Patches(source, patch, stride, on_error=on_error, **options)
    if on_error == "skip":  # processes tell one another what they could not read
        patches.unreadable = torch.as_tensor(np.asarray(patches.unreadable)).share_memory_()
    return patches
