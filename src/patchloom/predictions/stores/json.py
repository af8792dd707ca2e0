"""Predictions in a folder of readable JSON files, one an image.

``json:folder`` holds ``<image>.json`` for the first run that is put there, which ``%run.json`` names; those of every other
run are in the folder ``%run-<id>`` in it. Names of images are escaped as in the folder of a run. A file is replaced
as a whole. Its first lines say what it is of; after that comes one line a patch, in the order of their keys::

    {"format": 1, "run": "5f0c…", "image": "a/s.tif", "axes": "YX",
     "heads": {"probabilities": {"dtype": "float32", "shape": [2], "classes": ["stroma", "tumour"]}},
     "patches": [
    {"y": 0, "x": 0, "row": 0, "col": 0, "height": 64, "width": 64, "predictions": {"probabilities": {"stroma": 0.1, "tumour": 0.9}}},
    {"y": 0, "x": 64, "row": 0, "col": 1, "height": 64, "width": 64, "predictions": {"probabilities": null}}
    ]}

An image with maps has ``"maps": {"<head>": "<path or URL>"}``, too, in a line in front of its patches.

A prediction is an object of scores where it has classes, else a list or a number; null where the patch was skipped.
Numbers that JSON does not know are the texts ``NaN``, ``Infinity`` and ``-Infinity``. Floats have as many digits as their
dtype needs.

While a large image is being predicted its patches are appended to ``<image>.json.log``, one JSON line a patch, and go
into the file when the log is as long as the file, or when the store is closed: so what is written stays in proportion to
what there is. Whoever reads the file of a run that is not finished reads the log, too: later lines count.
"""  # noqa: E501

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import StoreError
from patchloom.models.model import Head
from patchloom.predictions.files import PARTIAL, flush, write_file
from patchloom.predictions.layout import file_name
from patchloom.predictions.patches import UnitRows, score_columns
from patchloom.predictions.stores.json_lines import find_line
from patchloom.predictions.stores.rows import WORDS, collected, keys_of, skipped_of
from patchloom.predictions.stores.store import StoredRows, StoredRun

__all__ = ["JsonStore"]

FORMAT = 1
OWNER = "%run.json"
"""Says whose files are in the folder itself; no image has a file of that name, since ``%`` is escaped in names."""
CACHED = 8
"""Images whose files are kept decoded."""
ENCODER = json.JSONEncoder(separators=(", ", ": "), check_circular=False)
Key = tuple[int, ...]
Line = dict[str, Any]


