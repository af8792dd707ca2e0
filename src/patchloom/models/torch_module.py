"""PyTorch modules out of files or from the user: how they are loaded, and what their layers say of them."""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchloom.errors import MissingExtraError, ModelLoadError, PatchloomError, UsageError
from patchloom.models.identity import file_identity
from patchloom.models.model import ModelInfo
from patchloom.models.torch_archive import check_exported, damaged, file_kind, refused_pickle
from patchloom.references import resolve

__all__ = ["Loaded", "describe", "from_file", "from_module"]

NESTED = ("state_dict", "model_state_dict", "model")
"""Keys under which training loops keep the state dict in a checkpoint."""


@dataclass(frozen=True)
class Loaded:
    """Module that is ready to be called.

    Parameters
    ----------
    module
        In evaluation mode, on its device.
    name
        For messages.
    identity
        Hash of the file, or of the classes and weights of a live module.
    input_dtype
        ``torch.dtype`` that the module takes; None: any.
    example
        Of an exported program, the tensor that describes its input, else None.
    owned
        Nobody else uses its weights, so their memory order may be changed.
    switches_mode
        It could not be copied: it is put into evaluation mode for each call, and back.
    """

    module: Any
    name: str
    identity: str | None
    input_dtype: Any
    example: Any = None
    owned: bool = False
    switches_mode: bool = False

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode for the time of a call, where the module is not in it anyway."""
        if not self.switches_mode:
            yield
            return
        training = [module for module in self.module.modules() if module.training]
        self.module.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


def from_module(module: Any, device: str) -> Loaded:
    """Live module, left as it is: in evaluation mode and, on a GPU, as a copy."""
    identity = _module_identity(module)
    name = _class_name(module)
    switches = False
    if device != _where(module):
        module = copy.deepcopy(module).to(device).eval()
    elif any(part.training for part in module.modules()):
        shared = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
        try:
            module = copy.deepcopy(module, shared).eval()
        except (RuntimeError, TypeError, NotImplementedError, AttributeError):
            switches = True
    return Loaded(module, name, identity, _float_dtype(module), switches_mode=switches)


def from_file(path: Path, arch: str | None, allow_pickle: bool, device: str) -> Loaded:
    """Module out of a file, by its content.

    Raises
    ------
    ModelLoadError, PickleRefusedError, UsageError
    """
    kind = file_kind(path)
    identity = file_identity(path)
    if kind in ("torchscript", "exported"):
        if arch is not None:
            raise UsageError(f"arch does not apply to {path}, which holds its own graph", "leave out arch")
        if kind == "torchscript":
            return _scripted(path, identity, device)
        return _exported(path, identity, allow_pickle, device)
    content = _safetensors(path) if kind == "safetensors" else _unpickled(path, allow_pickle)
    if _is_module(content):
        module = content
    else:
        if arch is None:
            raise ModelLoadError(
                f"{path} holds weights without the network that they belong to",
                "name what builds it: --arch package.module:builder; or save TorchScript or ONNX",
            )
        module = _filled(path, content, arch)
        identity = f"sha256:{hashlib.sha256(f'{identity} {arch}'.encode()).hexdigest()}"
    module = module.to(device).eval()
    return Loaded(module, path.name, identity, _float_dtype(module), owned=True)


def _scripted(path: Path, identity: str, device: str) -> Loaded:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)  # users have such files
            module = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise damaged(path, _first_line(error)) from error
    return Loaded(module, path.name, identity, _float_dtype(module), owned=True)


def _exported(path: Path, identity: str, allow_pickle: bool, device: str) -> Loaded:
    import torch

    if not allow_pickle:
        check_exported(path)
    try:
        with warnings.catch_warnings(), _weights_only(not allow_pickle):
            warnings.simplefilter("ignore")  # PyTorch's remarks on its own formats
            with path.open("rb") as file:
                program = torch.export.load(file)
            # Guards are Python code in the file; what they check is checked against the declared input instead.
            options = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
            module = program.module(**options)
    except MemoryError:
        raise
    except Exception as error:  # deserialising raises whatever a missing key leads to
        raise damaged(path, _first_line(error)) from error
    example = _example(path, program)
    return Loaded(module.to(device), path.name, identity, example.dtype, example, owned=True)


def _example(path: Path, program: Any) -> Any:
    inputs = program.graph_signature.user_inputs
    if len(inputs) != 1:
        raise ModelLoadError(f"{path} has {len(inputs)} inputs", "export a module with one input, the patches")
    example = next(node.meta["val"] for node in program.graph.nodes if node.name == inputs[0])
    if example.ndim not in (4, 5):
        raise ModelLoadError(
            f"{path} takes input of shape {tuple(example.shape)}, which is no batch of patches",
            "export a module that takes (N, C, Y, X) or (N, C, Z, Y, X)",
        )
    return example


@contextmanager
def _weights_only(force: bool) -> Iterator[None]:
    """Keep PyTorch from falling back to unrestricted unpickling within its own functions."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    if force:
        os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _unpickled(path: Path, allow_pickle: bool) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on storages and class sources, for the file's author
            return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError as error:
        if not allow_pickle and "weights only" in str(error).lower():
            raise refused_pickle(path, "holds Python objects, not only weights") from error
        raise damaged(path, _first_line(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # unpickling damaged data raises anything
        raise damaged(path, _first_line(error)) from error


def _safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtraError.of("safetensors", "torch", str(path)) from error
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise damaged(path, _first_line(error)) from error


def _filled(path: Path, content: Any, arch: str) -> Any:
    """Module built by `arch` with the weights of `content`."""
    weights = _state_dict(path, content)
    builder = resolve(arch)
    try:
        module = builder() if callable(builder) and not _is_module(builder) else copy.deepcopy(builder)
    except (MemoryError, PatchloomError):
        raise
    except Exception as error:
        raise ModelLoadError(f"{arch} raises {type(error).__name__}: {error}", "correct the builder") from error
    if not _is_module(module):
        raise ModelLoadError(f"{arch} builds a {type(module).__name__}", "return a torch.nn.Module from it")
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes
        raise ModelLoadError(f"{path} does not fit {arch}: {' '.join(str(error).split())[:300]}",
                             "check --arch, and the options of the builder") from error
    if missing or unexpected:
        parts = [f"{text} {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
                 for text, names in (("it lacks", missing), ("the network has no", unexpected)) if names]
        raise ModelLoadError(f"{path} does not fit {arch}: {'; '.join(parts)}", "check --arch")
    return module


def _state_dict(path: Path, content: Any) -> Mapping[str, Any]:
    for key in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(name, str) for name in content):
        found = type(content).__name__
        raise ModelLoadError(f"{path} holds a {found}, not weights by name", "save module.state_dict()")
    if all(name.startswith("module.") for name in content):  # as DataParallel saves them
        return {name.removeprefix("module."): tensor for name, tensor in content.items()}
    return content


def describe(loaded: Loaded, device: str) -> ModelInfo:
    """What the layers, or the declared input of an exported program, say."""
    import torch

    on_cpu = device == "cpu"
    kinds = {_class_name(part).rpartition(".")[2] for part in loaded.module.modules()}
    two, three = bool(kinds & {"Conv2d", "ConvTranspose2d"}), bool(kinds & {"Conv3d", "ConvTranspose3d"})
    ndim, channels, patch, batch = (2 if two else 3) if two != three else None, _channels(loaded.module), None, None
    if loaded.example is not None:
        ndim = loaded.example.ndim - 2
        batch, channels, *sizes = (size if isinstance(size, int) else None for size in loaded.example.shape)
        patch = None if None in sizes else tuple(size for size in sizes if size is not None)
        convolves = any("conv" in str(node.target) for node in loaded.module.graph.nodes)
        two = ndim == 2 and convolves
    interleaved = two and not three and on_cpu
    if interleaved and loaded.owned:
        loaded.module.to(memory_format=torch.channels_last)
    return ModelInfo(
        name=loaded.name,
        identity=loaded.identity,
        dtype=_numpy_dtype(loaded.input_dtype),
        channels=channels,
        patch=patch,
        batch=batch,
        ndim=ndim,
        classes=_classes(loaded.module),
        concurrent=on_cpu and not loaded.switches_mode,
        device=device,
        memory_format="channels_last" if interleaved else "contiguous",
        on_device=not on_cpu,
    )


def _channels(module: Any) -> int | None:
    """Input channels where they are certain: the module is a sequence that begins with a convolution."""
    import torch

    while isinstance(module, torch.nn.Sequential) and len(module):
        module = module[0]
    convolution = (torch.nn.Conv2d, torch.nn.Conv3d)
    return module.in_channels if isinstance(module, convolution) else None


def _classes(module: Any) -> tuple[str, ...]:
    classes = getattr(module, "classes", None)
    return tuple(map(str, classes)) if isinstance(classes, (list, tuple)) else ()


def _float_dtype(module: Any) -> Any:
    return next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), None)


