"""Scenes that look like stained tissue under a microscope, of any size, with the truth for every pixel.

A scene is a function of its seed: any block of it can be made alone, in any order, and fits its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from patchloom.demo.noise import Floats, Window, texture
from patchloom.demo.nuclei import Stamps, stamp_nuclei
from patchloom.demo.tissue import CLASSES, FAT, GLAND, STEP, STROMA, TUMOUR, Tissue, tissue

__all__ = ["CLASSES", "SCENES", "SPACING", "Scene"]

SPACING = 1.0
"""Micrometres a pixel."""
MARGIN = 16
"""Pixels made around a block, so that nuclei reach into it; more than `REACH`, and a multiple of `STEP`."""

HAEMATOXYLIN = (0.651, 0.701, 0.290)
EOSIN = (0.216, 0.801, 0.558)
"""Optical density in red, green and blue; QuPath's defaults for haematoxylin and eosin."""

#                     background stroma fat   gland lymph tumour
_EOSIN = np.array([0.010, 0.42, 0.03, 0.34, 0.24, 0.36], np.float32)
_HAEMATOXYLIN = np.array([0.004, 0.05, 0.01, 0.16, 0.18, 0.24], np.float32)


@dataclass(frozen=True)
class Scene:
    """One image and its truth.

    Parameters
    ----------
    name
        Path of the file below the folder of scenes, with ``/``.
    shape
        Height and width in pixels.
    seed
        Decides everything in it, the strength of its stain too.
    """

    name: str
    shape: tuple[int, int]
    seed: int

    @cached_property
    def _stamps(self) -> Stamps:
        return Stamps(self.seed)

    @cached_property
    def _textures(self) -> tuple[Floats, Floats]:
        return texture(512, 5.0, self.seed), texture(408, 14.0, self.seed + 1)

    @cached_property
    def _stain(self) -> tuple[Floats, Floats, Floats]:
        rng = np.random.default_rng([self.seed, 5])
        strength = np.exp(0.18 * rng.standard_normal(2))
        vectors = np.array([HAEMATOXYLIN, EOSIN]) * (1 + 0.10 * rng.standard_normal((2, 3)))
        white = 243 + 5 * rng.standard_normal(3).clip(-1.5, 1.5)
        matrix = (vectors * strength[:, None]).astype(np.float32)
        return matrix[0], matrix[1], white.astype(np.float32)

    def block(self, top: int, left: int, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Pixels and truth of one block.

        Parameters
        ----------
        top, left
            First row and column, multiples of 4.
        height, width
            In pixels.

        Returns
        -------
        rgb, truth
            uint8 of shape ``(height, width, 3)`` and ``(height, width)``; truth holds indices into `CLASSES`.
        """
        if top % STEP or left % STEP:
            raise ValueError(f"blocks begin at multiples of {STEP}, not at {top}, {left}")
        rows, columns = (-(-n // STEP) * STEP + 2 * MARGIN for n in (height, width))
        window = Window(top - MARGIN, left - MARGIN, rows, columns)
        here = tissue(self.seed, self.shape, window)
        blue, pink = self._densities(here, stamp_nuclei(self._stamps, self.seed, here, window), window)
        inner = slice(MARGIN, MARGIN + height), slice(MARGIN, MARGIN + width)
        return self._coloured(blue[inner], pink[inner]), np.ascontiguousarray(here.label[inner])

    def _densities(self, here: Tissue, nuclei: Floats, window: Window) -> tuple[Floats, Floats]:
        """Haematoxylin and eosin at each pixel of a window."""
        fine, coarse = (_repeated(pattern, window) for pattern in self._textures)
        pink, blue = _EOSIN[here.label], _HAEMATOXYLIN[here.label]
        stroma = here.label == STROMA
        bundles = np.sin(here.fibre)
        pink += stroma * (0.09 * bundles + 0.07 * coarse - 0.13 * np.maximum(0, -0.7 - bundles - 0.6 * coarse))
        membrane = (here.label == FAT) * np.maximum(0, 1 - here.membrane / 1.8)
        pink += 0.42 * membrane
        blue += 0.05 * membrane
        light = _light(here)
        pink *= light * here.thickness * (1 + 0.10 * fine + 0.10 * coarse)
        blue *= light * (1 + 0.15 * fine + 0.2 * coarse)
        np.maximum(blue, nuclei * (1 + 0.10 * fine) * here.thickness, out=blue)
        return _softened(blue) + 0.004 * fine, _softened(pink) + 0.003 * coarse

    def _coloured(self, blue: Floats, pink: Floats) -> NDArray[np.uint8]:
        """Pixels by the law of Beer and Lambert."""
        rgb = np.empty((*blue.shape, 3), np.uint8)
        for channel, (h, e, white) in enumerate(zip(*self._stain, strict=True)):
            light = np.exp(np.float32(-1.15) * (h * blue + e * pink))
            light *= white
            rgb[..., channel] = np.minimum(light, 255)
        return rgb


def _light(here: Tissue) -> Floats:
    """Factor on the cytoplasm: next to nothing in openings, paler towards the middle of a gland."""
    gland = here.label == GLAND
    opening = (gland & (here.gland < 0.36)) | ((here.label == TUMOUR) & (here.hole < 1))
    light = np.where(gland, np.float32(0.6) + np.float32(0.5) * here.gland, np.float32(1))
    light[opening] = 0.08
    return light


def _repeated(pattern: Floats, window: Window) -> Floats:
    rows = np.arange(window.top, window.top + window.height) % len(pattern)
    columns = np.arange(window.left, window.left + window.width) % len(pattern)
    return pattern[rows[:, None], columns[None, :]]


def _softened(density: Floats) -> Floats:
    """Blurred by 1, 2, 1 along both axes, as optics do."""
    rows = density.copy()
    rows[1:-1] += 0.5 * (density[:-2] + density[2:])
    both = rows.copy()
    both[:, 1:-1] += 0.5 * (rows[:, :-2] + rows[:, 2:])
    both *= 0.25
    return both


SCENES = (
    Scene("section.tif", (8192, 8192), 7),
    Scene("patient-1/biopsy.tif", (2048, 2560), 8),
    Scene("patient-2/biopsy.tif", (1536, 2304), 21),
    Scene("patient-3/biopsy.tif", (2000, 1700), 33),
    Scene("patient-4/biopsy.tif", (2304, 1792), 46),
)
"""What the demonstration predicts on; the model was trained on other seeds."""
