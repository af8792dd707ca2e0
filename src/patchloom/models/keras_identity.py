"""Hash of a live Keras model: its layers, their options, how they are wired, and all weights.

Names of layers do not count, because Keras numbers them on: the same model built twice in one process would be two.
Nor does what matters in training only. Keras's own serialisation is not used: it imports TensorFlow for models of other
backends too.
"""

from __future__ import annotations

import functools
import hashlib
import types
from typing import Any

import numpy as np

from patchloom.models.identity import function_identity
from patchloom.models.outputs import to_numpy

__all__ = ["model_identity", "update_with_array"]

TRAINING = {
    "name", "built", "trainable", "training", "seed", "seed_generator", "stop_training", "compiled", "loss",
    "optimizer", "run_eagerly", "jit_compile", "steps_per_execution", "history", "input_spec",
    "train_function", "test_function", "predict_function", "input_names", "output_names", "distribute_strategy",
    "distribute_reduction_method", "autocast", "auto_scale_loss",
}  # fmt: skip
"""Attributes that do not change a prediction."""
INITIAL = ("_initializer", "_regularizer", "_constraint")
"""Endings of options that matter before and while a model is trained."""
PLAIN = (bool, int, float, complex, str, bytes, types.NoneType)


class _UnknownError(Exception):
    """Something whose influence on a prediction cannot be hashed."""


def model_identity(keras: Any, model: Any) -> str | None:
    """``sha256:…`` of a model, or None where it has no weights yet or holds a function that cannot be hashed."""
    if not model.built:
        return None
    try:
        lines = _Description(keras).of_layer(model)
    except _UnknownError:
        return None
    digest = hashlib.sha256("\n".join(lines).encode())
    for variable in model.weights:
        value = variable.value
        tensor = value.read_value() if hasattr(value, "read_value") else value  # TensorFlow's own variables
        update_with_array(digest, to_numpy(tensor, "a weight"))
    return f"sha256:{digest.hexdigest()}"


def update_with_array(digest: Any, array: Any) -> None:
    """Type, shape and values of an array."""
    array = np.ascontiguousarray(array)
    digest.update(f"{array.dtype} {array.shape}\n".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)


class _Description:
    """Lines that are equal for equal models."""

    def __init__(self, keras: Any) -> None:
        self._keras = keras
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []

    def of_layer(self, layer: Any) -> list[str]:
        """Class and options of a layer, and everything in it; a layer that was described is named by its number."""
        if id(layer) in self._numbers:
            return [f"layer {self._numbers[id(layer)]}"]
        number = self._number(layer)
        kind = type(layer)
        lines = [f"layer {number} {kind.__module__}.{kind.__qualname__} {self._options(layer)}"]
        inner = getattr(layer, "_flatten_layers", None)  # operations have none
        for part in () if inner is None else inner(include_self=False, recursive=False):
            lines += self.of_layer(part)
        operations = getattr(layer, "operations", None)
        return lines + (self._wiring(layer, operations) if isinstance(operations, list) else [])

    def _number(self, value: Any) -> int:
        self._kept.append(value)  # so that no other object gets its id
        return self._numbers.setdefault(id(value), len(self._numbers))

    def _options(self, layer: Any) -> str:
        options = {name: value for name, value in vars(layer).items()
                   if not name.startswith("_") and name not in TRAINING and not name.endswith(INITIAL)}
        policy = getattr(layer, "dtype_policy", None)
        described = [f"{name}={self._value(options[name])}" for name in sorted(options)]
        return f"{getattr(policy, 'name', '')} {' '.join(described)}"

    def _wiring(self, model: Any, operations: list[Any]) -> list[str]:
        """Which tensors go into each operation of a functional model, and which come out."""
        tree, lines = self._keras.tree, []
        # A layer may be part of other models as well.
        ours = {id(node) for nodes in model._nodes_by_depth.values() for node in nodes}
        for operation in operations:
            lines += self.of_layer(operation)
            for node in operation._inbound_nodes:
                if id(node) not in ours:
                    continue
                arguments = tree.flatten((node.arguments.args, node.arguments.kwargs))
                outputs = [self._number(tensor) for tensor in node.output_tensors]
                lines.append(f"{self._numbers[id(operation)]}({', '.join(map(self._value, arguments))}) -> {outputs}")
        return [*lines, f"{self._value(model.inputs)} -> {self._value(model.outputs)}"]

    def _value(self, value: Any) -> str:
        if isinstance(value, PLAIN):
            return repr(value)
        if isinstance(value, (list, tuple)):
            return f"({', '.join(map(self._value, value))})"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{key}: {self._value(value[key])}' for key in sorted(value, key=str))}}}"
        if isinstance(value, self._keras.Variable):
            return f"variable {tuple(value.shape)}"  # its values come after all layers
        if isinstance(value, (np.ndarray, np.generic)) or self._keras.ops.is_tensor(value):
            digest = hashlib.sha256()
            update_with_array(digest, to_numpy(value, "a constant"))
            return digest.hexdigest()
        if isinstance(value, (functools.partial, types.FunctionType)):
            return self._function(value)
        if id(value) in self._numbers:
            return f"#{self._numbers[id(value)]}"
        return f"{type(value).__module__}.{type(value).__qualname__}"

    def _function(self, function: Any) -> str:
        module = str(getattr(function, "__module__", ""))
        if module.partition(".")[0] == "keras":
            return f"{module}.{function.__qualname__}"
        identity = function_identity(function)
        if identity is None:
            raise _UnknownError
        return identity
