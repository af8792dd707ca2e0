"""Random and centre patches as transforms, to stand beside those of torchvision, which need not be installed."""

from __future__ import annotations

import importlib
import secrets
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np

from patchloom.config import Pad
from patchloom.errors import UsageError
from patchloom.loop import arrays
from patchloom.loop.batches import numbers

__all__ = ["CentrePatch", "RandomPatch"]

Start = tuple[int, ...]


class _Crop(ABC):
    """Finds the images among the inputs, and cuts the same patch out of all of them."""

    def __init__(
        self, patch: int | Sequence[int], *, pad: Pad | None = None, fill: float = 0, with_start: bool = False
    ) -> None:
        self.patch = numbers(patch, "patch", 3 if hasattr(patch, "__len__") and len(patch) == 3 else 2)
        if min(self.patch) < 1:
            raise UsageError(f"patch {self.patch} is at least 1 pixel")
        if pad is not None and pad not in get_args(Pad):
            raise UsageError(f"pad is one of {', '.join(get_args(Pad))}, not {pad!r}")
        self.pad, self.fill, self.with_start = pad, fill, with_start

    @abstractmethod
    def _start(self, size: tuple[int, ...]) -> Start:
        """First pixel of the patch in an image of `size`, which may be smaller than the patch."""

    def __call__(self, *inputs: Any) -> Any:
        """The inputs, with the same patch of all images among them.

        Raises
        ------
        UsageError
            If there is no image, an image is smaller than the patch and `pad` is not given, or images differ in size.
        """
        given = inputs[0] if len(inputs) == 1 else inputs
        size = self._size_in(given)
        if size is None:
            raise UsageError(
                f"no image of {len(self.patch)} spatial axes among the inputs",
                "an image is a tensor (…, Y, X), an array (Y, X) or (Y, X, C), or of PIL; three numbers in patch: 3-D",
            )
        if self.pad is None and any(n < p for n, p in zip(size, self.patch, strict=True)):
            raise UsageError(
                f"the image of {_pixels(size)} pixels is smaller than the patch of {_pixels(self.patch)}",
                'give pad="reflect", pad="edge" or pad="constant"',
            )
        start = self._start(size)
        cropped = _mapped(given, lambda value: self._cropped(value, start, size))
        return (cropped, start) if self.with_start else cropped

    def _size_in(self, value: Any) -> tuple[int, ...] | None:
        if _is_container(value):
            entries = value.values() if isinstance(value, Mapping) else value
            return next(filter(None, map(self._size_in, entries)), None)
        return None if _is_shape_annotation(value) else _size(value, len(self.patch))

    def _cropped(self, value: Any, start: Start, size: tuple[int, ...]) -> Any:
        if _is_shape_annotation(value):
            functional = importlib.import_module("torchvision.transforms.v2.functional")
            return functional.crop(value, *start, *self.patch)
        own = _size(value, len(self.patch))
        if own is None:
            return value
        if own == size:
            return _cut(value, start, self.patch, self.pad or "edge", self.fill)
        if _is_pil(value) or all(n >= p for n, p in zip(own, self.patch, strict=True)):
            raise UsageError(
                f"one image has {_pixels(size)} pixels, another {_pixels(own)}",
                "give images and masks of one size, in the same order of axes",
            )
        return value


class RandomPatch(_Crop):
    """A patch at a random place, every place as likely as any other.

    Takes a tensor ``(…, Y, X)``, a NumPy array ``(Y, X)`` or ``(Y, X, C)``, an image of PIL, or several of them: as
    arguments (image, mask), or in a tuple, list or dict. All images get the same patch; what is no image of the first
    one's height and width (labels, boxes, names) is passed on as it is. With three numbers in `patch`, tensors are
    ``(…, Z, Y, X)`` and arrays ``(Z, Y, X)`` or ``(Z, Y, X, C)``. Patches of tensors and arrays are views.

    Parameters
    ----------
    patch
        Pixels: one number, or (y, x), or (z, y, x).
    seed
        In the main process, places are those of a generator with this seed. Each worker of a DataLoader has a
        generator of its own, seeded with this seed and the worker's, which PyTorch draws anew each epoch: no two
        workers and no two epochs get the same places, and ``torch.manual_seed`` makes them all reproducible. Without a
        seed, one is drawn from PyTorch's generator if PyTorch is imported, otherwise from the operating system.
    pad, fill
        How images smaller than the patch are continued at their end: `reflect`, `edge`, or `constant` with the value
        `fill`. By default they are an error.
    with_start
        Return ``(result, start)``, where `start` is the first pixel, (y, x), of the patch.

    Raises
    ------
    UsageError
        If an image is smaller than the patch and `pad` is not given, if images differ in size, or there is none.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(100).reshape(10, 10)
    >>> crop = RandomPatch(4, seed=7, with_start=True)
    >>> patch, (y, x) = crop(image)
    >>> patch.shape, bool(patch[0, 0] == image[y, x])
    ((4, 4), True)
    """

    def __init__(
        self,
        patch: int | Sequence[int],
        *,
        seed: int | None = None,
        pad: Pad | None = None,
        fill: float = 0,
        with_start: bool = False,
    ) -> None:
        super().__init__(patch, pad=pad, fill=fill, with_start=with_start)
        self.seed = seed
        self._worker: int | None = None
        self._generator: np.random.Generator | None = None

    def __repr__(self) -> str:
        return f"RandomPatch({self.patch}, seed={self.seed}, pad={self.pad!r})"

    def _start(self, size: tuple[int, ...]) -> Start:
        last = (max(0, n - p) for n, p in zip(size, self.patch, strict=True))
        generator = self._generator_here()
        return tuple(int(generator.integers(n, endpoint=True)) for n in last)

    def _generator_here(self) -> np.random.Generator:
        worker = _worker_seed()
        if self._generator is None or worker != self._worker:
            seed = _drawn_seed() if self.seed is None else self.seed
            self._generator = np.random.default_rng(seed if worker is None else [seed, worker])
            self._worker = worker
        return self._generator


