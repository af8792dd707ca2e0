"""Where which tissue is: fields that are positive inside, on a mesh of `STEP` pixels, for any window of a section."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchloom.demo.noise import Floats, Window, jittered, mesh_noise, upsampled

__all__ = ["CLASSES", "STEP", "Tissue", "tissue"]

CLASSES = ("background", "stroma", "fat", "gland", "lymphocytes", "tumour")
"""Names of the truth's values, 0 first."""
BACKGROUND, STROMA, FAT, GLAND, LYMPHOCYTES, TUMOUR = range(len(CLASSES))
STEP = 4


@dataclass(frozen=True)
class Scatter:
    """Ellipses about `cell` pixels apart, of a `radius` from … to; `share` of the cells hold one."""

    seed: int
    cell: float
    radius: tuple[float, float]
    share: float


class Mesh:
    """Points every `STEP` pixels from the first of a window to the one after its last."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.y = np.arange(window.top, window.top + window.height + STEP, STEP, dtype=np.float32)
        self.x = np.arange(window.left, window.left + window.width + STEP, STEP, dtype=np.float32)

    def around(self, y: float, x: float, reach: float) -> tuple[slice, slice]:
        """Index of the points that are at most `reach` pixels from a place along both axes."""
        rows = np.searchsorted(self.y, (y - reach, y + reach))
        columns = np.searchsorted(self.x, (x - reach, x + reach))
        return slice(*rows), slice(*columns)


@dataclass(frozen=True)
class Tissue:
    """What a window of a section consists of; each field is float32 of the window's shape.

    Parameters
    ----------
    label
        uint8 of the window's shape, an index into `CLASSES`.
    fibre
        Phase of the collagen bundles; its level lines are their direction.
    membrane
        Distance from the nearest membrane between two fat cells, in pixels.
    gland
        0 at the centre of a gland, 1 at its rim.
    hole
        Likewise for the irregular openings in the tumour.
    thickness
        Factor about 1 on all staining.
    """

    label: NDArray[np.uint8]
    fibre: Floats
    membrane: Floats
    gland: Floats
    hole: Floats
    thickness: Floats


def tissue(seed: int, section: tuple[int, int], window: Window) -> Tissue:
    """Tissue of a window.

    Parameters
    ----------
    seed
        Which section.
    section
        Height and width of the whole section in pixels.
    window
        Multiples of `STEP`.
    """
    mesh = Mesh(window)

    def noise(step: float, which: int) -> Floats:
        return mesh_noise(mesh.y, mesh.x, step, seed * 1009 + which)

    rough = noise(40, 1)
    inside = _outline(mesh.y, mesh.x, section) + 0.16 * noise(0.27 * min(section), 2)
    inside += 0.08 * noise(330, 3) + 0.045 * noise(110, 4) + 0.02 * rough
    tumour = 0.8 * noise(1100, 5) + 0.5 * noise(420, 6) + 0.45 * noise(130, 7) + 0.25 * rough - 0.7
    fat = 0.9 * noise(600, 8) + 0.35 * noise(160, 9) + 0.12 * rough - 1.2 * inside - 0.6
    gland = _distance(mesh, Scatter(seed + 11, cell=150, radius=(44, 74), share=0.85))
    gland += 0.10 * rough + 0.06 * noise(90, 10)
    gland += np.maximum(0, 0.15 - noise(900, 12)) * 3
    lymphocytes = _distance(mesh, Scatter(seed + 13, cell=400, radius=(50, 150), share=0.7))
    lymphocytes += 0.16 * noise(70, 14) + 0.10 * rough
    lymphocytes += 2 * np.maximum(0, 0.1 - noise(750, 15))
    hole = _distance(mesh, Scatter(seed + 17, cell=74, radius=(6, 17), share=0.35)) + 0.2 * rough
    fibre = 52 * noise(260, 18) + 9 * noise(85, 19) + 1.5 * noise(24, 20)
    full = [upsampled(np.asarray(field, np.float32), STEP) for field in
            (inside, tumour, fat, gland, lymphocytes, hole, fibre, _membranes(mesh, seed + 21),
             1 + 0.10 * noise(800, 22) + 0.05 * noise(70, 23))]
    return Tissue(_labels(*full[:5]), full[6], full[7], full[3], full[5], full[8])


def _labels(inside: Floats, tumour: Floats, fat: Floats, gland: Floats, lymphocytes: Floats) -> NDArray[np.uint8]:
    label = np.full(inside.shape, STROMA, np.uint8)
    label[fat > 0] = FAT
    label[gland < 1] = GLAND
    label[tumour > 0] = TUMOUR
    label[lymphocytes < 1] = LYMPHOCYTES
    label[inside < 0] = BACKGROUND
    return label


def _outline(y: Floats, x: Floats, section: tuple[int, int]) -> Floats:
    v, u = ((axis / extent - 0.5) * 2 for axis, extent in zip((y, x), section, strict=True))
    return np.asarray(0.72 - 0.95 * ((np.abs(v) ** 3)[:, None] + (np.abs(u) ** 3)[None, :]) ** (1 / 1.5), np.float32)


def _distance(mesh: Mesh, scatter: Scatter) -> Floats:
    """Distance from the nearest of many scattered ellipses, 1 at its rim, at most 2."""
    y, x = mesh.y, mesh.x
    points = jittered(mesh.window, 1.6 * scatter.radius[1], size=scatter.cell, jitter=0.95, seed=scatter.seed)
    least, most = scatter.radius
    radius = least + (most - least) * points.random(3)
    stretch = 1 + 0.35 * (points.random(4) - 0.5)
    angle = np.pi * points.random(5)
    nearest = np.full((len(y), len(x)), np.float32(2))
    for i in np.flatnonzero(points.random(2) < scatter.share):
        here = mesh.around(points.y[i], points.x[i], 2 * radius[i])
        dy, dx = (y[here[0], None] - points.y[i]) / radius[i], (x[None, here[1]] - points.x[i]) / radius[i]
        along, across = np.cos(angle[i]) * dx + np.sin(angle[i]) * dy, np.cos(angle[i]) * dy - np.sin(angle[i]) * dx
        distance = np.hypot(along * stretch[i], across / stretch[i])
        np.minimum(nearest[here], np.where(distance < 1.9, distance, 2), out=nearest[here])
    return nearest


def _membranes(mesh: Mesh, seed: int, cell: float = 58.0) -> Floats:
    """Half the difference between the distances of the nearest and second nearest of scattered points."""
    points = jittered(mesh.window, 2 * cell, size=cell, jitter=0.8, seed=seed)
    nearest = np.full((len(mesh.y), len(mesh.x)), np.float32(4 * cell))
    second = nearest.copy()
    for y, x in zip(points.y, points.x, strict=True):
        here = mesh.around(y, x, 2 * cell)
        distance = np.hypot(mesh.y[here[0], None] - y, mesh.x[None, here[1]] - x).astype(np.float32)
        np.minimum(second[here], np.maximum(nearest[here], distance), out=second[here])
        np.minimum(nearest[here], distance, out=nearest[here])
    return np.asarray((second - nearest) / 2, np.float32)
