"""PNG: a map to look at."""

from __future__ import annotations

import colorsys
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from patchloom.errors import UsageError
from patchloom.export.blocks import blocks
from patchloom.export.export import Predictions, atomic, only_image

if TYPE_CHECKING:
    from patchloom.predictions.maps import StitchedMap

__all__ = ["PALETTE", "PngExport"]

LARGEST = 1 << 28
"""Pixels; a PNG is made in memory."""
BRIGHT = ["4477aa", "ee6677", "228833", "ccbb44", "66ccee", "aa3377", "bbbbbb", "000000", "e69f00", "009e73"]
"""Colours of the first classes, after Paul Tol's bright scheme: told apart by people who are colour-blind."""


class PngExport:
    """One image: class maps as palette images whose pixel values are the classes, one or three channels as grey or RGB.

    Scores are shown from 0 (black) to 1 (white). What was never predicted is transparent in class maps and black
    elsewhere. Class maps of more than 255 classes are 16-bit grey.
    """

    suffixes = (".png",)

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        picture = _picture(only_image(run, image).stitched(head, level))
        with atomic(path) as partial:
            picture.save(partial, "PNG", **({"transparency": picture.info["transparency"]}
                                            if "transparency" in picture.info else {}))


def _palette() -> tuple[tuple[int, int, int], ...]:
    """256 colours, no two alike: those of `BRIGHT`, then hues a golden angle apart."""
    colours = [tuple(bytes.fromhex(text)) for text in BRIGHT]
    for i in range(len(colours), 256):
        hue, saturation, value = i * 0.618034 % 1, (0.9, 0.6, 0.4)[i % 3], (0.95, 0.75, 0.55)[i // 3 % 3]
        colours.append(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value)))
    return tuple(colours)  # type: ignore[arg-type]


PALETTE = _palette()
"""Colour of each class."""


def _picture(stitched: StitchedMap) -> PIL.Image.Image:
    *leading, height, width = stitched.shape
    if height * width > LARGEST:
        raise UsageError(f"{height:,} x {width:,} pixels are too many for a PNG", "choose a smaller one with --level")
    channels = stitched.extent("C")
    if math.prod(leading) != channels or channels not in (1, 3):
        what = f"{channels} channels" if channels == math.prod(leading) else f"{math.prod(leading):,} planes"
        raise UsageError(f"a PNG does not hold {what}", "predict with --reduce argmax, or export to .tif or .npy")
    if "C" not in stitched.axes and stitched.dtype.kind in "iub":
        return _classes(stitched)
    if stitched.dtype.kind != "f" and stitched.dtype != np.uint8:
        raise UsageError(f"a PNG does not hold {stitched.dtype} channels", "export to .tif or .npy")
    pixels = np.empty((channels, height, width), np.uint8)
    for index in blocks(stitched):
        part = stitched[index].reshape(-1, *(s.stop - s.start for s in index[-2:]))
        at = slice(None) if "C" not in stitched.axes else index[stitched.axes.index("C")]
        pixels[(at, *index[-2:])] = part if part.dtype == np.uint8 else _grey(part)
    return PIL.Image.fromarray(pixels[0] if channels == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))


def _grey(scores: NDArray[Any]) -> NDArray[np.uint8]:
    clipped = np.nan_to_num(np.clip(scores.astype(np.float32), 0, 1))
    return np.rint(clipped * 255).astype(np.uint8)


def _classes(stitched: StitchedMap) -> PIL.Image.Image:
    """Palette image, or grey where there are too many classes; `nodata` has the largest number."""
    height, width = stitched.shape[-2:]
    wide = stitched.dtype.itemsize > 1
    nodata = 65535 if wide else 255
    pixels = np.empty((height, width), np.uint16 if wide else np.uint8)
    missing, largest = False, 0
    for index in blocks(stitched):
        part = stitched[index].reshape([s.stop - s.start for s in index[-2:]])
        gaps = part == stitched.nodata if part.dtype != np.bool_ else np.zeros(part.shape, np.bool_)
        known = part[~gaps]
        if known.size and not (known.min() >= 0 and known.max() <= nodata - bool(gaps.any())):
            raise UsageError(f"a PNG does not hold classes from {known.min()} to {known.max()}",
                             "export to .tif or .npy")
        largest, missing = max(largest, int(known.max(initial=0))), missing or bool(gaps.any())
        pixels[index[-2:]] = np.where(gaps, nodata, part)
    if wide and largest + missing > 255:
        return PIL.Image.fromarray(pixels)
    picture = PIL.Image.fromarray(pixels.astype(np.uint8))
    picture.putpalette([value for colour in PALETTE for value in colour])
    if missing:
        picture.info["transparency"] = 255
    return picture
