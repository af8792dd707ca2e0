"""What users call: `predict`, `plan`, `open` and the `Run` that they give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchloom.config import Config
from patchloom.engine.plan import Plan
from patchloom.errors import UsageError
from patchloom.events import Callback
from patchloom.objects import ObjectPath, as_path
from patchloom.predictions.files import named_errors
from patchloom.run import Run
from patchloom.session import Session, resume, sourced

__all__ = ["Run", "open", "plan", "predict"]


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
    return Session(as_path(out), sourced(source, config), model, config, callbacks).run(overwrite=overwrite)


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
    session = Session(as_path(out or "."), sourced(source, config), model, config, ())
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
        return Run(folder, resume, store)


def _config(config: Config | None, options: dict[str, Any]) -> Config:
    unknown = set(options) - {*Config.__dataclass_fields__}
    if unknown:
        raise UsageError(f"unknown option {min(unknown)!r}", f"options are {', '.join(Config.__dataclass_fields__)}")
    return (config or Config()).replace(**options) if options else config or Config()
