"""PyTorch: live modules, TorchScript, exported programs and state dicts."""

from __future__ import annotations

import copy
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import MissingExtraError, ModelError, ModelInputError, UsageError
from patchloom.models import torch_steps
from patchloom.models.checks import check_batch, described_batch, refused_batch
from patchloom.models.model import ModelInfo
from patchloom.models.outputs import named, to_numpy
from patchloom.models.steps import Steps
from patchloom.models.torch_module import Loaded, describe, from_file, from_module

__all__ = ["TorchLoader", "TorchModel"]

OUT_OF_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory", re.I)
WRONG_CHANNELS = re.compile(r"expected input\[.*?\] to have (\d+) channels, but got (\d+)")


class TorchLoader:
    """Loader of ``.pt``, ``.pth``, ``.pt2`` and ``.safetensors`` files and of live modules."""

    suffixes = (".pt", ".pth", ".pt2", ".safetensors")

    def recognises(self, model: object) -> bool:
        """Whether it is such a file, or a ``torch.nn.Module``; torch is not imported to find out."""
        if isinstance(model, Path):
            return model.suffix.lower() in self.suffixes and model.is_file()
        torch = sys.modules.get("torch")
        return torch is not None and isinstance(model, torch.nn.Module)

    def load(
        self, model: Any, *, device: str, threads: int, arch: str | None, allow_pickle: bool, steps: Steps
    ) -> TorchModel:
        """Load a module.

        A live module is not changed: it is run in evaluation mode through a copy that shares its weights, and a GPU
        gets a copy of its own.

        Raises
        ------
        ModelLoadError
            If the file is damaged, or a state dict comes without `arch` or does not fit it.
        PickleRefusedError
            If loading would run code out of the file.
        """
        try:
            import torch
        except ImportError as error:
            raise MissingExtraError.of("torch", "torch", str(model)) from error
        chosen = _device(torch, device, None if isinstance(model, Path) else model)
        if isinstance(model, Path):
            loaded = from_file(model, arch, allow_pickle, chosen)
        elif arch is not None:
            raise UsageError("arch does not apply to a live module", "leave out arch")
        else:
            loaded = from_module(model, chosen)
        return TorchModel(loaded, describe(loaded, chosen), threads, steps)


