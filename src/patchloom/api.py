"""What users call: `predict`, `plan`, `open` and the `Run` that they give."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchloom.config import Config
from patchloom.engine.local import execute
from patchloom.engine.plan import Plan, machine_threads
from patchloom.engine.prepare import Ready, load, number_of_axes, prepare, resolved
from patchloom.engine.survey import Survey, survey
from patchloom.errors import ConfigMismatchError, Interrupted, OutputError, RunNotFoundError, UsageError
from patchloom.events import Callback, Event, RunFinished, RunStarted, Warned
from patchloom.images.source import DATABASE, Entry, Source, as_source, from_spec
from patchloom.models.identity import live_identity
from patchloom.models.model import Head, Model
from patchloom.objects import AnyPath, ObjectPath, as_path
from patchloom.predictions.files import name_in, named_errors, output_error, remove_tree, sweep_partial
from patchloom.predictions.folder import RunDocument
from patchloom.predictions.index import Index
from patchloom.predictions.journal import Journal, check_logs, compact
from patchloom.predictions.layout import MEMBERS, RunLayout
from patchloom.predictions.lock import GUARD, Lock, begun
from patchloom.predictions.stores.copying import COPIES
from patchloom.predictions.stores.store import PredictionStore, StoredRun, open_store
from patchloom.predictions.stores.url import without_password
from patchloom.run import Run

if TYPE_CHECKING:
    from patchloom.predictions.write_back import WriteBack

__all__ = ["Run", "open", "plan", "predict"]

OURS = {
    "run.json", "journal", "dense", "patches", "lock", GUARD, "index.sqlite", "index.sqlite-wal", "index.sqlite-shm",
    COPIES,
}  # fmt: skip


def predict(
    source: Any,
    model: Any,
    out: str | Path | ObjectPath,
    *,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    config: Config | None = None,
    **options: Any,
) -> Run:
    """Predict every patch of every image, and keep the predictions in a folder.

    A matching run in `out` is resumed: what it has is not predicted again.

    Parameters
    ----------
    source
        Path of an image or a folder, a glob, a list of paths, a manifest (``.csv``, ``.parquet``), the URL of a
        database, a `SQLSource` or `MongoSource`, a mapping of names to arrays, or a `Source`.
    model
        Path (``.onnx``, ``.pt``, ``.pt2``, …), ``"package.module:function"``, a ``torch.nn.Module``, or any callable
        from a batch ``(N, C, [Z,] Y, X)`` to predictions; or a list of these, which predict as one (`ensemble`).
    out
        Folder of the run; made where it does not exist. Or a prefix in object storage: ``"s3://bucket/run"``.
    overwrite
        Discard the run that is there.
    callbacks
        Told of everything that happens (see `patchloom.events`).
    config, **options
        Options by name, as in ``patchloom predict --help``: ``patch=512, overlap=64, scale=255, reduce="argmax"``.

    Returns
    -------
    Run
        With one warning if images failed; they are in ``run.failures()``.

    Raises
    ------
    PatchloomError
        For what stops the whole run: the source, the model, an option, memory, the folder.
    Interrupted
        After a clean stop by Ctrl-C or SIGTERM; everything committed is kept.

    Examples
    --------
    >>> import numpy, tempfile
    >>> image = numpy.arange(20000, dtype="uint8").reshape(100, 200)
    >>> run = predict({"ramp": image}, lambda batch: batch.mean((1, 2, 3)), tempfile.mkdtemp(), patch=50)
    >>> len(run["ramp"]), float(run.patch("ramp", 50, 150))
    (8, 114.5)
    """
    config = _config(config, options)
    return _Session(as_path(out), _sourced(source, config), model, config, callbacks).run(overwrite=overwrite)


def plan(
    source: Any,
    model: Any,
    out: str | Path | ObjectPath | None = None,
    *,
    overwrite: bool = False,
    config: Config | None = None,
    **options: Any,
) -> Plan:
    """What `predict` would do with the same arguments; nothing is written.

    Raises
    ------
    PatchloomError
        As `predict` does.
    """
    config = _config(config, options)
    session = _Session(as_path(out or "."), _sourced(source, config), model, config, ())
    return session.plan(existing=out is not None and not overwrite)


def open(path: str | Path | ObjectPath, *, store: str | None = None) -> Run:
    """Open an existing run, read-only unless it is resumed.

    Parameters
    ----------
    path
        Its folder, or its URL in object storage.
    store
        URL of the store to read from: that of the run once more, with its password (which the run does not keep; the
        environment variable ``PATCHLOOM_STORE`` can give it, too), or one that the run was copied to.

    Raises
    ------
    RunNotFoundError
        If there is no run.
    RunDamagedError
        If its description is damaged.
    """
    with named_errors(folder := as_path(path)):
        return Run(folder, _resume, store)


def _config(config: Config | None, options: dict[str, Any]) -> Config:
    unknown = set(options) - {*Config.__dataclass_fields__}
    if unknown:
        raise UsageError(f"unknown option {min(unknown)!r}", f"options are {', '.join(Config.__dataclass_fields__)}")
    return (config or Config()).replace(**options) if options else config or Config()


def _sourced(source: Any, config: Config) -> Source:
    return as_source(source, axes=config.axes, **{name: getattr(config, name) for name in DATABASE})


def _resume(run: Run, model: Any, source: Any, callbacks: Sequence[Callback], options: dict[str, Any]) -> Run:
    document = run.document
    if model is None:
        model = document.model["spec"]
    if model is None:
        raise UsageError("the run was made with a live model, which has to be given again", "run.resume(model=…)")
    if document.live:
        name = next(iter(document.live))
        raise UsageError(f"the run was made with a live {name}, which has to be given again",
                         f"patchloom.predict(…, {name}=…) into the same folder goes on")
    if source is None:
        if document.source is None:
            raise UsageError("the run was made from arrays, which have to be given again", "run.resume(source=…)")
        source = from_spec(document.source)
    found = _sourced(source, document.config)
    config = document.config.replace(**{name: value for name, value in options.items() if value is not None})
    return _Session(run.path, found, model, config, callbacks).run(must_exist=True)


class _Session:
    """One call of `predict` or `resume`: from arguments to a `Run`."""

    def __init__(
        self, folder: AnyPath, source: Source, model: Any, config: Config, callbacks: Sequence[Callback]
    ) -> None:
        self._folder, self._source, self._callbacks = folder, source, callbacks
        self._spec = _spec(model)
        self._begun = True  # until it is known that there is no run: what is there stays
        self._store_url = config.store
        if config.store is not None:
            config = config.replace(store=without_password(config.store))  # nothing else gets to know the password
        self._asked = config
        self._model: Model = load(model, config, machine_threads(config))
        self._config = resolved(config, self._model)
        self._identity = f"id:{config.model_id}" if config.model_id else self._model.info.identity

    def plan(self, *, existing: bool) -> Plan:
        with named_errors(self._folder):
            there = existing and (self._folder / "run.json").exists()
        document = RunDocument.read(self._folder) if there else None
        if document is not None:
            index = Index(self._folder)
            self._check(document, index)
            index.close()
        found = self._survey(lambda names: None)
        return self._prepare(found, document).plan(found)

    def run(self, *, overwrite: bool = False, must_exist: bool = False) -> Run:
        with named_errors(self._folder):
            finished = self._finished(overwrite=overwrite, must_exist=must_exist)
            run = Run(self._folder, _resume, self._store_url)
        if finished.stopped:
            raise Interrupted("stopped cleanly", f"resume with: patchloom resume {self._folder}")
        if finished.failed:
            plural = "s" * (finished.failed != 1)
            warnings.warn(f"{finished.failed} image{plural} failed; see run.failures()", stacklevel=4)
        return run

    def _finished(self, *, overwrite: bool, must_exist: bool) -> RunFinished:
        if must_exist and not (self._folder / "run.json").exists():
            raise RunNotFoundError(f"there is no run in {self._folder}", "`patchloom predict` makes one")
        with self._locked_folder() as lock:
            if overwrite:
                self._discard_stored()
                _discard(self._folder)
            document = RunDocument.read(self._folder) if (self._folder / "run.json").exists() else None
            self._begun = document is not None
            if document is None:
                _discard(self._folder)  # what a session left that ended before its first patch
            return self._locked(lock, document)

    def _locked(self, lock: Lock, document: RunDocument | None) -> RunFinished:
        sweep_partial(self._folder)
        check_logs(self._folder / "journal")
        compact(self._folder / "journal")
        index = Index(self._folder)
        try:
            if document is not None:
                self._check(document, index)
            sweep_units(self._folder, index)
            journal = Journal(self._folder / "journal")
            store = None
            try:
                done = _done(index) if document is not None else lambda entry: False
                found = self._survey(lambda names: _list(journal, index, names), done)
                journal.publish()
                ready = self._prepare(found, document)
                written = document or self._document(ready)
                store = self._store(written, ready.layout)
                also = self._write_back(ready.layout, found)
                if document is None:
                    written.write(self._folder)
                self._begun = True
                index.refresh()
                started = self._started(index, found, resumed=document is not None)
                for hint in ready.hints:
                    self._emit(Warned(hint))
                entries = self._source.__iter__
                return execute(ready, entries, index, journal, lock, self._emit, started, store, also)
            finally:
                if store is not None:
                    store.close()
                journal.close()
        finally:
            index.close()

    def _store(self, document: RunDocument, layout: RunLayout) -> PredictionStore | None:
        """Where predictions of vector heads go, and what is told where maps are; None: into the run's folder."""
        kept = document.config.store
        if kept is None:
            return None
        if not layout.vector_heads:
            self._emit(Warned("the model gives maps only: they stay in the run's folder, and the store holds where"))
        return open_store(self._store_url or kept, StoredRun(document.id, layout.vector_heads, layout.ndim))

    def _write_back(self, layout: RunLayout, found: Survey) -> WriteBack | None:
        """The table of the source's database that gets the predictions, too."""
        name = self._config.write_back
        if name is None:
            return None
        if (self._source.spec() or {}).get("kind") != "sql":
            raise UsageError("write_back: the source is no SQL database", "leave out --write-back, or choose a --store")
        from patchloom.images.sources.sql import SQLSource
        from patchloom.predictions.write_back import WriteBack

        assert isinstance(self._source, SQLSource)
        one_patch = all(size.planes == 1 and len(layout.grid(size.plane)) == 1 for size in found.sizes)
        return WriteBack(self._source, name, layout.heads, layout.ndim, one_patch=one_patch, folder=layout.folder)

    def _discard_stored(self) -> None:
        """Remove what a run that is going to be discarded has in a store."""
        if not (self._folder / "run.json").exists():
            return
        document = RunDocument.read(self._folder)
        kept, layout = document.config.store, document.layout(self._folder)
        if kept is None:
            return
        same = self._store_url is not None and without_password(self._store_url) == kept
        url = self._store_url if same and self._store_url else kept
        store = open_store(url, StoredRun(document.id, layout.vector_heads, layout.ndim))
        try:
            store.delete()
        finally:
            store.close()

    def _check(self, document: RunDocument, index: Index) -> None:
        if self._config.store not in (None, document.config.store):
            raise ConfigMismatchError(
                f"run lives in {document.config.store or 'its folder'}, not in {self._config.store}",
                "leave out --store, or `patchloom copy` the run afterwards; --overwrite discards it")
        document.check_same(self._config, self._identity, index.counts()["done"])

    def _survey(
        self, seen: Callable[[list[str]], None], done: Callable[[Entry], bool] = lambda entry: False
    ) -> Survey:
        return survey(self._source, self._config, number_of_axes(self._config, self._model), seen, done)

    def _prepare(self, found: Survey, document: RunDocument | None) -> Ready:
        def layout_of(config: Config, ndim: int, heads: tuple[Head, ...], width: int | None) -> RunLayout:
            return RunLayout(self._folder, config, ndim, heads, width)

        return prepare(self._model, self._config, found, document, layout_of)

    def _document(self, ready: Ready) -> RunDocument:
        model = {"spec": self._spec, "name": self._model.info.name, "identity": self._identity}
        return RunDocument(
            self._config,
            self._source.spec(),
            model,
            ready.layout.ndim,
            ready.layout.raw_heads,
            ready.layout.unit_width,
            ready.channels,
            ready.image_dtype.name,
            live_identity(self._config.preprocess),
            live_identity(self._config.skip),
            ready.layout.whole,
        )

    def _started(self, index: Index, found: Survey, *, resumed: bool) -> RunStarted:
        counts = index.counts()
        partial = [row for row, _ in zip(index.images("partial"), range(16), strict=False)]
        return RunStarted(
            found.images,
            counts["done"],
            counts["done"],
            sum(row.patches_done for row in partial),
            tuple(row.name for row in partial),
            resumed,
        )

    def _emit(self, event: Event) -> None:
        for callback in self._callbacks:
            callback(event)

    @contextmanager
    def _locked_folder(self) -> Iterator[Lock]:
        """The folder of the run, made if it is not there; removed again if the run does not even begin."""
        folder = self._folder
        existed = folder.exists()
        _check_ours(folder)
        lock = Lock(folder / "lock")
        try:
            yield lock
        finally:
            if not self._begun:
                _discard(folder)
            lock.release()
            if not self._begun and not (folder / "lock").exists():
                (folder / GUARD).unlink(missing_ok=True)
                if not existed:
                    folder.rmdir()


