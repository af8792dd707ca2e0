"""Networks of the benchmarks, with random weights: how fast they are does not depend on what they know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["three_convolutions", "unet"]


class Network:
    """Builds a graph layer by layer."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self.parameters = 0

    def convolution(self, x: str, channels_in: int, channels: int, size: int = 3, *, relu: bool = True) -> str:
        name = f"c{len(self._nodes)}"
        scale = (2 / (channels_in * size * size)) ** 0.5
        weights = self._random.normal(0, scale, (channels, channels_in, size, size)).astype(np.float32)
        self._weights += [
            numpy_helper.from_array(weights, f"{name}w"),
            numpy_helper.from_array(np.zeros(channels, np.float32), f"{name}b"),
        ]
        self.parameters += weights.size + channels
        self._add("Conv", [x, f"{name}w", f"{name}b"], name, pads=[size // 2] * 4, kernel_shape=[size, size])
        return self._add("Relu", [name], f"{name}r") if relu else name

    def halve(self, x: str) -> str:
        return self._add("MaxPool", [x], f"{x}h", kernel_shape=[2, 2], strides=[2, 2])

    def double(self, x: str, channels_in: int, channels: int) -> str:
        name = f"{x}d"
        weights = self._random.normal(0, 0.1, (channels_in, channels, 2, 2)).astype(np.float32)
        self._weights.append(numpy_helper.from_array(weights, f"{name}w"))
        self.parameters += weights.size
        return self._add("ConvTranspose", [x, f"{name}w"], name, strides=[2, 2], kernel_shape=[2, 2])

    def join(self, a: str, b: str) -> str:
        return self._add("Concat", [a, b], f"{a}j", axis=1)

    def save(self, path: Path, output: str, channels_in: int, channels: int) -> Path:
        self._add("Identity", [output], "scores")
        graph = helper.make_graph(
            self._nodes,
            path.stem,
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", channels_in, "H", "W"])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", channels, "H", "W"])],
            self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, path)
        return path

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def three_convolutions(path: Path, channels_in: int = 3, classes: int = 4) -> Path:
    """Three 3 x 3 convolutions: about 8 megapixels a second on a core, so that everything around it shows."""
    network = Network()
    x = network.convolution("pixels", channels_in, 16)
    x = network.convolution(x, 16, 16)
    return network.save(path, network.convolution(x, 16, classes, relu=False), channels_in, classes)


def unet(path: Path, channels_in: int = 3, classes: int = 4, width: int = 16) -> Path:
    """U-Net of 1.9 million parameters, four levels deep: about 1 megapixel a second on a core."""
    network = Network()
    x, channels, skips = "pixels", channels_in, []
    for level in range(5):
        out = width << level
        x = network.convolution(network.convolution(x, channels, out), out, out)
        channels = out
        if level < 4:
            skips.append((x, out))
            x = network.halve(x)
    for skip, out in reversed(skips):
        x = network.join(network.double(x, channels, out), skip)
        x = network.convolution(network.convolution(x, 2 * out, out), out, out)
        channels = out
    return network.save(path, network.convolution(x, channels, classes, 1, relu=False), channels_in, classes)