class JsonStore:
    """A run's predictions as JSON files.

    Parameters
    ----------
    url
        ``json:folder``.
    run
        Whose predictions.
    """

    def __init__(self, url: str, run: StoredRun) -> None:
        self._run = run
        self._folder = Path(os.path.abspath(os.path.expanduser(url.partition(":")[2])))
        self._locks = [threading.Lock() for _ in range(64)]
        self._lock = threading.Lock()
        self._writes = False
        self._cache: OrderedDict[Path, tuple[object, _Image]] = OrderedDict()
        self._own: Path | None = None

    def put(self, axes: str, rows: Mapping[str, Sequence[UnitRows]]) -> None:
        """As `PredictionStore.put`: each image's lines are there as a whole, or not."""
        images: dict[str, dict[Key, Line]] = {}
        for name, parts in rows.items():
            head = self._run.head(name)
            for part in parts:
                lines = images.setdefault(part.image, {})
                for key, line in _lines(head, axes, part):
                    found = lines.setdefault(key, line)
                    found["predictions"] |= line["predictions"]
        for image, lines in images.items():
            self._put_image(image, axes, lines)

    def get(self, head: str, image: str, axes: str, key: tuple[int, ...]) -> Any | None:
        """As `PredictionStore.get`."""
        line = self._line(self._path(image), tuple(key))
        found = None if line is None else line["predictions"].get(head)
        return None if found is None else _value(self._run.head(head), found)

    def rows(self, head: str, image: str, axes: str) -> Iterator[StoredRows]:
        """As `PredictionStore.rows`."""
        lines = self._read(image).lines
        about = self._run.head(head)
        there = sorted(key for key, line in lines.items() if head in line["predictions"])
        for first in range(0, len(there), 4096):
            values = [(key, lines[key]["predictions"][head]) for key in there[first : first + 4096]]
            found = [(key, None if value is None else _value(about, value)) for key, value in values]
            yield from collected(about, found, len(axes))

    def count(self, head: str, image: str | None = None) -> int:
        """As `PredictionStore.count`; of the whole run it reads every file."""
        paths = [self._path(image)] if image is not None else self._files()
        return sum(sum(head in line["predictions"] for line in self._load(path).lines.values()) for path in paths)

    def link(self, images: Mapping[str, Mapping[str, str]]) -> None:
        """As `PredictionStore.link`."""
        for image, maps in images.items():
            with self._changing(image) as path:
                found = self._load(path)
                self._fold(path, _Image(image, found.axes, found.lines, dict(maps)))

    def maps(self, image: str) -> dict[str, str]:
        """As `PredictionStore.maps`."""
        return dict(self._read(image).maps)

    def delete(self, image: str | None = None) -> None:
        """As `PredictionStore.delete`."""
        for path in [self._path(image)] if image is not None else list(self._files()):
            with self._alone(path):
                for each in (path, _log(path)):
                    each.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other images are in it
                _remove_empty(path.parent, self._owned())
        if image is None:
            self._disown()

    def close(self) -> None:
        """As `PredictionStore.close`: logs go into their files."""
        if not self._writes:
            return
        for log in sorted(self._owned().rglob("*.json.log")):  # also what a crash has left
            path = log.with_suffix("")
            with self._alone(path):
                self._fold(path, self._load(path))
        self._writes = False

    def _put_image(self, image: str, axes: str, lines: dict[Key, Line]) -> None:
        with self._changing(image) as path:
            if _axes(path) == axes:
                text = b"".join(_encoded([list(key), line]) + b"\n" for key, line in lines.items())
                if _size(_log(path)) + len(text) < _size(path):
                    _append(_log(path), text)
                    return
            there = self._load(path)
            found = _Image(image, axes, dict(there.lines), there.maps)
            for key, line in lines.items():
                found.take(key, line)
            self._fold(path, found)

    @contextlib.contextmanager
    def _changing(self, image: str) -> Iterator[Path]:
        """Path of an image's file, which nobody else writes meanwhile."""
        path = self._path(image, make=True)
        self._writes = True
        try:
            with self._alone(path, make=True):
                yield path
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}", "make room, or change its permissions") from error

    def _fold(self, path: Path, image: _Image) -> None:
        write_file(path, image.encoded(self._run))
        flush({path})
        _log(path).unlink(missing_ok=True)

    def _read(self, image: str) -> _Image:
        return self._load(self._path(image))

    def _line(self, path: Path, key: Key) -> Line | None:
        if path not in self._cache and not _log(path).exists():
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):  # reading the file says what is wrong
                return find_line(path, self._run.id, key)
        return self._load(path).lines.get(key)

    def _load(self, path: Path) -> _Image:
        version = _version(path), _version(_log(path))
        with self._lock:
            found = self._cache.get(path)
            if found is not None and found[0] == version:
                self._cache.move_to_end(path)
                return found[1]
        image = _decoded(path, self._run.id)
        with self._lock:
            self._cache[path] = version, image
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return image

    def _files(self) -> Iterator[Path]:
        """Files of all images of the run."""
        owned = self._owned()
        for path in sorted(owned.rglob("*.json")) if owned.is_dir() else []:
            below = path.relative_to(owned).parts
            if below[0] != OWNER and not below[0].startswith("%run-"):
                yield path

    def _path(self, image: str, *, make: bool = False) -> Path:
        *folders, name = file_name(image).split("/")
        folders = [f"{folder}%" if folder.endswith((".json", ".log", ".lock")) else folder for folder in folders]
        return self._owned(make=make).joinpath(*folders, f"{name}.json")

    def _owned(self, *, make: bool = False) -> Path:
        """Where this run's files are: the folder itself, for the run that came first, or a folder of its own in it."""
        with self._lock:
            if self._own is not None and not make:
                return self._own
            try:
                owner = _owner(self._folder, self._run.id if make else None)
            except OSError as error:
                raise StoreError(f"{self._folder}: {error.strerror or error}", "choose another folder") from error
            own = self._folder if owner == self._run.id else self._folder / f"%run-{self._run.id}"
            self._own = own if make or owner is not None else None
            return own

    def _disown(self) -> None:
        if self._owned() == self._folder:
            (self._folder / OWNER).unlink(missing_ok=True)
        else:
            shutil.rmtree(self._owned(), ignore_errors=True)
        self._own = None

    @contextlib.contextmanager
    def _alone(self, path: Path, *, make: bool = False) -> Iterator[None]:
        """No other thread or process writes the image meanwhile; without its folder there is nothing to write."""
        lock = _lock(path)
        with self._locks[hash(path) % len(self._locks)], contextlib.ExitStack() as stack:
            while make or path.parent.is_dir():
                with contextlib.suppress(FileNotFoundError):  # whoever had the lock, or the folder, has just removed it
                    if make:
                        path.parent.mkdir(parents=True, exist_ok=True)
                    file = stack.enter_context(lock.open("ab"))
                    fcntl.flock(file, fcntl.LOCK_EX)
                    if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                        break
            yield
            if not _log(path).exists():
                lock.unlink(missing_ok=True)  # while it is ours: whoever waits for it then sees that it is gone


