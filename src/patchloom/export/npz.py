"""NPZ: all predictions of a run as NumPy arrays in one file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from patchloom.export.arrays import GrowingArray, GrowingTexts, head_values, write_map
from patchloom.export.container import Container, MemberNames
from patchloom.export.export import Predictions, atomic
from patchloom.export.rows import Rows, chosen_heads, runs_of_images
from patchloom.models.model import Head

__all__ = ["NpzExport"]

ORIGIN = ("s", "t", "z", "y", "x")


class NpzExport:
    """Arrays that ``numpy.load`` gives by name; written through temporary files: any size takes the same memory.

    Of heads that are numbers a patch, one row a patch: ``values`` (``values/<head>`` where there are several) of shape
    (n,) or (n, K), ``classes`` (``classes/<head>``) where these have names, ``image`` (which of ``images``), ``keys``
    (n, k) of the axes ``key_axes``, by which ``run[image]`` is indexed (-1 on an axis that an image does not have), and
    ``skipped`` where patches were skipped; their values are NaN, or the largest integer.

    Of heads that are maps, ``maps/<image>`` (``maps/<head>/<image>``), of the shape of ``run[image].stitched()``. What
    is no part of a file's name is replaced there: ``map_names`` has the names of these arrays, and ``map_images`` the
    image of each.
    """

    suffixes = (".npz",)

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        heads = chosen_heads(run, head)
        if image is not None:
            run[image]  # an unknown name is an error, not an empty file
        vectors = [one for one in heads if one.kind == "vector"]
        maps = [one for one in heads if one.kind == "dense"]
        with atomic(path) as partial, Container(partial) as container:
            if vectors:
                _write_rows(Rows(run, vectors, image), container, path.parent)
            if maps:
                names = run.images() if image is None else iter([image])
                with closing(GrowingTexts(path.parent)) as images, closing(GrowingTexts(path.parent)) as arrays:
                    _write_maps(run, maps, names, level, container, images, arrays, path.parent)
                    images.write(container, "map_images.npy")
                    arrays.write(container, "map_names.npy")


def _write_rows(rows: Rows, container: Container, folder: Path) -> None:
    axes = [name for name in ORIGIN if name in rows.key_columns]
    with ExitStack() as stack:
        images = stack.enter_context(closing(GrowingTexts(folder)))
        image = stack.enter_context(closing(GrowingArray(np.int64, (), folder)))
        keys = stack.enter_context(closing(GrowingArray(np.int64, (len(axes),), folder)))
        skipped = stack.enter_context(closing(GrowingArray(np.bool_, (), folder)))
        values = [stack.enter_context(closing(GrowingArray(head.dtype, head.shape, folder))) for head in rows.heads]
        last = None
        for batches in rows.by_head():
            for name, first, end in runs_of_images(batches[0]):
                if name != last:
                    images.append(name)
                    last = name
                image.append(np.full(end - first, images.count - 1))
            keys.append(np.stack([_integers(batches[0].column(axis)) for axis in axes], 1))
            skipped.append(_missing(batches[0]))
            for head, array, batch in zip(rows.heads, values, batches, strict=True):
                array.append(head_values(batch, head))
        images.write(container, "images.npy")
        image.write(container, "image.npy")
        keys.write(container, "keys.npy")
        _write_array(np.array("".join(axes).upper()), container, "key_axes.npy")
        if rows.has_gaps:
            skipped.write(container, "skipped.npy")
        for head, array in zip(rows.heads, values, strict=True):
            several = f"/{head.name}" if len(rows.heads) > 1 else ""
            array.write(container, f"values{several}.npy")
            if head.classes:
                _write_array(np.array(head.classes), container, f"classes{several}.npy")


def _write_maps(
    run: Predictions, heads: Sequence[Head], names: Any, level: int, container: Container, images: GrowingTexts,
    arrays: GrowingTexts, folder: Path,
) -> None:
    places = {head.name: MemberNames(f"maps/{head.name}" if len(heads) > 1 else "maps") for head in heads}
    for name in names:
        for head in heads:
            place = places[head.name].of(name, ".npy")
            write_map(run[name].stitched(head.name, level), container, place, folder)
            images.append(name)
            arrays.append(place.removesuffix(".npy"))


def _write_array(array: NDArray[Any], container: Container, name: str) -> None:
    content = io.BytesIO()
    np.save(content, array)
    with container.member(name, size=content.tell()) as file:
        file.write(content.getvalue())


def _integers(column: Any) -> NDArray[np.int64]:
    filled = pc.fill_null(column, -1) if column.null_count else column
    return np.asarray(filled.to_numpy(zero_copy_only=False), np.int64)


def _missing(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    return np.asarray(batch.column(batch.num_columns - 1).is_null().to_numpy(zero_copy_only=False), np.bool_)
