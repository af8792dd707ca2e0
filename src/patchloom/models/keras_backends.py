"""How each backend of Keras calls a model for prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import UsageError
from patchloom.models.model import ModelInfo
from patchloom.models.tensor_input import check_device
from patchloom.models.tensorflow_runtime import Traced

__all__ = ["Call", "call_of", "chosen_device", "on_device"]

Call = Callable[[NDArray[Any]], Any]
"""From a contiguous batch to whatever the model returns."""


def call_of(keras: Any, model: Any, info: ModelInfo, threads: int) -> Call:
    """The model's call in inference mode, compiled where the backend does that.

    Parameters
    ----------
    keras
        The module.
    model
        Live.
    info
        What the model says.
    threads
        Within one call, for backends that take such a number then.
    """
    takes_one = _inputs_as(model)

    def eager(tensor: Any) -> Any:
        return model(takes_one(tensor), training=False)

    backend = keras.config.backend()
    if backend == "torch":
        return _on_torch(eager, threads)
    if getattr(model, "run_eagerly", False):
        return eager
    if backend == "tensorflow":
        # On a CPU, TensorFlow itself has no convolutions with channels first; XLA has.
        by_xla = True if info.device == "cpu" and not info.channels_last else None
        return _built_first(model, eager, Traced(eager, info.batch, autograph=False, jit_compile=by_xla))
    if backend == "jax":
        return _built_first(model, eager, _on_jax(model, takes_one, info.batch))
    return eager


def _inputs_as(model: Any) -> Callable[[Any], Any]:
    """What turns one tensor into the model's own structure of inputs: a dict or list of one."""
    structure = getattr(model, "input", None)
    if isinstance(structure, dict) and len(structure) == 1:
        (name,) = structure
        return lambda tensor: {name: tensor}
    return (lambda tensor: [tensor]) if isinstance(structure, list) else (lambda tensor: tensor)


def _built_first(model: Any, eager: Call, compiled: Call) -> Call:
    """A model that makes its weights when it is first called is called once before it is compiled."""

    def call(batch: NDArray[Any]) -> Any:
        if not model.built:
            eager(batch[:1])
        return compiled(batch)

    return call


def _on_torch(eager: Call, threads: int) -> Call:
    import torch

    outside = torch.get_num_threads()

    def call(batch: NDArray[Any]) -> Any:
        torch.set_num_threads(threads)
        try:
            with torch.no_grad():
                # PyTorch warns of memory that it must not write to.
                return eager(batch if batch.flags.writeable else batch.copy())
        finally:
            torch.set_num_threads(outside)

    return call


def _on_jax(model: Any, takes_one: Callable[[Any], Any], fixed: int | None) -> Call:
    """JAX compiles for each shape, so batches are filled up to a power of two."""
    import jax

    def stateless(trainable: Any, others: Any, batch: Any) -> Any:
        return model.stateless_call(trainable, others, takes_one(batch), training=False)[0]

    compiled = jax.jit(stateless)

    def call(batch: NDArray[Any]) -> Any:
        count = len(batch)
        full = fixed or 1 << (count - 1).bit_length()
        if full != count:
            batch = np.concatenate([batch, np.broadcast_to(batch[-1:], (full - count, *batch.shape[1:]))])
        weights = ([variable.value for variable in model.trainable_variables],
                   [variable.value for variable in model.non_trainable_variables])
        outputs = compiled(*weights, batch)
        return outputs if full == count else jax.tree_util.tree_map(lambda output: output[:count], outputs)

    return call


def chosen_device(keras: Any, device: str) -> str:
    """``cpu`` or ``cuda:N``; `auto` is the first GPU that the backend sees, else the CPU."""
    kind, number = check_device(device)
    gpus = 0 if kind == "cpu" else _gpus(keras.config.backend())
    if kind == "cuda" and number >= gpus:
        raise UsageError(
            f"device {device}: {keras.config.backend()}, the backend of Keras, sees no such GPU",
            "device=cpu, or install that backend with CUDA",
        )
    return f"cuda:{number}" if gpus else "cpu"


def _gpus(backend: str) -> int:
    if backend == "tensorflow":
        import tensorflow

        return len(tensorflow.config.list_physical_devices("GPU"))
    if backend == "torch":
        import torch

        return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0
    if backend == "jax":
        import jax

        return sum(device.platform == "gpu" for device in jax.devices())
    return 0


def on_device(keras: Any, device: str) -> Any:
    """Context in which the backend computes on ``cpu`` or ``cuda:N``."""
    return keras.device("cpu:0" if device == "cpu" else f"gpu:{device.partition(':')[2]}")