class _Image:
    """What the file and the log of an image say."""

    def __init__(self, name: str, axes: str, lines: dict[Key, Line], maps: Mapping[str, str] | None = None) -> None:
        self.name, self.axes, self.lines, self.maps = name, axes, lines, maps or {}

    def take(self, key: Key, line: Line) -> None:
        """Put a line in the place of one that is there; heads that it does not mention stay."""
        before = self.lines.get(key)
        self.lines[key] = line if before is None else before | line | {
            "predictions": before["predictions"] | line["predictions"]}

    def encoded(self, run: StoredRun) -> bytes:
        """The whole file."""
        heads = {head.name: {"dtype": head.dtype.name, "shape": head.shape, "classes": head.classes}
                 for head in run.heads}
        about = {"format": FORMAT, "run": run.id, "image": self.name, "axes": self.axes}
        lines = b",\n".join(_encoded(self.lines[key]) for key in sorted(self.lines))
        maps = b',\n "maps": ' + _encoded(self.maps) if self.maps else b""
        return b"".join([_encoded(about)[:-1], b',\n "heads": ', _encoded(heads), maps,
                         b',\n "patches": [\n', lines, b"\n]}\n"])


def _decoded(path: Path, run: str) -> _Image:
    image, logged = _Image("", "", {}), b""
    try:
        with contextlib.suppress(FileNotFoundError):
            logged = _log(path).read_bytes()  # before the file: in between, what is in it may go there
        with contextlib.suppress(FileNotFoundError):
            document = json.loads(path.read_bytes())
            if document["run"] != run:  # which discarded ours, and has the folder now
                return image
            axes = document["axes"].lower()
            lines = {tuple(line[axis] for axis in axes): line for line in document["patches"]}
            image = _Image(document["image"], document["axes"], lines, document.get("maps"))
        for text in logged.splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # a crash leaves a torn line, of which nothing was promised
                key, line = json.loads(text)
                image.take(tuple(key), line)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {error}", "remove it, then predict the image again") from error
    return image


def _lines(head: Head, axes: str, rows: UnitRows) -> Iterator[tuple[Key, Line]]:
    spatial = axes[len(rows.loops) :]
    words = [*axes.lower(), *(WORDS[axis][i] for i in (0, 1) for axis in spatial)]
    keys = keys_of(rows).tolist()
    numbers = np.concatenate([keys_of(rows), rows.places, rows.shapes], axis=1).tolist()
    values = _plain(rows.values.reshape(len(keys), math.prod(head.shape)))
    names = score_columns(head) if head.shape and head.classes and len(head.classes) == head.shape[0] else []
    names = [] if names == ["prediction"] else names
    for key, line, value, skipped in zip(keys, numbers, values, skipped_of(rows).tolist(), strict=True):
        found: Any = value if head.shape else value[0]
        found = dict(zip(names, value, strict=True)) if names else found
        yield tuple(key), dict(zip(words, line, strict=True)) | {"predictions": {head.name: None if skipped else found}}


def _plain(values: NDArray[Any]) -> list[list[Any]]:
    """Numbers as JSON can have them, with no more digits than they need."""
    if values.dtype.kind != "f":
        return values.tolist()
    if values.dtype.itemsize < 8:
        texts = values.astype(str)  # the shortest that gives the same number of this dtype
        shortest: NDArray[np.float64] = texts.astype(np.float64)
    else:
        shortest = values
    lines: list[list[Any]] = shortest.tolist()
    for i, k in zip(*np.nonzero(~np.isfinite(values)), strict=True):
        lines[i][k] = "NaN" if np.isnan(values[i, k]) else "Infinity" if values[i, k] > 0 else "-Infinity"
    return lines


def _value(head: Head, found: Any) -> Any:
    numbers = list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else [found]
    numbers = [float(number) if isinstance(number, str) else number for number in numbers]
    return np.asarray(numbers, head.dtype).reshape(head.shape)[()]


def _encoded(value: Any) -> bytes:
    return ENCODER.encode(value).encode("ascii")


def _axes(path: Path) -> str | None:
    """Axes of the keys in a file; None where there is no file, or a damaged one."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError), path.open("rb") as file:
        axes: str = json.loads(file.readline().rstrip(b",\n") + b"}")["axes"]
        return axes
    return None


def _append(path: Path, text: bytes) -> None:
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        if size and not _ends_with_line(path):
            text = b"\n" + text  # what was torn is a line of its own, and no JSON
        file.write(text)
        os.fsync(file.fileno())


def _ends_with_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _owner(folder: Path, claim: str | None) -> str | None:
    """Run whose files are in a folder itself; nobody's becomes that of `claim`."""
    path = folder / OWNER
    if claim is not None and not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f"{OWNER}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
        made.write_text(json.dumps({"format": FORMAT, "run": claim}))
        with contextlib.suppress(FileExistsError):
            os.link(made, path)  # whole, and only if nobody was faster
        made.unlink()
    try:
        found: str = json.loads(path.read_text())["run"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{path} is damaged", "choose another folder") from None
    return found


def _remove_empty(folder: Path, top: Path) -> None:
    while folder not in (top, top.parent):
        folder.rmdir()
        folder = folder.parent


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}.log")


def _lock(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
