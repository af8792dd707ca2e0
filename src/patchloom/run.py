"""A run as its users see it: a mapping from image names to predictions, read on demand."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchloom.engine.dealing import missing
from patchloom.errors import NotPredictedError, UsageError
from patchloom.events import Callback
from patchloom.images.source import Source, as_source, from_spec
from patchloom.models.model import Head
from patchloom.objects import AnyPath, as_path, is_object_url
from patchloom.predictions.folder import RunDocument
from patchloom.predictions.index import Index
from patchloom.predictions.layout import RunLayout
from patchloom.predictions.lookup import ImagePredictions, Lookup, Prediction
from patchloom.predictions.stores.store import PredictionStore, StoredRun, open_store
from patchloom.predictions.stores.url import without_password

if TYPE_CHECKING:
    from patchloom.predictions.query import PatchTable
    from patchloom.predictions.verify import Damage

__all__ = ["Failure", "ImagePredictions", "ImageStatus", "Run", "RunStatus"]

Resume = Callable[["Run", Any, Any, Sequence[Callback], dict[str, Any]], "Run"]


@dataclass(frozen=True)
class ImageStatus:
    """How far one image is; `state` is done, partial, left or failed; patches that were skipped are done, too."""

    image: str
    state: str
    patches: int
    patches_done: int
    skipped: int = 0


@dataclass(frozen=True)
class Failure:
    """An image that is not predicted, and why."""

    image: str
    kind: str
    message: str


@dataclass(frozen=True)
class RunStatus:
    """How far a run is: numbers of images, and one image after the other."""

    done: int
    failed: int
    left: int
    index: Index

    def images(self) -> Iterator[ImageStatus]:
        """All images, in order of their names."""
        return (
            ImageStatus(row.name, row.state, row.patches, row.patches_done, row.patches_skipped)
            for row in self.index.images()
        )


class Run(Mapping[str, "ImagePredictions"]):
    """Mapping from the names of images to their predictions; opening one reads no image's predictions.

    Images that are not complete are in it with what is committed of them.

    Parameters
    ----------
    path
        Folder of the run, or the prefix of its objects.
    resume
        How it is resumed.
    store
        URL of the store to read from, with its password, where that is needed or another one than the run was made
        with: see `copy`.
    """

    def __init__(self, path: AnyPath, resume: Resume, store: str | None = None) -> None:
        self.path, self._resume = path, resume
        self.document = RunDocument.read(path)
        self.layout: RunLayout = self.document.layout(path)
        self._store_url = store or self.document.config.store

    @cached_property
    def _index(self) -> Index:
        """Made when it is needed: shards that are resumed all at once do not."""
        return Index(self.path)

    @cached_property
    def _lookup(self) -> Lookup:
        stored = self._store_url is not None and bool(self.layout.vector_heads)
        return Lookup(self.path, self.layout, self._index, self._open_store if stored else None)

    @property
    def heads(self) -> tuple[Head, ...]:
        """Outputs of the model, as they are stored."""
        return self.layout.heads

    @property
    def source(self) -> Source | None:
        """Where the images are; None of a run that was made from arrays."""
        return None if self.document.source is None else from_spec(self.document.source)

    def __getitem__(self, image: str) -> ImagePredictions:
        row = self._index.image(image)
        if row is None or row.info is None or not (row.patches_done or row.state == "done"):
            raise NotPredictedError(f"the run has no predictions of {image!r}", "`patchloom status` lists its images")
        return ImagePredictions(self._lookup, row)

    def __iter__(self) -> Iterator[str]:
        return (row.name for row in self._index.images() if row.patches_done or row.state == "done")

    def __len__(self) -> int:
        return self._index.predicted()

    def images(self) -> Iterator[str]:
        """Names of the images that have predictions, in order."""
        return iter(self)

    def patch(self, image: str, *key: int, head: str | None = None) -> Prediction | None:
        """The one accessor: the prediction of the patch that starts at `key`, or None.

        Parameters
        ----------
        image
            Its name.
        key
            Origin of the patch in pixels, (y, x) or (z, y, x), with indices on S, T (and Z) in front where the image
            has them.
        head
            One head; without it a run with several heads gives a dict of all.

        Returns
        -------
        numpy.ndarray, numpy.generic, dict or None
            None where there is no such image or no such patch, or where the patch was skipped.
        """
        predictions = self.get(image)
        if predictions is None:
            return None
        found = predictions.get(tuple(key))
        return found[head] if isinstance(found, dict) and head is not None else found

    def items(self) -> Iterator[Any]:  # type: ignore[override]
        """Stream ``(image, *key, prediction)`` over all patches; one image's rows are in memory at a time at most."""
        for name in self:
            for key, prediction in self[name].items():
                yield (name, *key, prediction)

    def patches(
        self,
        where: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
        head: str | None = None,
        image: str | None = None,
    ) -> PatchTable:
        """Table of the patches of a vector head, one row each; those that were skipped have no scores.

        Parameters
        ----------
        where
            SQL condition over the columns, such as ``"tumour > 0.9 and stroma < 0.1"``.
        sort
            Columns, ``-`` in front for descending: ``"-tumour,image"``.
        limit
            Most rows.
        head
            Which vector head; the only one may be left out.
        image
            Only one image.

        Raises
        ------
        UsageError
            If the run has no vector head.
        QueryError
            If `where` or `sort` cannot be understood.
        """
        from patchloom.predictions.query import PatchTable

        chosen = self._vector_head(head)
        if self._lookup.store is not None:
            from patchloom.predictions.stores.table import StoreTable

            return StoreTable(self._lookup, chosen, where=where, sort=sort, limit=limit, image=image)
        units = self._index.units() if image is None else list(dict.fromkeys(p.unit for p in self._index.parts(image)))
        files = [self.path / self.layout.table_name(chosen, unit) for unit in units]
        return PatchTable(
            files,
            chosen,
            self.layout.ndim,
            where=where,
            sort=sort,
            limit=limit,
            image=image,
            current=self._current(chosen, units),
        )

    def status(self) -> RunStatus:
        """How far the run is."""
        self._index.refresh()
        counts = self._index.counts()
        return RunStatus(counts["done"], counts["failed"], counts["left"] + counts["partial"], self._index)

    def failures(self) -> list[Failure]:
        """Images that failed."""
        self._index.refresh()
        return [Failure(row.name, row.kind or "", row.message or "") for row in self._index.images("failed")]

    def bad_patches(self) -> dict[str, int]:
        """Number of patches with predictions that are not finite, for each image that has any."""
        return {row.name: row.bad_patches for row in self._index.images() if row.bad_patches}

    def verify(self) -> list[Damage]:
        """Read everything back; empty where nothing is damaged or missing."""
        from patchloom.predictions.verify import verify

        self._index.refresh()
        found = [*missing(self._index, self.layout), *verify(self.path, self._index)]
        if self._lookup.store is not None:
            from patchloom.predictions.stores.reading import lost

            found += lost(self._lookup.store, without_password(self._store_url or ""), self.layout, self._index)
        return found

    def copy(self, to: str, *, callback: Callable[[int, int], None] | None = None) -> int:
        """Copy what is predicted without a map to another store; the run is as it was, maps stay where they are.

        Of maps the store holds where they are. What is there already, after an interruption say, is not copied again.
        `patchloom.open(run, store=…)` then reads from there.

        Parameters
        ----------
        to
            URL of the store, such as ``json:predictions/`` or ``redis://localhost:6379/0``; or the run's own folder:
            a run that lives in a store is brought back into its folder, and lives there from then on.
        callback
            Told after each batch how many patches are copied, and how many there are.

        Returns
        -------
        int
            Patches that were copied, and were not there before.

        Raises
        ------
        UsageError
            If the run lives there already.
        StoreError, StoreUnreachableError
            If the store refuses or stays away.
        """
        from patchloom.predictions.stores.copying import copy

        if as_path(to).resolve() == self.path.resolve():
            return self._bring_back(callback)
        if self._store_url is not None and without_password(self._store_url) == without_password(to):
            raise UsageError(f"the predictions are in {without_password(to)} already", "choose another --to")
        self._index.refresh()
        run = StoredRun(self.document.id, self.layout.vector_heads, self.layout.ndim)
        return copy(self._lookup, run, to, self.path, callback)

    def _bring_back(self, callback: Callable[[int, int], None] | None) -> int:
        from patchloom.predictions.stores.returning import bring_back

        if self.document.config.store is None:
            raise UsageError("the predictions are in the run's folder already", "choose another --to")
        brought = bring_back(self._lookup, self.document, callback)
        self._store_url, self.document = None, RunDocument.read(self.path)
        self._lookup = Lookup(self.path, self.layout, self._index)
        return brought

    def export(
        self, path: str | Path, image: str | None = None, head: str | None = None, level: int = 0, **options: Any
    ) -> None:
        """Write predictions to a file of another format, chosen by its ending (see ``patchloom export --help``).

        Parameters
        ----------
        path
            Of the file: .zip, .csv, .json, .ndjson, .parquet, .npz, .tif, .png or .npy.
        image
            Only this image; formats of one image need it where there are several.
        head
            Only this head.
        level
            Of the pyramid, for maps.
        **options
            Of the format, such as ``metadata="json"``, ``predictions=True`` and ``with_images=True`` of ``.zip``.
        """
        from patchloom.export.export import export

        if is_object_url(str(path)):
            raise UsageError(f"{path}: exports are written to files", "export to a file, and copy it there")
        export(self, Path(path), image=image, head=head, level=level, **options)

    def zip(
        self, images: Any = False, *, batch: int | None = None, head: str | None = None, progress: bool | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Stream ``(prediction, name, image)``, one image after the other; nothing is held.

        Parameters
        ----------
        images
            True for the images of the run's source, in its order; or the source itself, where the run was made from
            arrays or the images have moved. False for ``(prediction, name)`` alone.
        batch
            Tuples of lists of so many instead.
        head
            One head; without it a run with several heads gives a dict of all.
        progress
            Show a bar on stderr; None: where that is a terminal.

        Yields
        ------
        tuple
            The prediction is a lazy array (see `ImagePredictions.stitched`) of a dense head; of a vector head the value
            where the image is one patch, else the image's `ImagePredictions`. The image is a `LazyImage`.
        """
        from patchloom.export.zipped import batched, triples

        source = None
        if images is True:
            source = self.source
            if source is None:
                raise UsageError("the run was made from arrays, which have to be given again", "run.zip(images=…)")
        elif images is not False and images is not None:
            source = as_source(images, axes=self.document.config.axes)
        heads = self.heads if head is None else (self.layout.head(head),)
        streamed = triples(self.images(), self, heads, source, len(self), progress=progress)
        return streamed if batch is None else batched(streamed, batch)

    def resume(
        self,
        *,
        model: Any = None,
        source: Any = None,
        callbacks: Sequence[Callback] = (),
        batch: int | str | None = None,
        threads: int | str | None = None,
        memory: int | str | None = None,
        device: str | None = None,
        store: str | None = None,
        executor: Any = None,
        workers: int | str | None = None,
        shard: str | None = None,
    ) -> Run:
        """Go on with what is not done, and try again what failed.

        Parameters
        ----------
        model, source
            Needed again where the run was made with a live model or with arrays.
        callbacks, batch, threads, memory, device, executor, workers
            As for `patchloom.predict`; a run may go on with another executor.
        store
            URL of the run's store once more, with its password.
        shard
            Only the share of one shard, as ``"3/16"``.
        """
        store = store or self._given_store
        options = {"batch": batch, "threads": threads, "memory": memory, "device": device, "store": store,
                   "executor": executor, "workers": workers, "shard": shard}  # fmt: skip
        resumed = self._resume(self, model, source, callbacks, options)
        if "_index" in self.__dict__:
            self._index.refresh()
        return resumed

    def __repr__(self) -> str:
        status = self.status()
        return f"<Run {self.path}: {status.done} done, {status.failed} failed, {status.left} left>"

    def _repr_html_(self) -> str:
        status = self.status()
        rows = [
            ("model", self.document.model["name"]),
            ("done", status.done),
            ("failed", status.failed),
            ("left", status.left),
            ("heads", ", ".join(f"{head.name} ({head.kind})" for head in self.heads)),
        ]
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in rows)
        return f"<table><caption>{html.escape(str(self.path))}</caption>{cells}</table>"

    @property
    def index(self) -> Index:
        """Where everything is."""
        return self._index

    def _vector_head(self, name: str | None) -> Head:
        vectors = self.layout.vector_heads
        if not vectors:
            raise UsageError(
                "the run has no table: its heads are maps", "see run[image].stitched(), `patchloom export`"
            )
        if name is None:
            return vectors[0]
        head = self.layout.head(name)
        if head.kind != "vector":
            raise UsageError(f"head {name!r} is a map", f"tables: {', '.join(head.name for head in vectors)}")
        return head

    @property
    def _given_store(self) -> str | None:
        """The store's URL with its password, where the run was opened with it."""
        kept, given = self.document.config.store, self._store_url
        return given if given is not None and kept is not None and without_password(given) == kept else None

    def _open_store(self) -> PredictionStore:
        assert self._store_url is not None
        return open_store(self._store_url, StoredRun(self.document.id, self.layout.vector_heads, self.layout.ndim))

    def _current(self, head: Head, units: Sequence[str]) -> dict[AnyPath, set[str]]:
        return {
            self.path / self.layout.table_name(head, unit): images
            for unit, images in self._index.superseded().items()
            if unit in set(units)
        }
