"""The picture that the demonstration leaves: what went in, what the model made of it, and what is true."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchloom.demo.quality import Confusion
from patchloom.demo.tissue import CLASSES

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

__all__ = ["COLOURS", "View", "draw_picture", "most_varied"]

COLOURS = {
    "background": (236, 238, 240), "stroma": (238, 178, 164), "fat": (246, 214, 106), "gland": (62, 160, 138),
    "lymphocytes": (70, 94, 178), "tumour": (186, 42, 84),
}
"""Red, green and blue of each class."""

PANEL, GAP, MARGIN = 512, 16, 16
WIDTH = 3 * PANEL + 2 * GAP + 2 * MARGIN
TITLE, HEADING, LEGEND = 72, 34, 62
INK, PALE, PAPER = (32, 36, 42), (116, 122, 130), (255, 255, 255)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """The same part of an image three times.

    Parameters
    ----------
    image
        uint8 of shape ``(Y, X, 3)``.
    predicted, truth
        uint8 of shape ``(Y, X)``, indices into the classes.
    spacing
        Micrometres a pixel.
    box
        Frame to draw: top, left, height, width as parts of the view's height and width.
    """

    image: Pixels
    predicted: Pixels
    truth: Pixels
    spacing: float
    box: tuple[float, float, float, float] | None = None


def most_varied(truth: Pixels, size: int) -> tuple[int, int]:
    """Where a square of `size` pixels holds the classes in the most equal parts: its first row and column."""
    best, place = -1.0, (0, 0)
    step = max(1, size // 2)
    for y in range(0, max(1, len(truth) - size), step):
        for x in range(0, max(1, truth.shape[1] - size), step):
            share = np.bincount(truth[y : y + size, x : x + size].ravel(), minlength=len(CLASSES)) / size**2
            variety = float(-(share * np.log(share + 1e-9)).sum())
            if variety > best:
                best, place = variety, (y, x)
    return place


def draw_picture(path: Path, title: str, whole: View, part: View, quality: Confusion) -> None:
    """Draw and save the picture.

    Parameters
    ----------
    path
        PNG to write.
    title
        Line above everything.
    whole, part
        Upper and lower row.
    quality
        Of the prediction, for the legend.
    """
    from PIL import Image, ImageDraw

    height = TITLE + 2 * (HEADING + PANEL) + LEGEND + MARGIN
    canvas = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, 20), title, INK, font=_font(27))
    top = TITLE
    for view in (whole, part):
        for column, (name, panel) in enumerate(_panels(view)):
            left = MARGIN + column * (PANEL + GAP)
            draw.text((left, top + 6), name, PALE, font=_font(17))
            canvas.paste(panel, (left + (PANEL - panel.width) // 2, top + HEADING))
            _frame(draw, left, top + HEADING, panel, view.box)
        _scale_bar(draw, MARGIN, top + HEADING + PANEL, view)
        top += HEADING + PANEL
    _legend(draw, top + 20, quality)
    _with_palette(canvas).save(path, optimize=True)


def _with_palette(canvas: Image.Image) -> Image.Image:
    """256 colours, those of the legend among them: half the size of the file, and no difference to the eye."""
    from PIL import Image

    exact = [*COLOURS.values(), PAPER, INK, PALE]
    found = canvas.quantize(256 - len(exact), method=Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(value for colour in exact for value in colour), *found[: 3 * (256 - len(exact))]])
    indices = np.array(canvas.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    pixels = np.asarray(canvas)
    for i, colour in enumerate(exact):  # Pillow looks colours up in cells of some shades
        indices[np.all(pixels == np.array(colour, np.uint8), axis=2)] = i
    reduced = Image.fromarray(indices)
    reduced.putpalette(palette.getpalette() or [])
    return reduced


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _panels(view: View) -> list[tuple[str, Image.Image]]:
    palette = np.array([COLOURS[name] for name in CLASSES] + [(0, 0, 0)], np.uint8)
    maps = [palette[np.minimum(labels, len(CLASSES))] for labels in (view.predicted, view.truth)]
    pictures = [_fitted(view.image, smooth=True), *(_fitted(colours, smooth=False) for colours in maps)]
    return list(zip(("input", "prediction", "truth"), pictures, strict=True))


def _fitted(pixels: Pixels, *, smooth: bool) -> Image.Image:
    from PIL import Image

    picture = Image.fromarray(pixels)
    factor = PANEL / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)


def _frame(draw: ImageDraw.ImageDraw, left: int, top: int, panel: Image.Image,
           box: tuple[float, float, float, float] | None) -> None:
    left += (PANEL - panel.width) // 2
    draw.rectangle((left - 1, top - 1, left + panel.width, top + panel.height), outline=(208, 212, 216))
    if box is not None:
        y, x, h, w = (part * extent for part, extent in zip(box, (panel.height, panel.width) * 2, strict=True))
        draw.rectangle((left + x - 1, top + y - 1, left + x + w + 1, top + y + h + 1), outline=INK, width=2)


def _scale_bar(draw: ImageDraw.ImageDraw, left: int, bottom: int, view: View) -> None:
    across = view.spacing * max(view.image.shape[:2]) / 1000
    length = max(n for k in range(-3, 4) for n in (10.0**k, 2 * 10.0**k, 5 * 10.0**k) if n <= across / 4)
    pixels = round(length / across * PANEL)
    text = f"{length:g} mm"
    draw.rectangle((left + 10, bottom - 44, left + 30 + pixels, bottom - 10), fill=PAPER)
    draw.rectangle((left + 20, bottom - 18, left + 20 + pixels, bottom - 15), fill=INK)
    draw.text((left + 20 + pixels / 2, bottom - 21), text, INK, font=_font(15), anchor="ms")


def _legend(draw: ImageDraw.ImageDraw, top: int, quality: Confusion) -> None:
    column = (WIDTH - 2 * MARGIN) // (len(CLASSES) + 1)
    for i, name in enumerate(CLASSES):
        left = MARGIN + i * column
        draw.rectangle((left, top + 2, left + 30, top + 34), fill=COLOURS[name], outline=(180, 184, 190))
        draw.text((left + 40, top), name, INK, font=_font(17))
        iou = f"IoU {quality.iou[name]:.2f}" if name in quality.iou else "does not occur"
        draw.text((left + 40, top + 20), iou, PALE, font=_font(15))
    left = MARGIN + len(CLASSES) * column
    draw.text((left, top), f"mean IoU {quality.mean_iou:.3f}", INK, font=_font(17))
    draw.text((left, top + 20), f"{quality.accuracy:.1%} of pixels right", PALE, font=_font(15))
