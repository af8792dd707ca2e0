"""What write strategies have in common: predictions are sorted by image, checked before any is kept, and counted."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, get_args

from patchloom.errors import IncompleteImageError, PredictionError, UsageError
from patchloom.writing.paths import Names
from patchloom.writing.prediction import ImagePrediction, ImageShape, Sample, checked
from patchloom.writing.strategy import OnIncomplete

__all__ = ["Collecting", "Gathering"]

SHOWN = 8
"""Incomplete images that a message names."""
Missing = tuple[str, int, int, int | None, str]
"""Name and data index of an image, how much of it there is, of how much, and of what."""


class Gathering(Protocol):
    """One image that is being put together. Making one touches neither disk nor memory."""

    what: str
    """What is counted: ``samples`` or ``tiles``."""

    @property
    def expected(self) -> int | None:
        """How many there are of them; None while that is not known."""

    def check(self, sample: Sample) -> bool:
        """Whether the sample is there already; raises PredictionError where it does not fit, and changes nothing."""

    def add(self, sample: Sample) -> None:
        """Take a checked sample."""

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""

    def finish(self, path: Path) -> None:
        """Write the image."""

    def discard(self) -> None:
        """Give memory and temporary files back."""


@dataclass
class _Image:
    name: str
    path: Path
    shape: ImageShape
    gathering: Gathering
    found: int = 0


class Collecting(ABC):
    """Base of strategies that put images together.

    Parameters
    ----------
    extension
        Of the files; see `Names`.
    on_incomplete
        ``"raise"`` or ``"warn"``: what `close` does about images that were never completed.
    """

    def __init__(self, extension: str | None, on_incomplete: OnIncomplete = "raise") -> None:
        if on_incomplete not in get_args(OnIncomplete):
            raise UsageError(f"on_incomplete is raise or warn, not {on_incomplete!r}", "choose one of the two")
        self._names = Names(extension)
        self._on_incomplete = on_incomplete
        self._images: dict[tuple[Path, int], _Image] = {}
        self._done: dict[tuple[Path, int], tuple[str, int]] = {}

    def _checked(self, prediction: ImagePrediction) -> Sample:
        """Check a prediction by itself."""
        return checked(prediction)

    @abstractmethod
    def _gather(self, folder: Path, path: Path, sample: Sample) -> Gathering:
        """Begin the image that `sample` is the first prediction of."""

    def write_batch(self, folder: Path, predictions: Sequence[ImagePrediction]) -> None:
        """See `WriteStrategy.write_batch`."""
        folder = Path(folder)
        batches: dict[tuple[Path, int], list[Sample]] = {}
        for prediction in predictions:
            sample = self._checked(prediction)
            batches.setdefault((folder, sample.data_index), []).append(sample)
        fresh = {key: self._begin(key, samples[0]) for key, samples in batches.items() if key not in self._images}
        for key, samples in batches.items():
            self._check(key, fresh.get(key) or self._images[key], samples)
        for key, samples in batches.items():
            image = fresh.get(key) or self._images[key]
            for sample in samples:
                image.gathering.add(sample)
                image.found += 1
                self._images[key] = image
        self._finish_complete()

    def close(self) -> None:
        """See `WriteStrategy.close`."""
        missing = self._forget()
        if missing:
            _report(missing, self._on_incomplete)

    def _forget(self) -> list[Missing]:
        """Give everything back; returns what was not complete."""
        missing: list[Missing] = [
            (image.name, key[1], image.found, image.gathering.expected, image.gathering.what)
            for key, image in self._images.items()
        ]
        for image in self._images.values():
            image.gathering.discard()
        self._images.clear()
        self._done.clear()
        self._names.next_session()
        return missing

    def _begin(self, key: tuple[Path, int], sample: Sample) -> _Image:
        folder, index = key
        if key in self._done:
            what, expected = self._done[key]
            raise _too_many(what, index, expected, expected + 1)
        path = self._names.path(folder, sample.source, index)
        return _Image(sample.source or path.name, path, sample.shape, self._gather(folder, path, sample))

    def _check(self, key: tuple[Path, int], image: _Image, samples: Sequence[Sample]) -> None:
        gathering, index = image.gathering, key[1]
        for sample in samples:
            difference = image.shape.difference(sample.shape)
            if difference:
                raise PredictionError(f"data index {index}: {difference}", "one data index is one image")
        expected = gathering.expected
        if expected is not None and image.found + len(samples) > expected:
            raise _too_many(gathering.what, index, expected, image.found + len(samples))
        seen = set()
        for sample in samples:
            if gathering.check(sample) or sample.key in seen:
                raise PredictionError(f"{sample} was given twice", "give each prediction once")
            seen.add(sample.key)

    def _finish_complete(self) -> None:
        for key, image in [item for item in self._images.items() if item[1].gathering.complete]:
            # Whatever comes of the writing, the image is not waited for any more.
            del self._images[key]
            try:
                image.gathering.finish(image.path)
                self._done[key] = (image.gathering.what, image.found)
            finally:
                image.gathering.discard()


def _report(missing: Sequence[Missing], on_incomplete: OnIncomplete) -> None:
    shown = [
        f"{name} (data index {index}): {found}{'' if expected is None else f' of {expected}'} {what}"
        for name, index, found, expected, what in missing[:SHOWN]
    ]
    more = [f"and {len(missing) - SHOWN} more"] if len(missing) > SHOWN else []
    count = "1 image was" if len(missing) == 1 else f"{len(missing)} images were"
    message = f"{count} never completed, and not written: {'; '.join(shown + more)}"
    if on_incomplete == "warn":
        warnings.warn(message, stacklevel=3)
        return
    raise IncompleteImageError(message, "hand over every sample and tile, or use on_incomplete='warn'")


def _too_many(what: str, index: int, expected: int, found: int) -> PredictionError:
    return PredictionError(
        f"more {what} for data index {index} than expected: expected {expected}, found {found}",
        "one data index is one image; close the strategy before the same images are predicted again",
    )