class CentrePatch(_Crop):
    """The patch in the middle; takes and returns what `RandomPatch` does.

    Parameters
    ----------
    patch
        Pixels: one number, or (y, x), or (z, y, x).
    pad, fill
        How images smaller than the patch are continued on both sides: `reflect`, `edge`, or `constant` with the value
        `fill`. By default they are an error.
    with_start
        Return ``(result, start)``, where `start` is the first pixel, (y, x), of the patch; negative where it is padded.

    Raises
    ------
    UsageError
        If an image is smaller than the patch and `pad` is not given, if images differ in size, or there is none.

    Examples
    --------
    >>> import numpy as np
    >>> CentrePatch(2)(np.arange(16).reshape(4, 4)).tolist()
    [[5, 6], [9, 10]]
    """

    def __repr__(self) -> str:
        return f"CentrePatch({self.patch}, pad={self.pad!r})"

    def _start(self, size: tuple[int, ...]) -> Start:
        return tuple((n - p) // 2 for n, p in zip(size, self.patch, strict=True))


# Seeds


def _worker_seed() -> int | None:
    """Seed of the DataLoader's worker that this runs in; None in the main process."""
    torch = sys.modules.get("torch")
    worker = None if torch is None else torch.utils.data.get_worker_info()
    return None if worker is None else int(worker.seed)


def _drawn_seed() -> int:
    torch = sys.modules.get("torch")
    return secrets.randbits(62) if torch is None else int(torch.randint(2**62, ()))


# Inputs


def _is_container(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nest of dicts, lists and tuples with each entry changed."""
    if isinstance(value, Mapping):
        return {name: _mapped(entry, change) for name, entry in value.items()}
    if hasattr(value, "_fields"):
        return type(value)(*(_mapped(entry, change) for entry in value))
    if _is_container(value):
        return type(value)(_mapped(entry, change) for entry in value)
    return change(value)


def _is_pil(value: Any) -> bool:
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(value, pil.Image)


def _is_shape_annotation(value: Any) -> bool:
    """Whether this is of torchvision and drawn in coordinates (boxes, key points), which move with the patch."""
    kinds = sys.modules.get("torchvision.tv_tensors")
    if kinds is None or not isinstance(value, kinds.TVTensor):
        return False
    return not isinstance(value, (kinds.Image, kinds.Video, kinds.Mask))


def _size(value: Any, ndim: int) -> tuple[int, ...] | None:
    """Pixels on each spatial axis; None if `value` is no image."""
    if _is_pil(value):
        return (value.height, value.width) if ndim == 2 else None
    axes = _spatial_axes(value, ndim)
    return None if axes is None else tuple(value.shape[axis] for axis in axes)


def _spatial_axes(value: Any, ndim: int) -> range | None:
    if arrays.torch_of(value) is not None:
        return range(value.ndim - ndim, value.ndim) if value.ndim >= ndim else None
    is_image = isinstance(value, np.ndarray) and value.ndim in (ndim, ndim + 1)
    return range(ndim) if is_image else None


def _pixels(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


# Patches


def _cut(image: Any, start: Start, patch: tuple[int, ...], pad: Pad, fill: float) -> Any:
    if _is_pil(image):
        return _cut_pil(image, start, patch, pad, fill)
    axes = _spatial_axes(image, len(patch))
    assert axes is not None
    cut = image
    for axis, first, length in zip(axes, start, patch, strict=True):
        cut = arrays.strip(cut, axis, first, length, pad, fill)
    kinds = sys.modules.get("torchvision.tv_tensors")
    is_kind = kinds is not None and isinstance(image, kinds.TVTensor)
    return kinds.wrap(cut, like=image) if kinds is not None and is_kind else cut


def _cut_pil(image: Any, start: Start, patch: tuple[int, ...], pad: Pad, fill: float) -> Any:
    (y, x), (height, width) = start, patch
    if y >= 0 and x >= 0 and y + height <= image.height and x + width <= image.width:
        return image.crop((x, y, x + width, y + height))
    pil = sys.modules["PIL.Image"]
    bands = image.split()
    if len(bands) > 1:
        return pil.merge(image.mode, [_cut_pil(band, start, patch, pad, fill) for band in bands])
    padded = pil.fromarray(_cut(np.asarray(image), start, patch, pad, fill))
    if image.mode == "P":
        padded.putpalette(image.getpalette())
    return padded
