"""Names of axes and their order."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["AXES", "LOOP_AXES", "check_axes", "spatial_axes"]

AXES = "STCZYX"
"""All axes, in OME order: series or sample, time, channel, depth, row, column."""
LOOP_AXES = "ST"
"""Axes that no model sees; Z joins them where the model is 2-D."""


def check_axes(axes: str, shape: Sequence[int] | None = None) -> str:
    """Return `axes` in capitals, or raise ValueError with what is wrong with them.

    Parameters
    ----------
    axes
        Letters out of ``STCZYX``, each at most once, Y and X among them.
    shape
        Extents that the letters must match in number.
    """
    axes = axes.upper()
    unknown = [letter for letter in axes if letter not in AXES]
    if unknown or len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes):
        raise ValueError(f"axes are letters out of {AXES}, each once, Y and X among them, not {axes!r}")
    if shape is not None and len(shape) != len(axes):
        raise ValueError(f"axes {axes!r} name {len(axes)} axes and the array of shape {tuple(shape)} has {len(shape)}")
    return axes


def spatial_axes(ndim: int) -> str:
    """Axes that a model of `ndim` spatial dimensions sees: ``YX`` or ``ZYX``."""
    return "ZYX"[-ndim:]