def _numpy_dtype(dtype: Any) -> np.dtype[Any] | None:
    import torch

    if dtype is None:
        return None
    # NumPy has no bfloat16: such a module gets float32, which is cast on the device.
    return np.dtype(np.float32) if dtype == torch.bfloat16 else torch.empty(0, dtype=dtype).numpy().dtype


def _where(module: Any) -> str:
    tensor = next((tensor for tensor in [*module.parameters(), *module.buffers()]), None)
    if tensor is None or tensor.device.type == "cpu":
        return "cpu"
    return f"{tensor.device.type}:{tensor.device.index or 0}"


def _is_module(value: Any) -> bool:
    import torch

    return isinstance(value, torch.nn.Module)


def _class_name(module: Any) -> str:
    return str(getattr(module, "original_name", None) or type(module).__qualname__)


def _module_identity(module: Any) -> str | None:
    """Hash of the classes of all parts, what PyTorch's own layers say of their options, and all weights."""
    import torch

    digest = hashlib.sha256()
    for name, part in module.named_modules():
        options = part.extra_repr() if type(part).__module__.startswith("torch.nn.") else ""
        digest.update(f"{name} {type(part).__module__} {_class_name(part)} {options}\n".encode())
    if isinstance(module, torch.jit.ScriptModule):
        digest.update(module.code.encode())
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, torch.Tensor) or tensor.is_quantized or tensor.layout != torch.strided:
            return None
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(data.data)
    return f"sha256:{digest.hexdigest()}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
