"""A run's folder while it is being filled from outside the engine: its lock, description, journal and commits."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from patchloom.config import Config
from patchloom.engine.commit import Commits, Task
from patchloom.engine.stitch import BufferPool
from patchloom.errors import ModelOutputError, PredictionError, UsageError
from patchloom.models.heads import find_heads
from patchloom.models.model import Head, ModelInfo
from patchloom.predictions.folder import RunDocument
from patchloom.predictions.index import Index
from patchloom.predictions.journal import Journal
from patchloom.predictions.layout import RunLayout
from patchloom.predictions.leases import writer_lease
from patchloom.predictions.upkeep import check_ours, sweep_units, tidy
from patchloom.writing.prediction import Sample

__all__ = ["RunFolder"]


class RunFolder:
    """A run that tiles are written to. Nothing is touched before `open`.

    Parameters
    ----------
    folder
        Of the run.
    config
        Its options without the patch; `model_id` is set.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder, self._config = folder, config
        self.pool = BufferPool()
        self._error: BaseException | None = None
        self._opened = False
        self.layout: RunLayout
        self.index: Index
        self.commits: Commits

    def layout_for(self, sample: Sample, patch: tuple[int, ...]) -> RunLayout:
        """What the run looks like if it holds predictions such as `sample`.

        Raises
        ------
        PredictionError
            If the run has others.
        UsageError
            If options and predictions do not fit.
        """
        config = self._config.replace(patch=patch)
        if self._opened:
            ours = (self.layout.ndim, self.layout.raw_heads, self.layout.config)
            if ours != (len(patch), self._heads(sample, patch), config):
                raise PredictionError(
                    f"data index {sample.data_index}: predictions of shape {sample.values.shape} and type "
                    f"{sample.values.dtype} do not fit the run, whose head is {ours[1][0].shape} {ours[1][0].dtype}",
                    "the predictions of one run are of one model",
                )
            return self.layout
        layout = RunLayout(self.folder, config, len(patch), self._heads(sample, patch))
        layout.check()
        return layout

    def open(self, layout: RunLayout, sample: Sample) -> None:
        """Begin the run, or go on with the one that is there.

        Raises
        ------
        ConfigMismatchError
            If it was made with another model or other options.
        RunLockedError
            If another process writes it.
        """
        if self._opened:
            return
        check_ours(self.folder)
        self._lock = writer_lease(self.folder)
        try:
            self._begin(layout, sample)
        except BaseException:
            self._lock.release()
            raise
        self._opened = True

    def work(self, tasks: Sequence[Task]) -> None:
        """Do what commits ask for, and raise what went wrong with earlier ones."""
        if self._error is not None:
            raise self._error
        for task in tasks:
            task()

    def close(self) -> None:
        """Commit what is complete and give the folder back."""
        if not self._opened:
            return
        try:
            self.work(self.commits.flush())
        finally:
            self.commits.close()
            self._journal.close()
            self.index.refresh()
            self.index.close()
            self._lock.release()
        if self._error is not None:
            raise self._error

    def _begin(self, layout: RunLayout, sample: Sample) -> None:
        document = RunDocument.read(self.folder) if (self.folder / "run.json").exists() else None
        tidy(self.folder)
        self.index = Index(self.folder)
        try:
            if document is None:
                document = self._document(layout, sample)
                document.write(self.folder)
            else:
                document.check_same(layout.config, f"id:{self._config.model_id}", self.index.counts()["done"])
                if document.heads != layout.raw_heads:
                    raise PredictionError(
                        f"data index {sample.data_index}: predictions of shape {sample.values.shape} do not fit the "
                        f"run in {self.folder}",
                        "choose another folder",
                    )
            sweep_units(self.folder, self.index)
            self._journal = Journal(self.folder / "journal")
        except BaseException:
            self.index.close()
            raise
        self.layout = document.layout(self.folder)
        self.commits = Commits(self.layout, self._journal, self._lock, lambda event: None, raise_failures=False)
        self.commits.then, self.commits.abort = self.work, self._abort
        # A program that ends without closing, by an error say, does not wait for a thread that waits for it.
        threading.Thread(target=_close_after_main, args=(self.commits,), name="patchloom-end", daemon=True).start()

    def _abort(self, error: BaseException) -> None:
        self._error = self._error or error

    def _document(self, layout: RunLayout, sample: Sample) -> RunDocument:
        identity = f"id:{self._config.model_id}"
        model = {"spec": None, "name": self._config.model_id, "identity": identity}
        shape = sample.shape
        channels = shape.data_shape[shape.axes.index("C")] if "C" in shape.axes else 1
        # Of the source's pixels only the caller knows the type.
        return RunDocument(layout.config, None, model, layout.ndim, layout.raw_heads, None, channels, "float32")

    def _heads(self, sample: Sample, patch: tuple[int, ...]) -> tuple[Head, ...]:
        outputs = {"prediction": np.broadcast_to(sample.values, (1, *sample.values.shape))}
        info = ModelInfo(str(self._config.model_id))
        try:
            return find_heads(
                outputs, batch_size=1, patch=patch, ndim=len(patch), classes=self._config.classes, info=info
            )
        except (ModelOutputError, UsageError) as error:
            raise PredictionError(f"data index {sample.data_index}: {error.message}", error.hint) from error


def _close_after_main(commits: Commits) -> None:
    threading.main_thread().join()
    commits.close()
