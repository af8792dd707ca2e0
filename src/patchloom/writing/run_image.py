"""One image of a run that is filled from outside the engine: tiles go to the units that they contribute to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from patchloom.engine.shapes import part_shape
from patchloom.engine.stitch import UnitMap
from patchloom.engine.work import ImageWork, UnitPart
from patchloom.geometry.grid import Grid
from patchloom.geometry.placing import Placing
from patchloom.geometry.region import Region
from patchloom.images.array import ArrayImage
from patchloom.predictions.layout import PlaneInfo, RunLayout
from patchloom.writing.prediction import ImageShape, Sample
from patchloom.writing.run_folder import RunFolder
from patchloom.writing.tiling import check_tile

__all__ = ["RunImage"]

Parts = dict[int, list[tuple[UnitPart, Sequence[range]]]]


class RunImage:
    """Tiles of one image, as a `Gathering`.

    Parameters
    ----------
    run, runs
        Where it belongs, and where the run is registered when the first tile is taken.
    name
        Of the image in the run.
    sample
        Its first one.
    patch
        Pixels of the source that a tile covers.
    """

    what = "tiles"

    def __init__(
        self, run: RunFolder, runs: dict[Path, RunFolder], name: str, sample: Sample, patch: tuple[int, ...]
    ) -> None:
        self._run, self._runs, self._name, self._shape = run, runs, name, sample.shape
        self._layout = run.layout_for(sample, patch)
        self._grid = self._layout.grid(sample.shape.plane)
        self._seen = np.zeros((sample.shape.samples, len(self._grid)), bool)
        self._left = self._seen.size
        self._writing: _Writing | None = None

    @property
    def expected(self) -> int:
        """Number of tiles."""
        return self._seen.size

    @property
    def complete(self) -> bool:
        """Whether all tiles are there."""
        return self._left == 0

    def check(self, sample: Sample) -> bool:
        """See `Gathering.check`."""
        return bool(self._seen[self._number(sample)])

    def add(self, sample: Sample) -> None:
        """See `Gathering.add`."""
        if self._writing is None:
            self._run = self._runs.setdefault(self._run.folder, self._run)
            self._layout = self._run.layout_for(sample, self._grid.patch)
            self._run.open(self._layout, sample)
            self._writing = _Writing(self._run, self._name, self._shape, self._grid)
        number = self._number(sample)
        self._writing.place(sample, self._grid.place_of(number[1]))
        self._seen[number] = True
        self._left -= 1

    def finish(self, path: Path) -> None:
        """See `Gathering.finish`: what is left is the end of the image."""
        assert self._writing is not None
        self._writing.finish()

    def discard(self) -> None:
        """See `Gathering.discard`."""
        self._writing = None

    def _number(self, sample: Sample) -> tuple[int, int]:
        index = self._grid.index_of(check_tile(sample, self._shape, self._grid))
        assert index is not None
        return sample.sample, index


class _Writing:
    """Units of an image that are not committed yet."""

    def __init__(self, run: RunFolder, name: str, shape: ImageShape, grid: Grid) -> None:
        self._run, self._layout, self._shape, self._grid = run, run.layout, shape, grid
        self._info = PlaneInfo(shape.plane, shape.loop_axes, shape.loop_shape)
        layout = self._layout
        grids = {head.name: grid.scaled(head.scale) for head in layout.dense_heads}
        self._placings = {head: Placing(scaled, layout.config.blend) for head, scaled in grids.items()}
        self._parts: dict[int, Parts] = {}
        identity = f"{shape.axes}:{','.join(map(str, shape.data_shape))}"
        row = run.index.image(name)
        if row is not None and row.identity not in (None, identity):
            run.commits.forget(name)
            row = None
        self._done = row is not None and row.state == "done"
        self._committed = run.index.places(name) if row is not None else frozenset()
        # The pixels are the caller's; what is closed in the end takes no memory.
        image = ArrayImage(np.broadcast_to(np.uint8(0), shape.data_shape), shape.axes, name)
        begun = row is not None and layout.in_folders(name, run.index.knows_file)
        maps = layout.maps(name, self._info, in_folders=begun)
        self._work = ImageWork(name, image, grid, shape.plane, maps, grids, layout.patches(self._info), shape.loop_axes)
        if not self._done:
            run.commits.begin(self._work, identity, self._info)

    def place(self, sample: Sample, place: tuple[int, ...]) -> None:
        """Take a tile; units that it completes are written."""
        if self._done:
            return
        if sample.sample not in self._parts:
            self._parts[sample.sample] = self._parts_of(self._shape.loops(sample.sample))
        bad = sample.values.dtype.kind == "f" and not bool(np.isfinite(sample.values).all())
        heads = {head.name: sample.values for head in self._layout.heads}
        for part, columns in self._parts[sample.sample].get(place[0], ()):
            if all(i in line for i, line in zip(place[1:], columns, strict=True)) and part.place(place, heads, bad=bad):
                self._run.work(self._run.commits.finish(part))

    def finish(self) -> None:
        """No more tiles will come."""
        if not self._done and self._work.all_planned():
            self._run.commits.complete(self._work)

    def _parts_of(self, loops: tuple[int, ...]) -> Parts:
        """Units of one plane that are not committed, by the rows of patches that contribute to them."""
        found: Parts = defaultdict(list)
        units = self._layout.units(self._shape.plane)
        count = 0
        for across in units.sweeps():
            for region in units.sweep(across):
                shape = part_shape(self._layout, self._grid, self._shape.plane, region)
                if (loops, region) in self._committed or shape is None:
                    continue
                part = UnitPart(
                    self._work,
                    loops,
                    shape,
                    self._opener(self._layout, region),
                    self._layout.vector_heads,
                    alone=len(units) > 1,
                )
                count += 1
                for row in shape.rows:
                    found[row].append((part, shape.columns))
        with self._work.lock:
            self._work.parts_left += count
        return found

    def _opener(self, layout: RunLayout, region: Region) -> Callable[[], dict[str, UnitMap]]:
        def open_maps() -> dict[str, UnitMap]:
            maps = {}
            for head in layout.dense_heads:
                area = layout.map_region(head, self._shape.plane, region)
                maps[head.name] = UnitMap(
                    self._work.maps[head.name],
                    self._placings[head.name],
                    area,
                    head.channels or 1,
                    head.dtype,
                    None,
                    self._run.pool,
                )
            return maps

        return open_maps
