"""Small ONNX graphs that tests write."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(7)


def tensor(name, shape, dtype=TensorProto.FLOAT):
    """Graph input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def save(path, nodes, inputs, outputs, *, weights=(), metadata=None, **options):
    """Write a model of `nodes`; `weights` maps names to arrays."""
    initialisers = [numpy_helper.from_array(array, name) for name, array in dict(weights).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, path, **options)
    return path


def convolution(path, *, channels=3, out=2, shape=None, metadata=None, name="scores", **options):
    """One 3 x 3 convolution, (N, channels, Y, X) to (N, out, Y, X)."""
    weights = {"w": RNG.normal(size=(out, channels, 3, 3)).astype(np.float32)}
    node = helper.make_node("Conv", ["pixels", "w"], [name], pads=[1, 1, 1, 1])
    shape = shape or ["N", channels, "Y", "X"]
    inputs, outputs = [tensor("pixels", shape)], [tensor(name, None)]
    return save(path, [node], inputs, outputs, weights=weights, metadata=metadata, **options)


def identity(path, shape, dtype=TensorProto.FLOAT, metadata=None):
    """Answers with its input."""
    node = helper.make_node("Identity", ["pixels"], ["same"])
    return save(path, [node], [tensor("pixels", shape, dtype)], [tensor("same", shape, dtype)], metadata=metadata)


def two_heads(path):
    """A map and a vector, under names that are no folder names."""
    weights = {"w": RNG.normal(size=(4, 3, 1, 1)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["pixels", "w"], ["model/map:0"]),
        helper.make_node("ReduceMean", ["model/map:0"], ["model/score:0"], axes=[2, 3], keepdims=0),
    ]
    outputs = [tensor("model/map:0", None), tensor("model/score:0", None)]
    return save(path, nodes, [tensor("pixels", ["N", 3, "Y", "X"])], outputs, weights=weights)


def channels_last(path, shape=("N", "Y", "X", 3), metadata=None):
    """(N, Y, X, 3) to (N, Y, X, 2), as exports of Keras are."""
    weights = {"w": RNG.normal(size=(3, 2)).astype(np.float32)}
    node = helper.make_node("MatMul", ["pixels", "w"], ["scores"])
    inputs, outputs = [tensor("pixels", list(shape))], [tensor("scores", None)]
    return save(path, [node], inputs, outputs, weights=weights, metadata=metadata)
