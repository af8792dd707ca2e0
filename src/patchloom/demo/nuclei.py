"""Cell nuclei: a few dozen drawn once per section, and stamped wherever the tissue has one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchloom.demo.noise import Floats, Window, jittered
from patchloom.demo.tissue import BACKGROUND, FAT, GLAND, LYMPHOCYTES, STROMA, TUMOUR, Tissue

__all__ = ["REACH", "Stamps", "stamp_nuclei"]

REACH = 12
"""No nucleus reaches further than this from its centre, in pixels."""
TURNS = 12
"""Directions in which each kind of nucleus is drawn, over half a turn."""
VARIANTS = 6


@dataclass(frozen=True)
class Kind:
    """One kind of nucleus and where it sits.

    Parameters
    ----------
    cell
        Distance between neighbours in pixels.
    share
        Part of the places that hold a nucleus.
    long, short
        Half axes in pixels, the mean over nuclei.
    spread
        How much size varies, as a part of it.
    bumps
        How irregular the outline is, as a part of the radius.
    dark
        Haematoxylin it takes, the mean over nuclei.
    grain
        How much that varies within a nucleus.
    """

    cell: float
    share: float
    long: float
    short: float
    spread: float
    bumps: float
    dark: float
    grain: float


KINDS = {
    "tumour": Kind(11.0, 0.86, 5.6, 4.4, 0.28, 0.14, 0.88, 0.32),
    "gland": Kind(8.0, 0.92, 4.4, 3.2, 0.12, 0.05, 0.85, 0.18),
    "lymphocyte": Kind(7.6, 0.90, 3.2, 2.9, 0.12, 0.05, 1.25, 0.12),
    "fibroblast": Kind(20.0, 0.38, 7.0, 1.8, 0.25, 0.10, 0.75, 0.15),
    "stray": Kind(31.0, 0.30, 3.3, 3.0, 0.12, 0.05, 1.20, 0.12),
}


class Stamps:
    """Nuclei of every kind, direction and variant as small float32 pictures of their haematoxylin."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.of = {name: [_drawn(rng, kind, np.pi * turn / TURNS) for turn in range(TURNS) for _ in range(VARIANTS)]
                   for name, kind in KINDS.items()}


def _drawn(rng: np.random.Generator, kind: Kind, angle: float) -> Floats:
    size = float(np.exp(kind.spread * np.clip(rng.standard_normal(), -1.5, 1.5)))
    n = min(REACH, int(np.ceil(max(kind.long, kind.short) * size * (1 + 2 * kind.bumps))) + 2)
    y, x = np.mgrid[-n : n + 1, -n : n + 1].astype(np.float32)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    around = np.arctan2(across, along)
    waves = [kind.bumps / k * rng.standard_normal() * np.cos(k * around + rng.uniform(0, 6.3)) for k in (2, 3, 4)]
    outline = 1 + sum(waves)
    radius = np.hypot(along / (kind.long * size), across / (kind.short * size)) / np.maximum(outline, 0.5)
    edge = np.clip((1 - radius) * kind.short * size / 1.3 + 0.5, 0, 1)
    chromatin = 0.5 + 0.5 * np.cos(y * rng.uniform(0.7, 1.4) + rng.uniform(0, 6)) * np.cos(x * rng.uniform(0.7, 1.4))
    inner = 1 - kind.grain * chromatin * (radius < 0.85) + 0.15 * (radius > 0.75)
    dark = kind.dark * np.exp(0.14 * rng.standard_normal())
    return np.asarray(edge * inner * dark, np.float32)


def stamp_nuclei(stamps: Stamps, seed: int, tissue: Tissue, window: Window) -> Floats:
    """Haematoxylin of all nuclei of a window.

    Parameters
    ----------
    stamps
        Of the section.
    seed
        Which section.
    tissue
        Of the window.
    window
        The outer `REACH` pixels lack the nuclei whose centres are outside.

    Returns
    -------
    numpy.ndarray
        float32 of the window's shape; where nuclei overlap, the darkest.
    """
    height, width = tissue.label.shape
    canvas = np.zeros((height + 2 * REACH, width + 2 * REACH), np.float32)
    for name, y, x, which in _placed(seed, tissue, window):
        pictures = stamps.of[name]
        for row, column, picture in zip(y.tolist(), x.tolist(), which.tolist(), strict=True):
            stamp = pictures[picture]
            n = len(stamp) // 2
            view = canvas[row + REACH - n : row + REACH + n + 1, column + REACH - n : column + REACH + n + 1]
            np.maximum(view, stamp, out=view)
    return canvas[REACH:-REACH, REACH:-REACH]


Indices = NDArray[np.intp]


def _placed(seed: int, tissue: Tissue, window: Window) -> Iterator[tuple[str, Indices, Indices, Indices]]:
    height, width = tissue.label.shape
    for number, (name, kind) in enumerate(KINDS.items()):
        points = jittered(window, 0, size=kind.cell, jitter=0.75, seed=seed * 31 + number)
        y, x = np.rint(points.y - window.top).astype(np.intp), np.rint(points.x - window.left).astype(np.intp)
        kept = (points.random(2) < kind.share) & (y >= 0) & (x >= 0) & (y < height - 1) & (x < width - 1)
        kept[kept] = _belongs(name, tissue, y[kept], x[kept], points.random(3)[kept])
        y, x = y[kept], x[kept]
        turn = _direction(name, tissue, y, x, points.random(4)[kept])
        which = turn * VARIANTS + (points.random(5)[kept] * VARIANTS).astype(np.intp)
        yield name, y, x, which


def _belongs(name: str, tissue: Tissue, y: Indices, x: Indices, chance: Floats) -> NDArray[np.bool_]:
    label = tissue.label[y, x]
    if name == "tumour":
        return np.asarray((label == TUMOUR) & (tissue.hole[y, x] > 1.15))
    if name == "gland":
        rho = tissue.gland[y, x]
        return np.asarray((label == GLAND) & (rho > 0.66) & (rho < 0.93))
    if name == "lymphocyte":
        return np.asarray(label == LYMPHOCYTES)
    if name == "fibroblast":
        return np.asarray((label == STROMA) | ((label == FAT) & (tissue.membrane[y, x] < 1.5) & (chance < 0.6)))
    density = 0.25 + 0.75 * (tissue.thickness[y, x] > 1.05)
    return np.asarray((label != BACKGROUND) & (label != FAT) & (chance < density))


def _direction(name: str, tissue: Tissue, y: Indices, x: Indices, chance: Floats) -> Indices:
    if name not in ("fibroblast", "gland"):
        return (chance * TURNS).astype(np.intp)
    field = tissue.fibre if name == "fibroblast" else tissue.gland
    dy, dx = field[y + 1, x] - field[y, x], field[y, x + 1] - field[y, x]
    along_level = np.arctan2(-dx, dy) if name == "fibroblast" else np.arctan2(dy, dx)
    return np.rint(along_level / np.pi * TURNS).astype(np.intp) % TURNS
