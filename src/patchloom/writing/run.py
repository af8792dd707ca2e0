"""Tiles of a caller's own loop into a run, which then opens, queries and exports like any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchloom.config import Config
from patchloom.errors import PatchloomError, PredictionError, UsageError
from patchloom.geometry.blend import Blend
from patchloom.geometry.grid import Edge, per_axis
from patchloom.writing.collecting import Collecting, Gathering
from patchloom.writing.prediction import ImagePrediction, Sample, checked
from patchloom.writing.run_folder import RunFolder
from patchloom.writing.run_image import RunImage
from patchloom.writing.strategy import OnIncomplete
from patchloom.writing.tiling import Pixels, TilingOptions

__all__ = ["WriteRun"]


class WriteRun(Collecting):
    """Fills a run from tiles: the folder is one that `patchloom.open` opens.

    Maps are stitched and tables written unit by unit, as the engine does it, and each unit is acknowledged when it is
    complete: what a crash leaves is a run, and a second loop over the same images goes on with it. Memory is that of
    the units which tiles have reached and not completed: come row by row.

    Parameters
    ----------
    model_id
        Name of the model that makes the predictions; a run holds those of one model.
    patch
        Pixels of the source that a tile is the prediction of. Default: as many as the tile has; needed for vectors.
    stride, overlap, edge, blend
        See `WriteTiles`; without stride and overlap tiles touch.
    classes
        Names of the channels. Default: 0, 1, ….
    nodata
        Value of what is not predicted. Default: NaN, or the largest integer.
    on_incomplete
        See `WriteImage`.

    Examples
    --------
    >>> import numpy, patchloom, tempfile
    >>> folder, strategy = tempfile.mkdtemp(), WriteRun(model_id="mine", patch=8, classes=["stroma", "tumour"])
    >>> for x in (0, 8):
    ...     scores = numpy.array([0.1, x / 10])
    ...     strategy.write_batch(folder, [ImagePrediction(scores, "YX", (8, 16), 0, source="a.tif", start=(0, x))])
    >>> strategy.close()
    >>> patchloom.open(folder).patch("a.tif", 0, 8)
    array([0.1, 0.8])
    """

    def __init__(
        self,
        *,
        model_id: str,
        patch: Pixels | None = None,
        stride: Pixels | None = None,
        overlap: Pixels | None = None,
        edge: Edge = "shift",
        blend: Blend = "crop",
        classes: Sequence[str] | None = None,
        nodata: float | None = None,
        on_incomplete: OnIncomplete = "raise",
    ) -> None:
        super().__init__(None, on_incomplete)
        if not model_id:
            raise UsageError("a run needs to know its model", "give model_id, a name for it")
        self._options = TilingOptions(patch, stride, overlap, edge, blend)
        known: dict[str, Any] = {"stride": stride, "overlap": overlap, "classes": classes}
        self._config = Config(edge=edge, blend=blend, nodata=nodata, model_id=model_id, **known)
        self._runs: dict[Path, RunFolder] = {}

    def close(self) -> None:
        """Commit what is complete, and see `WriteStrategy.close`."""
        failure: PatchloomError | None = None
        for run in self._runs.values():
            try:
                run.close()
            except PatchloomError as error:
                failure = failure or error
        self._runs.clear()
        if failure is not None:
            self._forget()
            raise failure
        super().close()

    def _checked(self, prediction: ImagePrediction) -> Sample:
        if self._options.patch is None:
            return checked(prediction)
        start = getattr(prediction, "start", None)
        try:
            patch = per_axis(self._options.patch, 2 if start is None else len(start))
        except ValueError as error:
            raise PredictionError(f"data index {prediction.data_index}: {error}", "start is (y, x)") from None
        return checked(prediction, patch)

    def _gather(self, folder: Path, path: Path, sample: Sample) -> Gathering:
        run = self._runs.get(folder) or RunFolder(folder, self._config)
        patch = self._options.patch_of(sample.shape)
        return RunImage(run, self._runs, path.relative_to(folder).as_posix(), sample, patch)
