"""PNG: a map to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from patchloom.errors import UsageError
from patchloom.export.export import Predictions, atomic, only_image

if TYPE_CHECKING:
    from patchloom.predictions.maps import StitchedMap

__all__ = ["PALETTE", "PngExport"]

LARGEST = 1 << 28
"""Pixels; a PNG is made in memory."""
PALETTE = (
    (68, 119, 170),
    (238, 102, 119),
    (34, 136, 51),
    (204, 187, 68),
    (102, 204, 238),
    (170, 51, 119),
    (187, 187, 187),
    (0, 0, 0),
    (230, 159, 0),
    (0, 158, 115),
)
"""Colours of classes, after Paul Tol's bright scheme: told apart by people who are colour-blind."""


class PngExport:
    """Class maps as palette images whose pixel values are the classes, scores from 0 to 1 as grey, 3 x uint8 as RGB."""

    suffixes = (".png",)

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        stitched = only_image(run, image).stitched(head, level)
        picture = _picture(stitched)
        with atomic(path) as partial:
            picture.save(partial, "PNG")


def _picture(stitched: StitchedMap) -> PIL.Image.Image:
    *leading, height, width = stitched.shape
    if height * width > LARGEST:
        raise UsageError(f"{height:,} x {width:,} pixels are too many for a PNG", "choose a smaller one with --level")
    channels = stitched.shape[stitched.axes.index("C")] if "C" in stitched.axes else 1
    if int(np.prod(leading)) != channels or channels not in (1, 3):
        what = f"{channels} channels" if channels > 1 else f"{int(np.prod(leading))} planes"
        raise UsageError(f"a PNG does not hold {what}", "predict with --reduce argmax, or export to .tif or .npy")
    pixels = np.asarray(stitched).reshape(channels, height, width)
    if pixels.dtype.kind == "f":
        grey = np.nan_to_num(np.clip(pixels, 0, 1)) * 255
        pixels = np.rint(grey).astype(np.uint8)
    elif "C" not in stitched.axes:
        return _classes(pixels[0], stitched.nodata)
    if pixels.dtype != np.uint8:
        raise UsageError(f"a PNG does not hold {pixels.dtype} channels", "export to .tif or .npy")
    return PIL.Image.fromarray(pixels[0] if channels == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))


def _classes(pixels: NDArray[Any], nodata: float | int) -> PIL.Image.Image:
    if pixels.dtype != np.uint8:
        if pixels.dtype.kind not in "iub" or (pixels.size and not 0 <= int(pixels.min()) <= int(pixels.max()) <= 65535):
            raise UsageError(f"a PNG does not hold {pixels.dtype} classes", "export to .tif or .npy")
        if pixels.dtype == bool or (pixels.size and int(pixels.max()) < 256):
            pixels = pixels.astype(np.uint8)
        else:
            return PIL.Image.fromarray(pixels.astype(np.uint16))
    picture = PIL.Image.fromarray(pixels)
    colours = [colour for i in range(256) for colour in PALETTE[i % len(PALETTE)]]
    picture.putpalette(colours)
    if 0 <= nodata < 256:
        picture.info["transparency"] = int(nodata)
    return picture
