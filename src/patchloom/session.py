"""One call of `predict` or `resume`, from its arguments to a `Run`: alone, or as one of the shards of a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchloom.config import Config
from patchloom.engine.assignment import Assignment, assignments
from patchloom.engine.cluster import Executor
from patchloom.engine.dealing import Dealing, Share, deal
from patchloom.engine.distribute import Workforce, distribute
from patchloom.engine.local import Local, execute
from patchloom.engine.plan import Plan, machine_threads
from patchloom.engine.prepare import Ready, load, number_of_axes, prepare, resolved
from patchloom.engine.session import Stand
from patchloom.engine.sharing import Standing, execute_share
from patchloom.engine.survey import Survey, survey
from patchloom.engine.targets import opened_store, opened_write_back
from patchloom.engine.tasks import Dealt
from patchloom.engine.worker import Setting
from patchloom.errors import ConfigMismatchError, Interrupted, RunLockedError, RunNotFoundError, UsageError
from patchloom.events import Callback, Event, RunFinished, RunStarted, Warned
from patchloom.images.source import DATABASE, Entry, Source, as_source, from_spec
from patchloom.models.identity import live_identity
from patchloom.models.model import Model
from patchloom.objects import AnyPath
from patchloom.parsing import Shard
from patchloom.predictions.files import named_errors, sweep_partial
from patchloom.predictions.folder import RunDocument
from patchloom.predictions.index import Index
from patchloom.predictions.journal import Journal
from patchloom.predictions.layout import RunLayout
from patchloom.predictions.leases import alone, shard_lease, turn, writer_lease
from patchloom.predictions.lock import GUARD, Lock
from patchloom.predictions.stores.store import PredictionStore
from patchloom.predictions.stores.url import without_password
from patchloom.predictions.upkeep import check_ours, discard, sweep_units, tidy
from patchloom.run import Run

if TYPE_CHECKING:
    from patchloom.predictions.write_back import WriteBack

__all__ = ["Session", "resume", "sourced"]


def sourced(source: Any, config: Config) -> Source:
    """The images, as `predict` takes them, with what options say of them."""
    return as_source(source, axes=config.axes, **{name: getattr(config, name) for name in DATABASE})


def resume(run: Run, model: Any, source: Any, callbacks: Sequence[Callback], options: dict[str, Any]) -> Run:
    """Go on with a run: `Run.resume`."""
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
    found = sourced(source, document.config)
    config = document.config
    if options["executor"] is not None or options["shard"] is not None:
        config = config.replace(executor="local", workers=None)  # of the executor that is given up
    config = config.replace(**{name: value for name, value in options.items() if value is not None})
    return Session(run.path, found, model, config, callbacks).run(must_exist=True)


@dataclass(frozen=True)
class _Begun:
    """What a session has before it predicts."""

    document: RunDocument
    found: Survey
    ready: Ready
    journal: Journal
    store: PredictionStore | None
    also: WriteBack | None


class Session:
    """One call of `predict` or `resume`: from arguments to a `Run`."""

    def __init__(
        self, folder: AnyPath, source: Source, model: Any, config: Config, callbacks: Sequence[Callback]
    ) -> None:
        self._folder, self._source, self._callbacks = folder, source, callbacks
        self._given_model, self._spec = model, _spec(model)
        self._begun = True  # until it is known that there is no run: what is there stays
        self._store_url = config.store
        if config.store is not None:
            config = config.replace(store=without_password(config.store))  # nothing else gets to know the password
        self._shard, config = config.shard, config.replace(shard=None)
        self._executor, config = _executor(config)
        if self._shard is not None and self._executor is not None:
            raise UsageError("shards are processes without an executor", "leave out --shard, or --executor ray")
        self._asked = config
        self._model: Model = load(model, config, machine_threads(config))
        self._config = resolved(config, self._model)
        self._identity = f"id:{config.model_id}" if config.model_id else self._model.info.identity

    def plan(self, *, existing: bool) -> Plan:
        if self._shard is not None:
            raise UsageError("a plan is of the whole run, not of a shard", "leave out --shard with --dry-run")
        with named_errors(self._folder):
            there = existing and (self._folder / "run.json").exists()
        document = RunDocument.read(self._folder) if there else None
        if document is not None:
            index = Index(self._folder)
            self._check(document, index)
            index.close()
        found = self._survey(lambda names: None)
        ready = self._prepare(found, document)
        plan = ready.plan(found)
        if self._executor is None:
            return plan
        return replace(plan, dealt=Dealt.of(ready.layout, found, self._executor.expected()))

    def run(self, *, overwrite: bool = False, must_exist: bool = False) -> Run:
        with named_errors(self._folder):
            finished = self._finished(overwrite=overwrite, must_exist=must_exist)
            run = Run(self._folder, resume, self._store_url)
        if finished.stopped:
            again = f" --shard {self._shard}" if self._shard is not None else ""
            raise Interrupted("stopped cleanly", f"resume with: patchloom resume {self._folder}{again}")
        if finished.failed:
            plural = "s" * (finished.failed != 1)
            warnings.warn(f"{finished.failed} image{plural} failed; see run.failures()", stacklevel=4)
        return run

    def _finished(self, *, overwrite: bool, must_exist: bool) -> RunFinished:
        if must_exist and not (self._folder / "run.json").exists():
            raise RunNotFoundError(f"there is no run in {self._folder}", "`patchloom predict` makes one")
        if self._shard is not None:
            if overwrite:
                raise UsageError("overwrite and shard exclude each other: no shard discards what others write",
                                 "choose another -o, or remove the folder first")
            return self._shared(self._shard)
        with self._locked_folder() as lock:
            if overwrite:
                self._discard_stored()
                discard(self._folder)
            document = self._document_there()
            self._begun = document is not None
            if document is None:
                discard(self._folder)  # what a session left that ended before its first patch
            return self._locked(lock, document)

    def _locked(self, lock: Lock, document: RunDocument | None) -> RunFinished:
        tidy(self._folder)
        with closing(Index(self._folder)) as index, ExitStack() as stack:
            if document is not None:
                self._check(document, index)
            sweep_units(self._folder, index)
            begun = self._begin(stack, index, document)
            workforce = None
            if self._executor is not None:
                workforce = stack.enter_context(closing(Workforce.started(self._executor, self._setting(begun, lock))))
            if document is None:
                begun.document.write(self._folder)
            self._begun = True
            index.refresh()
            started = self._started(index, begun.found.images, resumed=document is not None)
            self._hint(begun)
            ready, journal = begun.ready, begun.journal
            assigned = assignments(iter(self._source), index, ready.layout)
            to = journal, lock, self._emit, started, begun.store, begun.also
            if workforce is None:
                return execute(ready, assigned, index, *to)
            return distribute(workforce, begun.found, ready.layout, assigned, index, *to)

    def _shared(self, shard: Shard) -> RunFinished:
        """The session of one of several processes that share a run; see `predictions.leases`."""
        check_ours(self._folder)
        with closing(Index(self._folder, private=True)) as index, ExitStack() as stack:
            begun = None
            with self._turn(shard) as lock, ExitStack() as taken:
                lease = taken.enter_context(shard_lease(self._folder, shard))
                document = self._document_there()
                self._begun = document is not None
                _check_shareable(self._config if document is None else document.config)
                if alone(self._folder, shard) or document is None:
                    begun = self._first(taken, index, document, shard, lock)
                    document = document or RunDocument.read(self._folder)
                stack.enter_context(taken.pop_all())
            index.refresh()  # not before: the others wait for their turn
            if begun is None:
                self._check(document, index)
            share = Share(shard, _dealt(index, shard), document.layout(self._folder))
            if begun is None:
                begun = self._begin(stack, index, document, share)
                index.refresh()
            standing = Standing(share, index)
            finished = self._predict_share(share, standing, index, begun, lease)
            self._leave(shard, lease, index)
            return finished

    def _first(
        self, stack: ExitStack, index: Index, document: RunDocument | None, shard: Shard, lock: Lock
    ) -> _Begun | None:
        """What the first one at work does for all: clear up, and deal the run out; None where it was dealt before."""
        if document is None:
            discard(self._folder)
        tidy(self._folder)
        index.refresh()
        if document is not None:
            self._check(document, index)
        sweep_units(self._folder, index)
        before = Dealing.recorded(index)
        if document is not None and before is not None and before.of == shard.of:
            return None
        begun = self._begin(stack, index, document)
        lock.check()
        begun.journal.append(deal(shard.of, begun.found, begun.ready.layout, before).record())
        if document is None:
            begun.document.write(self._folder)
        self._begun = True
        return begun

    @contextmanager
    def _turn(self, shard: Shard) -> Iterator[Lock]:
        with turn(self._folder, shard, waiting=lambda who: self._emit(Warned(f"waiting for {who}"))) as lock:
            try:
                yield lock
            finally:
                if not self._begun:
                    discard(self._folder)

    def _predict_share(
        self, share: Share, standing: Standing, index: Index, begun: _Begun, lease: Lock
    ) -> RunFinished:
        def local(assigned: Iterator[Assignment], tell: Callback) -> Local:
            ready, journal = begun.ready, begun.journal
            return Local(ready, lambda feed: feed.images(assigned), journal, lease, tell, begun.store, begun.also)

        counts = standing.counts()
        resumed = counts["done"] + counts["partial"] > 0
        started = self._started(standing, sum(counts.values()), resumed=resumed)
        self._hint(begun)
        return execute_share(share, self._source.__iter__, index, standing, local, self._emit, started)

    def _leave(self, shard: Shard, lease: Lock, index: Index) -> None:
        """Give a shard's lease back; the last one removes what shards that were killed left without a record."""
        # Where somebody else has the folder for a moment, whoever begins next does it.
        with suppress(RunLockedError), turn(self._folder, shard):
            if alone(self._folder, shard):
                index.refresh()
                sweep_partial(self._folder)
                sweep_units(self._folder, index)
            lease.release()

    def _begin(
        self, stack: ExitStack, index: Index, document: RunDocument | None, share: Share | None = None
    ) -> _Begun:
        """Look at the source, or at a share of it, list it, and try the model; nothing else is written yet."""
        known = _done(index) if document is not None else lambda entry: False
        journal = Journal(self._folder / "journal")
        stack.callback(journal.close)

        def seen(names: list[str]) -> None:
            _list(journal, index, [name for name in names if share is None or share.owns(name)])

        def done(entry: Entry) -> bool:
            return known(entry) or (share is not None and not share.has(entry.name, entry.identity))

        found = self._survey(seen, done)
        journal.publish()
        ready = self._prepare(found, document)
        written = document or self._document(ready)
        store = self._store(written, ready.layout)
        if store is not None:
            stack.callback(store.close)
        return _Begun(written, found, ready, journal, store,
                      opened_write_back(self._source, ready.layout, self._config, found))

    def _setting(self, begun: _Begun, lock: Lock) -> Setting:
        """What workers of an executor are told."""
        return Setting(self._folder, begun.document, lock.holding, self._given_model, self._config, self._store_url,
                       self._source if begun.also is not None else None, begun.found)

    def _hint(self, begun: _Begun) -> None:
        for hint in begun.ready.hints:
            self._emit(Warned(hint))

    def _document_there(self) -> RunDocument | None:
        return RunDocument.read(self._folder) if (self._folder / "run.json").exists() else None

    def _store(self, document: RunDocument, layout: RunLayout) -> PredictionStore | None:
        """Where predictions of vector heads go, and what is told where maps are; None: into the run's folder."""
        store = opened_store(document, layout, self._store_url)
        if store is not None and not layout.vector_heads:
            self._emit(Warned("the model gives maps only: they stay in the run's folder, and the store holds where"))
        return store

    def _discard_stored(self) -> None:
        """Remove what a run that is going to be discarded has in a store."""
        if not (self._folder / "run.json").exists():
            return
        document = RunDocument.read(self._folder)
        same = self._store_url is not None and without_password(self._store_url) == document.config.store
        store = opened_store(document, document.layout(self._folder), self._store_url if same else None)
        if store is not None:
            with closing(store):
                store.delete()

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
        return prepare(self._model, self._config, found, document, self._folder)

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

    @staticmethod
    def _started(index: Stand, images: int, *, resumed: bool) -> RunStarted:
        counts = index.counts()
        partial = [row for row, _ in zip(index.images("partial"), range(16), strict=False)]
        return RunStarted(
            images,
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
        check_ours(folder)
        lock = writer_lease(folder)
        try:
            yield lock
        finally:
            if not self._begun:
                discard(folder)
            lock.release()
            if not self._begun and not (folder / "lock").exists():
                (folder / GUARD).unlink(missing_ok=True)
                if not existed:
                    folder.rmdir()


def _executor(config: Config) -> tuple[Executor | None, Config]:
    """Who runs the units, None for this process; and the options as the run keeps them."""
    from patchloom.engine.ray import Ray

    given, number = config.executor, config.workers
    if given == "local" and number is not None:
        raise UsageError("workers are those of executor ray", "add --executor ray, or leave out --workers")
    if isinstance(given, str):
        return (Ray(workers=number), config) if given == "ray" else (None, config)
    if number is not None:
        raise UsageError("workers are given twice", "leave them out, or out of the executor")
    if isinstance(given, Ray):
        return given, config.replace(executor="ray", workers=given.workers)
    return given, config.replace(executor="local")


def _spec(model: Any) -> str | list[str] | None:
    """What a model, or each model of an ensemble, is loaded from again; None where that is not possible."""
    if isinstance(model, (list, tuple)):
        specs = [_spec(one) for one in model]
        return [spec for spec in specs if isinstance(spec, str)] if None not in specs else None
    if not isinstance(model, (str, Path)):
        return None
    return str(Path(model).resolve()) if Path(model).exists() else str(model)


def _done(index: Index) -> Callable[[Entry], bool]:
    def done(entry: Entry) -> bool:
        row = index.image(entry.name)
        return row is not None and row.state == "done" and row.identity == entry.identity

    return done


def _list(journal: Journal, index: Index, names: list[str]) -> None:
    new = index.unknown(names)
    if new:
        journal.append({"is": "listed", "images": new}, durable=False)


def _check_shareable(config: Config) -> None:
    """Raise UsageError where several processes cannot write what is asked for."""
    if config.store is not None and config.store.startswith(("json:", "sqlite:")):
        raise UsageError(f"{config.store}: shards cannot write the same files at once",
                         "leave out --store, or choose a server; `patchloom copy` can fill a file afterwards")
    if config.write_back is not None:
        raise UsageError("write_back: shards cannot make one table", "leave out --write-back, or --shard")


def _dealt(index: Index, shard: Shard) -> Dealing:
    dealing = Dealing.recorded(index)
    if dealing is None or dealing.of != shard.of:
        raise RunLockedError(f"the run is not dealt to {shard.of}: a shard of as many began, and does not answer",
                             "start this one again in a minute")
    return dealing
