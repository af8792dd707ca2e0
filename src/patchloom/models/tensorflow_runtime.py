"""TensorFlow as models need it: imported quietly, its threads and devices, functions traced once."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import MissingExtraError, ModelError, UsageError
from patchloom.models.checks import described_batch, refused_batch
from patchloom.models.model import ModelInfo
from patchloom.models.tensor_input import check_device

__all__ = ["Traced", "chosen_device", "environment", "import_tensorflow", "on_device", "understood"]

OUT_OF_MEMORY = re.compile(r"RESOURCE_?EXHAUSTED|out of memory|OOM when|can't allocate memory|bad_?alloc", re.I)
MESSAGES = {"TF_CPP_MIN_LOG_LEVEL": "3"}
"""TensorFlow prints what it found out about the processor, unless this is set when it is imported."""
NOISE = re.compile(r"\x1b\[[0-9;]*m|\{\{function_node .*?\}\} ?|\[Op:.*?\]|\[\[.*?\]\]")
PLACE = re.compile(r'File "|Graph execution error|Detected at node|<stack_traces|in user code:|.* \*\*$')
REFUSALS = (ValueError, TypeError, IndexError, AssertionError, RuntimeError)


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables that are set for a while, unless the user has set them."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def import_tensorflow(what: str, threads: int) -> Any:
    """Module `tensorflow`.

    If nobody has imported it yet, it is kept from printing, and from taking all memory of a GPU.

    Parameters
    ----------
    what
        Begins the message where TensorFlow is not installed.
    threads
        Within one operation. TensorFlow takes a number only before it first computes anything, for the whole process;
        1 is not passed on, because a first load with 1 may be followed by one with more.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    ours = "tensorflow" not in sys.modules
    try:
        with environment(MESSAGES):
            import tensorflow
    except ImportError as error:
        raise MissingExtraError.of("tensorflow", "tensorflow", what) from error
    if ours:
        for gpu in tensorflow.config.list_physical_devices("GPU"):
            tensorflow.config.experimental.set_memory_growth(gpu, True)
    if threads > 1:
        with contextlib.suppress(RuntimeError):  # it has computed something already
            tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
            tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    return tensorflow


def chosen_device(tensorflow: Any, device: str) -> str:
    """``cpu`` or ``cuda:N``; `auto` is the first GPU that TensorFlow sees, else the CPU."""
    kind, number = check_device(device)
    gpus = [] if kind == "cpu" else tensorflow.config.list_physical_devices("GPU")
    if kind == "cuda" and number >= len(gpus):
        raise UsageError(f"device {device}: TensorFlow sees no such GPU", "device=cpu, or install tensorflow[and-cuda]")
    return f"cuda:{number}" if gpus else "cpu"


def on_device(tensorflow: Any, device: str) -> Any:
    """Context in which TensorFlow computes on ``cpu`` or ``cuda:N``."""
    return tensorflow.device("/CPU:0" if device == "cpu" else f"/GPU:{device.partition(':')[2]}")


class Traced:
    """Function of a tensor as a graph, which takes half the time of calling it step by step.

    One graph is traced for each size of patch; it takes batches of any length, so that a last, shorter batch costs no
    second one.

    Parameters
    ----------
    function
        Called with a tensor when it is traced.
    batch
        Length of batches, where it is fixed.
    autograph
        Python's own `if` and `for` in the function may depend on tensors.
    jit_compile
        Let XLA compile it, which it does again for each length of batches.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        batch: int | None = None,
        *,
        autograph: bool = True,
        jit_compile: bool | None = None,
    ) -> None:
        self._function = function
        self._batch = batch
        self._options = {"autograph": autograph, "jit_compile": jit_compile}
        self._graphs: dict[tuple[Any, ...], Any] = {}

    def __call__(self, batch: NDArray[Any]) -> Any:
        """What the function returns for a batch."""
        import tensorflow

        key = (batch.shape[1:], batch.dtype)
        if key not in self._graphs:
            spec = tensorflow.TensorSpec((self._batch, *batch.shape[1:]), batch.dtype)
            self._graphs[key] = tensorflow.function(self._function, [spec], **self._options)
        return self._graphs[key](tensorflow.constant(np.ascontiguousarray(batch)))


def understood(error: Exception, info: ModelInfo, batch: NDArray[Any]) -> Exception:
    """Error of ours for whatever TensorFlow, Keras or another backend raised on a batch."""
    text = _reason(error)
    if OUT_OF_MEMORY.search(text) or type(error).__name__ in ("ResourceExhaustedError", "OutOfMemoryError"):
        return MemoryError(f"{info.name}: {text}")
    if isinstance(error, REFUSALS) or type(error).__module__.startswith("tensorflow."):
        return refused_batch(info, batch, text)
    return ModelError(
        f"{info.name} raises {type(error).__name__} on {described_batch(info, batch)}: {text}",
        "correct the model; --debug shows where",
    )


def _reason(error: Exception) -> str:
    """What happened, on one line, without where in TensorFlow or Keras, and without what it was called with."""
    text = NOISE.sub("", str(error))
    text = re.split(r"Arguments received by |Stack trace for op definition|Original stack trace", text)[0]
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(" ".join(line for line in lines if not PLACE.match(line)).split())[:400]