def _spec(model: Any) -> str | list[str] | None:
    """What a model, or each model of an ensemble, is loaded from again; None where that is not possible."""
    if isinstance(model, (list, tuple)):
        specs = [_spec(one) for one in model]
        return [spec for spec in specs if isinstance(spec, str)] if None not in specs else None
    if not isinstance(model, (str, Path)):
        return None
    return str(Path(model).resolve()) if Path(model).exists() else str(model)


def _check_ours(folder: AnyPath) -> None:
    """Raise OutputError where a folder holds anything that no run left there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file", "choose another -o")
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise output_error(error, folder / "run.json") from error
    if names - OURS or (names and not begun(folder, names)):
        raise OutputError(f"{folder} holds other files and is no run", "choose another -o")


def _done(index: Index) -> Callable[[Entry], bool]:
    def done(entry: Entry) -> bool:
        row = index.image(entry.name)
        return row is not None and row.state == "done" and row.identity == entry.identity

    return done


def _list(journal: Journal, index: Index, names: list[str]) -> None:
    new = index.unknown(names)
    if new:
        journal.append({"is": "listed", "images": new}, durable=False)


def sweep_units(folder: AnyPath, index: Index) -> None:
    """Remove files of units that a crash left without a record: whoever reads the folder as it is would count rows
    and maps twice.
    """
    tables, members = (folder / "patches").rglob("*.parquet"), (folder / "dense").glob(f"*/*{MEMBERS}")
    for path in itertools.chain[AnyPath](tables, members):
        if not index.knows_file(name_in(folder, path)) and path.is_file():
            path.unlink(missing_ok=True)


def _discard(folder: AnyPath) -> None:
    """Remove a run; what says that it is one goes first, so that a crash in between leaves no half of it."""
    for name in ("run.json", "index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
        (folder / name).unlink(missing_ok=True)
    for name in ("journal", "patches", "dense", COPIES):
        remove_tree(folder / name)
