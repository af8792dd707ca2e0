"""Run a trained model over every patch of every image, and look the predictions up afterwards."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from patchloom.api import Run, open, plan, predict
    from patchloom.config import Config
    from patchloom.engine.plan import Plan
    from patchloom.engine.ray import Ray
    from patchloom.errors import Interrupted, PatchloomError
    from patchloom.geometry.grid import Grid
    from patchloom.geometry.region import Region
    from patchloom.images.image import Image, ImageInfo
    from patchloom.images.source import Source
    from patchloom.images.sources.mongo import MongoSource
    from patchloom.images.sources.sql import SQLSource
    from patchloom.models.model import Head, Model

_HOMES = {
    "Config": "config",
    "Grid": "geometry.grid",
    "Head": "models.model",
    "Image": "images.image",
    "ImageInfo": "images.image",
    "Interrupted": "errors",
    "Model": "models.model",
    "MongoSource": "images.sources.mongo",
    "PatchloomError": "errors",
    "Plan": "engine.plan",
    "Ray": "engine.ray",
    "Region": "geometry.region",
    "Run": "api",
    "SQLSource": "images.sources.sql",
    "Source": "images.source",
    "open": "api",
    "plan": "api",
    "predict": "api",
}

__all__ = [
    "Config",
    "Grid",
    "Head",
    "Image",
    "ImageInfo",
    "Interrupted",
    "Model",
    "MongoSource",
    "PatchloomError",
    "Plan",
    "Ray",
    "Region",
    "Run",
    "SQLSource",
    "Source",
    "open",
    "plan",
    "predict",
]


def __getattr__(name: str) -> Any:
    # What a name needs is imported when it is used: `import patchloom` costs next to nothing.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
