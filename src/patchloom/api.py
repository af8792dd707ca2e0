"""What users call: `predict`, `plan`, `open` and the `Run` that they give."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patchloom.config import Config
from patchloom.engine.local import execute
from patchloom.engine.plan import Plan, machine_threads
from patchloom.engine.prepare import Ready, load, number_of_axes, prepare, resolved
from patchloom.engine.survey import Survey, survey
from patchloom.errors import Interrupted, OutputError, RunNotFoundError, UsageError
from patchloom.events import Callback, Event, RunFinished, RunStarted, Warned
from patchloom.images.source import Source, as_source, from_spec
from patchloom.models.identity import live_identity
from patchloom.models.model import Head, Model
from patchloom.predictions.files import output_error
from patchloom.predictions.folder import RunDocument
from patchloom.predictions.index import Index
from patchloom.predictions.journal import Journal, check_logs, compact, sweep_partial
from patchloom.predictions.layout import RunLayout
from patchloom.predictions.lock import GUARD, Lock
from patchloom.run import Run

__all__ = ["Run", "open", "plan", "predict"]

OURS = {
    "run.json", "journal", "dense", "patches", "lock", GUARD, "index.sqlite", "index.sqlite-wal", "index.sqlite-shm",
}  # fmt: skip


def predict(
    source: Any,
    model: Any,
    out: str | Path,
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
        Path of an image or a folder, a glob, a list of paths, a manifest (``.csv``, ``.parquet``), a mapping of names
        to arrays, or a `Source`.
    model
        Path (``.onnx``, ``.pt``, ``.pt2``, …), ``"package.module:function"``, a ``torch.nn.Module``, or any callable
        from a batch ``(N, C, [Z,] Y, X)`` to predictions.
    out
        Folder of the run; made where it does not exist.
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
    return _Session(Path(out), as_source(source, axes=config.axes), model, config, callbacks).run(overwrite=overwrite)


def plan(
    source: Any,
    model: Any,
    out: str | Path | None = None,
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
    session = _Session(Path(out or "."), as_source(source, axes=config.axes), model, config, ())
    return session.plan(existing=out is not None and not overwrite)


def open(path: str | Path) -> Run:
    """Open an existing run, read-only unless it is resumed.

    Raises
    ------
    RunNotFoundError
        If there is no run.
    RunDamagedError
        If its description is damaged.
    """
    return Run(Path(path), _resume)


def _config(config: Config | None, options: dict[str, Any]) -> Config:
    unknown = set(options) - {*Config.__dataclass_fields__}
    if unknown:
        raise UsageError(f"unknown option {min(unknown)!r}", f"options are {', '.join(Config.__dataclass_fields__)}")
    return (config or Config()).replace(**options) if options else config or Config()


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
    found = as_source(source, axes=document.config.axes)
    config = document.config.replace(**{name: value for name, value in options.items() if value is not None})
    return _Session(run.path, found, model, config, callbacks).run(must_exist=True)


class _Session:
    """One call of `predict` or `resume`: from arguments to a `Run`."""

    def __init__(self, folder: Path, source: Source, model: Any, config: Config, callbacks: Sequence[Callback]) -> None:
        self._folder, self._source, self._callbacks = folder, source, callbacks
        self._spec = model if isinstance(model, str) else str(model) if isinstance(model, Path) else None
        if isinstance(self._spec, str) and Path(self._spec).exists():
            self._spec = str(Path(self._spec).resolve())
        self._asked = config
        self._model: Model = load(model, config, machine_threads(config))
        self._config = resolved(config, self._model)
        self._identity = f"id:{config.model_id}" if config.model_id else self._model.info.identity

    def plan(self, *, existing: bool) -> Plan:
        document = RunDocument.read(self._folder) if existing and (self._folder / "run.json").exists() else None
        if document is not None:
            index = Index(self._folder)
            self._check(document, index)
            index.close()
        found = self._survey(lambda names: None)
        return self._prepare(found, document).plan(found)

    def run(self, *, overwrite: bool = False, must_exist: bool = False) -> Run:
        if must_exist and not (self._folder / "run.json").exists():
            raise RunNotFoundError(f"there is no run in {self._folder}", "`patchloom predict` makes one")
        with self._locked_folder() as lock:
            if overwrite:
                _discard(self._folder)
            document = RunDocument.read(self._folder) if (self._folder / "run.json").exists() else None
            if document is None:
                _discard(self._folder)  # what a session left that ended before its first patch
            finished = self._locked(lock, document)
        run = Run(self._folder, _resume)
        if finished.stopped:
            raise Interrupted("stopped cleanly", f"resume with: patchloom resume {self._folder}")
        if finished.failed:
            plural = "s" * (finished.failed != 1)
            warnings.warn(f"{finished.failed} image{plural} failed; see run.failures()", stacklevel=4)
        return run

    def _locked(self, lock: Lock, document: RunDocument | None) -> RunFinished:
        sweep_partial(self._folder)
        check_logs(self._folder / "journal")
        compact(self._folder / "journal")
        index = Index(self._folder)
        try:
            if document is not None:
                self._check(document, index)
            _sweep_tables(self._folder, index)
            journal = Journal(self._folder / "journal")
            try:
                found = self._survey(lambda names: _list(journal, index, names))
                ready = self._prepare(found, document)
                if document is None:
                    self._document(ready).write(self._folder)
                index.refresh()
                started = self._started(index, found, resumed=document is not None)
                for hint in ready.hints:
                    self._emit(Warned(hint))
                return execute(ready, lambda: iter(self._source), index, journal, lock, self._emit, started)
            finally:
                journal.close()
        finally:
            index.close()

    def _check(self, document: RunDocument, index: Index) -> None:
        document.check_same(self._config, self._identity, index.counts()["done"])

    def _survey(self, seen: Callable[[list[str]], None]) -> Survey:
        return survey(self._source, self._config, number_of_axes(self._config, self._model), seen)

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
            begun = (folder / "run.json").exists()
            if not begun:
                _discard(folder)
            lock.release()
            if not begun and not (folder / "lock").exists():
                (folder / GUARD).unlink(missing_ok=True)
                if not existed:
                    folder.rmdir()


def _check_ours(folder: Path) -> None:
    """Raise OutputError where a folder holds anything that no run left there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file", "choose another -o")
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise output_error(error, folder / "run.json") from error
    begun = "run.json" in names or GUARD in names
    if names - OURS or (names and not begun):
        raise OutputError(f"{folder} holds other files and is no run", "choose another -o")


def _list(journal: Journal, index: Index, names: list[str]) -> None:
    new = index.unknown(names)
    if new:
        journal.append({"is": "listed", "images": new}, durable=False)


def _sweep_tables(folder: Path, index: Index) -> None:
    """Remove tables that a crash left without a record: whoever reads the folder as it is would count rows twice."""
    for path in (folder / "patches").rglob("*.parquet"):
        if not index.knows_file(path.relative_to(folder).as_posix()):
            path.unlink()


def _discard(folder: Path) -> None:
    """Remove a run; what says that it is one goes first, so that a crash in between leaves no half of it."""
    for name in ("run.json", "index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
        (folder / name).unlink(missing_ok=True)
    for name in ("journal", "patches", "dense"):
        shutil.rmtree(folder / name, ignore_errors=True)
