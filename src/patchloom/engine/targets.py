"""Where predictions go beside the run's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patchloom.config import Config
from patchloom.engine.survey import Survey
from patchloom.errors import UsageError
from patchloom.images.source import Source
from patchloom.predictions.folder import RunDocument
from patchloom.predictions.layout import RunLayout
from patchloom.predictions.stores.store import PredictionStore, StoredRun, open_store

if TYPE_CHECKING:
    from patchloom.predictions.write_back import WriteBack

__all__ = ["opened_store", "opened_write_back"]


def opened_store(document: RunDocument, layout: RunLayout, url: str | None) -> PredictionStore | None:
    """Where rows of vector heads go, and what is told where maps are; None: into the run's folder.

    Parameters
    ----------
    url
        With the password, where that is needed.
    """
    kept = document.config.store
    if kept is None:
        return None
    return open_store(url or kept, StoredRun(document.id, layout.vector_heads, layout.ndim))


def opened_write_back(source: Source | None, layout: RunLayout, config: Config, found: Survey) -> WriteBack | None:
    """The table of the source's database that gets the predictions, too; None where none is to.

    Raises
    ------
    UsageError
        If the source is no SQL database.
    """
    if config.write_back is None:
        return None
    if source is None or (source.spec() or {}).get("kind") != "sql":
        raise UsageError("write_back: the source is no SQL database", "leave out --write-back, or choose a --store")
    from patchloom.images.sources.sql import SQLSource
    from patchloom.predictions.write_back import WriteBack

    assert isinstance(source, SQLSource)
    one_patch = all(size.planes == 1 and len(layout.grid(size.plane)) == 1 for size in found.sizes)
    return WriteBack(source, config.write_back, layout.heads, layout.ndim, one_patch=one_patch, folder=layout.folder)
