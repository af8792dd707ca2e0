"""What an archive says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from patchloom.export.rows import Rows
from patchloom.models.model import Head
from patchloom.predictions.patches import score_columns

__all__ = ["readme"]

MEANINGS = {
    "image": "name of the image",
    "s": "series or sample of the image, from 0",
    "t": "point in time, from 0",
    "slab": "place of the patch in the grid: on Z, from 0",
    "row": "place of the patch in the grid: from the top, from 0",
    "col": "place of the patch in the grid: from the left, from 0",
    "z": "first plane of the patch, or the plane that it is of",
    "y": "first pixel of the patch, from the top",
    "x": "first pixel of the patch, from the left",
    "depth": "planes of the patch",
    "height": "pixels of the patch within the image, from top to bottom",
    "width": "pixels of the patch within the image, from left to right",
}


def readme(
    heads: Sequence[Head], rows: Rows | None, metadata: str, *, predictions: bool, with_images: bool
) -> str:
    """Text that explains all files and columns of an archive.

    Parameters
    ----------
    heads
        Those that the archive has.
    rows
        Of the vector heads, if there are any.
    metadata
        Ending of the tables.
    predictions, with_images
        As the archive is written.
    """
    lines = ["Predictions of image patches, written by patchloom.", ""]
    dense = [head for head in heads if head.kind == "dense"]
    if rows is not None:
        lines += [f"metadata.{metadata}: one row a patch", *_columns(rows), ""]
    if dense or predictions:
        name = "metadata" if rows is None else "arrays"
        lines += [f"{name}.{metadata}: one row an image and head, in NPY files (numpy.load)", *_arrays(dense), ""]
    lines += [f"images.{metadata}: one row an image", *_pairs({
        "image": MEANINGS["image"],
        "path": "where it was read from, if it was a file",
        **({"file": "its copy in this archive"} if with_images else {}),
    })]
    return "\n".join(lines) + "\n"


def _columns(rows: Rows) -> Iterator[str]:
    meanings = {name: MEANINGS[name] for name in rows.key_columns}
    scores = iter(rows.columns[len(meanings) :])
    for head in rows.heads:
        for name, label in zip(score_columns(head), head.classes or ("",), strict=False):
            what = f"{label!r}, " if name != "prediction" else ""
            meanings[next(scores)] = f"prediction: {what}{head.dtype.name}{_listed(head, name)}"
    if rows.has_gaps:
        meanings["(empty)"] = "predictions of patches that were skipped"
    yield from _pairs(meanings)


def _listed(head: Head, name: str) -> str:
    return f", a list of {head.shape[0]} numbers" if name == "prediction" and head.shape else ""


def _arrays(dense: Sequence[Head]) -> Iterator[str]:
    yield from _pairs({
        "image": MEANINGS["image"],
        "head": "output of the model",
        "file": "NPY file in this archive",
        "shape": "extents of its axes",
        "dtype": "type of its numbers",
        "axes": "S series, T time, C channel or class, Z Y X space; N patches in the order of the rows",
    })
    for head in dense:
        if head.channels is not None:
            yield f"  channels of head {head.name}: {', '.join(head.classes)}"


def _pairs(meanings: dict[str, str]) -> Iterator[str]:
    width = max(map(len, meanings))
    return (f"  {name:<{width}}  {meaning}" for name, meaning in meanings.items())