class TorchModel:
    """Module that PyTorch runs.

    On a CPU it may be called from several threads. The number of threads that PyTorch uses within a call is a setting
    of the calling thread (and the one that threads begin with which have not used PyTorch yet); it is set for each
    call and put back afterwards to what it was when the model was loaded, which takes a microsecond.

    On a GPU it is called by one thread; batches come in the image's own dtype, and preprocessing and reductions are
    done there.
    """

    def __init__(self, loaded: Loaded, info: ModelInfo, threads: int, steps: Steps) -> None:
        import torch

        self._loaded = loaded
        self._info = info
        self._threads = threads
        self._threads_outside = torch.get_num_threads()
        self._steps = steps
        self._staging: Any = None
        self._switching = threading.Lock() if loaded.switches_mode else None

    @property
    def info(self) -> ModelInfo:
        """What the module's layers say."""
        return self._info

    def with_steps(self, steps: Steps) -> TorchModel:
        """Same module doing other steps on its device."""
        model = copy.copy(self)
        model._steps = steps
        model._staging = None
        return model

    def predict(self, batch: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Predict a batch; see `Model.predict`."""
        import torch

        check_batch(self._info, batch)
        try:
            with self._calling(torch):
                pixels = self._on_device(torch, batch) if self._info.on_device else self._on_cpu(torch, batch)
                return self._heads(torch, named(self._loaded.module(pixels)), batch)
        except (MemoryError, ModelError, UsageError):
            raise
        except torch.OutOfMemoryError as error:
            raise MemoryError(f"{self._info.name}: {error}") from error
        except Exception as error:  # whatever the module's own code raises
            raise self._understood(error, batch) from error

    @contextmanager
    def _calling(self, torch: Any) -> Iterator[None]:
        torch.set_num_threads(self._threads)
        try:
            with self._switching or nullcontext(), self._loaded.evaluating(), torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(self._threads_outside)

    def _on_cpu(self, torch: Any, batch: NDArray[Any]) -> Any:
        if not batch.flags.writeable or any(stride < 0 for stride in batch.strides):
            batch = batch.copy()  # PyTorch can share neither
        pixels = torch.from_numpy(batch)
        return pixels if self._loaded.input_dtype is None else pixels.to(self._loaded.input_dtype)

    def _on_device(self, torch: Any, batch: NDArray[Any]) -> Any:
        """Batch on the GPU, through page-locked memory that is kept, preprocessed there."""
        source = torch.from_numpy(np.ascontiguousarray(batch) if batch.flags.writeable else batch.copy())
        if self._info.device.startswith("cuda"):
            if self._staging is None or self._staging.numel() < source.nbytes:
                self._staging = torch.empty(source.nbytes, dtype=torch.uint8, pin_memory=True)
            staged = self._staging[: source.nbytes].view(source.dtype).reshape(source.shape)
            source = staged.copy_(source)
        pixels = source.to(self._info.device, non_blocking=True)
        self._steps.preprocess.output_dtype(batch.dtype, self._info.dtype)
        return torch_steps.preprocess(pixels, self._steps.preprocess, self._loaded.input_dtype)

    def _heads(self, torch: Any, outputs: Mapping[str, Any], batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        heads = {}
        for name, value in outputs.items():
            where = f"head {name!r} of {self._info.name}"
            if isinstance(value, torch.Tensor):
                value = value.detach()
                value = value.float() if value.dtype == torch.bfloat16 else value
                if self._info.on_device:
                    value = torch_steps.reduce(value, self._steps.reduction(name))
            array = to_numpy(value, where)
            owned = array.flags.c_contiguous and not np.may_share_memory(array, batch)
            heads[name] = array if owned else array.copy()
        return heads

    def _understood(self, error: Exception, batch: NDArray[Any]) -> Exception:
        text = _reason(error)
        if isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(text):
            return MemoryError(f"{self._info.name}: {text}")
        channels = WRONG_CHANNELS.search(text)
        if channels is not None and int(channels[2]) == batch.shape[1]:
            return ModelInputError(
                f"{self._info.name} takes {channels[1]} channels, and the patches have {channels[2]}",
                "choose channels with channels=",
            )
        if isinstance(error, (RuntimeError, ValueError, AssertionError, IndexError)):
            return refused_batch(self._info, batch, text)
        return ModelError(
            f"{self._info.name} raises {type(error).__name__} on {described_batch(self._info, batch)}: {text}",
            "correct the module; --debug shows where",
        )


def _reason(error: Exception) -> str:
    """Message on one line; of TorchScript's, which begin with a stack of source code, the end."""
    text = str(error)
    if "TorchScript" in text:
        text = text.rpartition("RuntimeError: ")[2]
    return " ".join(text.split())[:400]


def _device(torch: Any, device: str, module: Any) -> str:
    """``cpu`` or ``cuda:N``; `auto` is where a live module is, if that is a GPU, else the first GPU, else the CPU."""
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not number.isdigit()):
        raise UsageError(f"device {device!r} is unknown", "cpu, cuda, cuda:0 or auto")
    if kind == "cpu":
        return "cpu"
    parameter = None if module is None else next(module.parameters(), None)
    if kind == "auto" and parameter is not None and parameter.device.type == "cuda":
        return f"cuda:{parameter.device.index or 0}"
    available = torch.cuda.is_available()
    if kind == "auto" and not available:
        return "cpu"
    if not available or int(number or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {device}: PyTorch sees no such GPU", "device=cpu, or install PyTorch with CUDA")
    return f"cuda:{int(number or 0)}"
