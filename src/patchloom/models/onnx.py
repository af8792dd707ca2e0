"""ONNX files, run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import MissingExtraError, ModelError, ModelLoadError, UsageError
from patchloom.models.checks import check_batch, refused_batch
from patchloom.models.heads import safe_names
from patchloom.models.identity import file_identity
from patchloom.models.model import ModelInfo
from patchloom.models.onnx_file import external_files
from patchloom.models.outputs import channels_first, to_numpy
from patchloom.models.steps import Steps

__all__ = ["OnnxLoader", "OnnxModel"]

FATAL = 4
"""Least severity that ONNX Runtime prints; everything else arrives as an exception."""
MOST_CHANNELS = 64
"""A fixed last axis up to this is taken for channels where the second axis is not fixed, or larger."""
DTYPES = {
    "float": np.float32, "float16": np.float16, "double": np.float64, "uint8": np.uint8, "int8": np.int8,
    "uint16": np.uint16, "int16": np.int16, "uint32": np.uint32, "int32": np.int32, "uint64": np.uint64,
    "int64": np.int64, "bool": np.bool_,
}  # fmt: skip
OUT_OF_MEMORY = re.compile(r"failed to allocate memory|bad_?\s?alloc|out of memory|CUDA_ERROR_OUT_OF_MEMORY", re.I)


class OnnxLoader:
    """Loader of ``.onnx`` files."""

    suffixes = (".onnx",)

    def recognises(self, model: object) -> bool:
        """Whether it is a file that ends in ``.onnx``."""
        return isinstance(model, Path) and model.suffix.lower() in self.suffixes and model.is_file()

    def load(
        self, model: Path, *, device: str, threads: int, arch: str | None, allow_pickle: bool, steps: Steps
    ) -> OnnxModel:
        """Load the graph; it takes no code along, so `allow_pickle` does not matter.

        Raises
        ------
        ModelLoadError
            If the file is damaged, has several inputs, or an input that is no batch of patches.
        """
        if arch is not None:
            raise UsageError(f"arch does not apply to {model}, which holds its own graph", "leave out arch")
        others = external_files(model)
        session, device = _session(model, device, threads)
        return OnnxModel(session, _info(model, session, file_identity(model, others), device))


class OnnxModel:
    """Model that ONNX Runtime runs; on a CPU it may be called from several threads, which share its weights."""

    def __init__(self, session: Any, info: ModelInfo) -> None:
        self._session = session
        self._info = info
        self._input = session.get_inputs()[0].name
        self._heads = safe_names(output.name for output in session.get_outputs())

    @property
    def info(self) -> ModelInfo:
        """What the graph says."""
        return self._info

    def predict(self, batch: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Predict a batch; see `Model.predict`."""
        info = self._info
        check_batch(info, batch)
        try:
            outputs = self._session.run(None, {self._input: np.ascontiguousarray(batch)})
        except MemoryError:
            raise
        except Exception as error:  # the runtime's exceptions have no common base of their own
            raise _understood(error, info, batch) from error
        ndim = batch.ndim - 2
        heads = {}
        for name, output in zip(self._heads, outputs, strict=True):
            array = to_numpy(output, f"head {name!r} of {info.name}")
            heads[name] = channels_first(array, ndim) if info.channels_last else array
        return heads


def _understood(error: Exception, info: ModelInfo, batch: NDArray[Any]) -> Exception:
    text = _reason(error)
    if OUT_OF_MEMORY.search(text):
        return MemoryError(f"{info.name}: {text}")
    if type(error).__module__.startswith("onnxruntime"):
        return refused_batch(info, batch, text)
    return ModelError(f"{info.name} fails: {type(error).__name__}: {text}")


def _reason(error: Exception) -> str:
    """Message of ONNX Runtime without its source files and codes, on one line."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", str(error))
    text = re.sub(r"/\S*?onnxruntime/\S+:\d+ .*?\) ", "", text)
    text = re.sub(r"Non-zero status code returned while running (\w+) node\. Name:'(.*?)' Status Message:",
                  r"\1 \2:", text)
    return " ".join(text.split())[:400]


def _session(path: Path, device: str, threads: int) -> tuple[Any, str]:
    """Session and the device that it really runs on."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(f"{path} needs onnxruntime, which cannot be imported: {error}",
                                "pip install onnxruntime") from error
    onnxruntime.set_default_logger_severity(FATAL)
    providers, device = _providers(onnxruntime, device)
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=_options(onnxruntime, threads), providers=providers
        )
    except Exception as error:  # the runtime's exceptions have no common base of their own
        text = _reason(error)
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text):
            raise MemoryError(f"{path}: {text}") from error
        raise ModelLoadError(f"{path} cannot be loaded: {text}", "export the model again, or update onnxruntime") from (
            error
        )
    if device != "cpu" and "CUDAExecutionProvider" not in session.get_providers():
        device = "cpu"
    return session, device


