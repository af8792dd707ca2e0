"""Keras files: what they are, whether they are safe to load, and the model in them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from patchloom.errors import MissingExtraError, ModelError, ModelLoadError, PatchloomError
from patchloom.models.keras_config import check_config, unregistered
from patchloom.models.tensorflow_runtime import environment, import_tensorflow
from patchloom.references import resolve

__all__ = ["SUFFIXES", "import_keras", "is_keras_file", "load_file"]

FileKind = Literal["keras", "h5", "weights", "legacy weights"]

SUFFIXES = (".keras", ".h5", ".hdf5")
NEEDED: dict[FileKind, tuple[str, ...]] = {
    "keras": (".keras",), "h5": (".h5", ".hdf5"), "weights": (".weights.h5",), "legacy weights": (".h5", ".hdf5"),
}  # fmt: skip
"""How Keras wants each kind of file to be called."""
HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
CONFIG, METADATA = "config.json", "metadata.json"
LARGEST_CONFIG = 1 << 28
BACKENDS = ("tensorflow", "torch", "jax")
UNKNOWN = re.compile(
    r"(?:Unknown \w+: |Could not (?:locate|deserialize) (?:class|function) |Could not deserialize )"
    r"['\"]([^'\"]+)['\"]"
)


def is_keras_file(path: Path) -> bool:
    """Whether it is called like a Keras file, or is one by its content; Keras is not imported to find out."""
    if not path.is_file():
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(len(HDF5))
            return head == HDF5 or (head[:4] == ZIP and {CONFIG, METADATA} <= set(zipfile.ZipFile(file).namelist()))
    except (OSError, zipfile.BadZipFile):
        return False


def import_keras(what: str, threads: int) -> Any:
    """Module `keras`.

    Which backend computes is the user's choice (``KERAS_BACKEND``, ``~/.keras/keras.json``); where that one is not
    installed, and was not asked for by ``KERAS_BACKEND``, it is one that is.

    Raises
    ------
    MissingExtraError
        If Keras, or every backend for it, is not installed.
    """
    if "keras" not in sys.modules:
        if importlib.util.find_spec("keras") is None:
            raise MissingExtraError.of("keras", "keras", what)
        backend = _backend(what)
        if backend == "tensorflow":
            import_tensorflow(what, threads)
        with environment({"KERAS_BACKEND": backend}):
            return _imported(what)
    keras = _imported(what)
    if keras.config.backend() == "tensorflow":
        import_tensorflow(what, threads)
    return keras


def _imported(what: str) -> Any:
    try:
        import keras
    except ImportError as error:
        raise MissingExtraError(f"{what} needs keras, which cannot be imported: {error}",
                                "pip install 'patchloom[keras,tensorflow]'") from error
    if not hasattr(keras, "config"):
        raise MissingExtraError(f"{what} needs Keras 3, and {keras.__version__} is installed",
                                "pip install --upgrade keras")
    return keras


def _backend(what: str) -> str:
    asked = os.environ.get("KERAS_BACKEND")
    if asked:
        if asked in BACKENDS and importlib.util.find_spec(asked) is None:
            raise MissingExtraError(f"{what} needs {asked}, which KERAS_BACKEND asks for and is not installed",
                                    f"pip install {asked}, or set KERAS_BACKEND to another backend")
        return asked
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    try:
        configured = json.loads(Path(home, "keras.json").read_text(encoding="utf-8")).get("backend", "")
    except (OSError, ValueError, AttributeError):
        configured = ""
    if configured and configured not in BACKENDS:
        return str(configured)
    for backend in (configured, *BACKENDS):
        if backend and importlib.util.find_spec(backend) is not None:
            return backend
    raise MissingExtraError(f"{what} needs a backend of Keras, and none is installed",
                            "pip install 'patchloom[tensorflow]', or torch or jax")


def load_file(keras: Any, path: Path, arch: str | None, allow_pickle: bool) -> Any:
    """Model in a file; with `arch`, the weights of the file in the model that `arch` builds.

    Raises
    ------
    ModelLoadError
        If the file is damaged, holds only weights and `arch` is None, or does not fit `arch`.
    PickleRefusedError
        If loading would run code out of the file.
    """
    kind, config = _content(path)
    if arch is not None:
        return _filled(keras, path, kind, arch)
    if "weights" in kind:
        raise ModelLoadError(
            f"{path} holds weights only, and no architecture",
            "give --arch package.module:builder, a function that returns the model; or save it with model.save()",
        )
    if not allow_pickle:
        check_config(path, config, lambda name: keras.saving.get_registered_object(name) is not None)
    try:
        with _called_as(path, kind) as named:
            return keras.saving.load_model(named, compile=False, safe_mode=not allow_pickle)
    except (MemoryError, PatchloomError):
        raise
    except Exception as error:  # whatever a configuration leads to
        raise _not_loaded(path, error) from error


def _content(path: Path) -> tuple[FileKind, Any]:
    """Kind of a file, and its configuration, which is left out of files that hold weights only."""
    try:
        with path.open("rb") as file:
            head = file.read(len(HDF5))
            if head[:4] == ZIP:
                return "keras", _zipped_config(path, zipfile.ZipFile(file))
    except (OSError, zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError) as error:
        raise _damaged(path, error) from error
    if head != HDF5:
        raise _damaged(path)
    return _hdf5_content(path)


def _zipped_config(path: Path, archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    if CONFIG not in names:
        raise _damaged(path, f"a zip archive without {CONFIG}")
    if archive.getinfo(CONFIG).file_size > LARGEST_CONFIG:
        raise _damaged(path, f"its {CONFIG} is larger than any model's")
    config = json.loads(archive.read(CONFIG))
    # How the model was trained is not loaded, so it may name anything.
    return {key: value for key, value in config.items() if key != "compile_config"} if isinstance(config, dict) else {}


def _hdf5_content(path: Path) -> tuple[FileKind, Any]:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError.of("h5py", "keras", str(path)) from error
    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
            if config is None:
                legacy = "layer_names" in file.attrs or "model_weights" in file
                if not legacy and not {"layers", "vars", "_layer_checkpoint_dependencies"} & set(file):
                    raise _damaged(path, "an HDF5 file that holds no model")
                return "legacy weights" if legacy else "weights", None
            return "h5", json.loads(config)
    except PatchloomError:
        raise
    except Exception as error:  # h5py raises anything on damaged files
        raise _damaged(path, error) from error


def _filled(keras: Any, path: Path, kind: FileKind, arch: str) -> Any:
    """Model built by `arch`, with the weights of the file."""
    built = resolve(arch)
    try:
        model = built if isinstance(built, keras.Model) else built()
    except (MemoryError, PatchloomError):
        raise
    except Exception as error:
        raise ModelLoadError(f"{arch} raises {type(error).__name__}: {error}", "correct the builder") from error
    if not isinstance(model, keras.Model):
        raise ModelLoadError(f"{arch} builds a {type(model).__name__}", "return a keras.Model from it")
    if not model.built:
        raise ModelLoadError(
            f"{arch} builds a model without weights yet", "begin it with keras.Input(shape), or call model.build(shape)"
        )
    try:
        with _called_as(path, kind) as named:
            model.load_weights(named)
    except MemoryError:
        raise
    except Exception as error:
        raise ModelLoadError(f"{path} does not fit {arch}: {_short(error)}",
                             "check --arch, and the options of the builder") from error
    return model


@contextmanager
def _called_as(path: Path, kind: FileKind) -> Iterator[str]:
    """Name of the file as Keras wants it: where it is called otherwise, that of a copy."""
    suffixes = NEEDED[kind]
    weights = path.name.endswith(".weights.h5")
    if path.name.endswith(suffixes) and (kind != "legacy weights" or not weights):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(shutil.copy(str(path), os.path.join(folder, f"model{suffixes[0]}")))


def _damaged(path: Path, reason: object = "") -> ModelLoadError:
    why = _short(reason)
    return ModelLoadError(f"{path} is damaged, or no Keras file{f': {why}' if why else ''}",
                          "save or copy the model again")


def _not_loaded(path: Path, error: Exception) -> ModelError:
    unknown = UNKNOWN.search(str(error))
    if unknown is not None:
        return unregistered(path, unknown[1])
    if isinstance(error, (OSError, zipfile.BadZipFile, KeyError, EOFError)):
        return _damaged(path, error)
    return ModelLoadError(
        f"{path} cannot be loaded: {type(error).__name__}: {_short(error)}",
        "save it again with the installed version of Keras, as a .keras file",
    )


def _short(reason: object) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(reason)).split())[:300]
