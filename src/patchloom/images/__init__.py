"""Where pixels come from: images, the readers of their formats, and the sources that enumerate them."""

from patchloom.images.array import ArrayImage
from patchloom.images.image import Image, ImageInfo, Reader
from patchloom.images.plane import Plane, Planes, planes
from patchloom.images.registry import open_image
from patchloom.images.source import Entry, Source, as_source, from_spec

__all__ = [
    "ArrayImage",
    "Entry",
    "Image",
    "ImageInfo",
    "Plane",
    "Planes",
    "Reader",
    "Source",
    "as_source",
    "from_spec",
    "open_image",
    "planes",
]