def _options(onnxruntime: Any, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores from decoding and writing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _providers(onnxruntime: Any, device: str) -> tuple[list[Any], str]:
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not number.isdigit()):
        raise UsageError(f"device {device!r} is unknown", "cpu, cuda, cuda:0 or auto")
    available = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind == "cuda" and not available:
        raise UsageError(
            f"device {device}: the installed onnxruntime has no CUDA", "pip install onnxruntime-gpu, or device=cpu"
        )
    if kind == "cpu" or not available:
        return ["CPUExecutionProvider"], "cpu"
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()
    options = {"device_id": int(number or 0), "arena_extend_strategy": "kSameAsRequested"}
    return [("CUDAExecutionProvider", options), "CPUExecutionProvider"], f"cuda:{int(number or 0)}"


def _info(path: Path, session: Any, identity: str, device: str) -> ModelInfo:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(f"{item.name} {item.shape}" for item in inputs)
        raise ModelLoadError(f"{path} has {len(inputs)} inputs: {names}", "export a model with one input, the patches")
    shape = inputs[0].shape
    if len(shape) not in (4, 5):
        raise ModelLoadError(
            f"{path} takes {inputs[0].name} of shape {shape}, which is no batch of patches",
            "export a model that takes (N, C, Y, X), (N, Y, X, C), or these with Z before Y",
        )
    metadata = session.get_modelmeta().custom_metadata_map
    channels_last = _channels_last(path, shape, metadata)
    sizes = [_fixed(size) for size in (shape[1:-1] if channels_last else shape[2:])]
    return ModelInfo(
        name=path.name,
        identity=identity,
        dtype=_dtype(path, inputs[0].type),
        channels_last=channels_last,
        channels=_fixed(shape[-1 if channels_last else 1]),
        patch=None if None in sizes else tuple(size for size in sizes if size is not None),
        batch=_fixed(shape[0]),
        ndim=len(shape) - 2,
        classes=_classes(metadata),
        concurrent=device == "cpu",
        device=device,
    )


def _fixed(size: Any) -> int | None:
    return size if isinstance(size, int) and size > 0 else None


def _channels_last(path: Path, shape: Sequence[Any], metadata: Mapping[str, str]) -> bool:
    """Whether the file says that channels are last, or where it does not, the sizes and names of its axes do."""
    for key in ("axes", "layout"):
        stated = metadata.get(key, "").strip().upper()
        if stated:
            if len(stated) != len(shape) or stated[0] != "N" or stated.find("C") not in (1, len(stated) - 1):
                raise ModelLoadError(
                    f"{path} says of itself {key}={stated!r}, which does not fit its input {list(shape)}",
                    "NCHW or NHWC; NCDHW or NDHWC for 3-D models",
                )
            return stated.endswith("C")
    first, last = _fixed(shape[1]), _fixed(shape[-1])
    if first is None and last is None:
        return _names_channels(shape[-1]) and not _names_channels(shape[1])
    if last is None or last > MOST_CHANNELS:
        return False
    if first is None:  # (N, C, 64, 64) may leave the number of channels open
        return last <= 4 or _fixed(shape[-2]) is None
    # (N, 128, 64, 64) is a square with many channels, (N, 128, 128, 64) too
    return first > last and (shape[-2] != last or shape[1] == shape[2])


def _names_channels(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"(.*[_\W])?(c|ch|chan|channels?|bands?)", name, re.I) is not None


def _dtype(path: Path, type_: str) -> np.dtype[Any]:
    name = type_.removeprefix("tensor(").removesuffix(")")
    if name not in DTYPES:
        raise ModelLoadError(f"{path} takes {type_}, which has no NumPy type", "export it with float32 input")
    return np.dtype(DTYPES[name])


def _classes(metadata: Mapping[str, str]) -> tuple[str, ...]:
    text = metadata.get("classes", "").strip()
    if text.startswith("["):
        with contextlib.suppress(json.JSONDecodeError):
            return tuple(str(item) for item in json.loads(text))
    return tuple(part.strip() for part in text.split(",") if part.strip())
