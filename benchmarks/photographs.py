"""Classification of many photographs: images a second of a run, beside the decoder alone and the model alone.

Photographs are drawn (discs and noise, about 40 kB of JPEG each), made 256 pixels on the shorter side, cut to 224 x 224
and classified by a small network. Decoding and the forward pass are measured alone with as many threads as the run has,
through the same functions. "To both" is the ratio to what the two allow where they run on the same cores, and "CPU" the
same in CPU time, which a busy machine disturbs less; a run on a GPU is to be compared with the smaller of the two.

    python benchmarks/photographs.py [--images 5000] [--threads 2] [--repeat 3]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image as Pillow
from rich.console import Console
from rich.table import Table

import patchloom
from patchloom.events import Event, RunFinished, RunStarted
from patchloom.geometry.region import Region
from patchloom.images import open_image
from patchloom.images.resized import Fit, ResizedImage
from patchloom.models.load import load_model

RESIZE, CROP, CLASSES, BATCH = 256, 224, 10, 16
DIFFERENT = 64
"""Photographs that are drawn; the others are copies with another name."""


class Stopwatch:
    """Wall and CPU seconds between the first and the last event of a run."""

    def __init__(self) -> None:
        self.wall, self.cpu = 0.0, 0.0

    def __call__(self, event: Event) -> None:
        sign = {RunStarted: -1, RunFinished: 1}.get(type(event))
        if sign is not None:  # there are several events an image, and asking the time is a call of the system
            self.wall += sign * time.perf_counter()
            self.cpu += sign * time.process_time()


def photographs(folder: Path, count: int, shape: tuple[int, int] = (375, 500)) -> list[Path]:
    """JPEG files of discs and noise."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:06d}.jpg" for i in range(count)]
    missing = [path for path in paths if not path.exists()]
    if missing:
        drawn = [_drawn(folder.parent / "drawing.jpg", shape, seed) for seed in range(min(DIFFERENT, count))]
        for i, path in enumerate(missing):
            path.write_bytes(drawn[i % len(drawn)])
    return paths


def _drawn(scratch: Path, shape: tuple[int, int], seed: int) -> bytes:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    picture = np.full((*shape, 3), 128.0)
    for _ in range(30):
        centre, radius = random.random(2) * shape, random.uniform(10, 80)
        picture[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = random.integers(0, 256, 3)
    noisy = np.clip(picture + random.normal(0, 10, picture.shape), 0, 255).astype(np.uint8)
    Pillow.fromarray(noisy).save(scratch, quality=80)
    data = scratch.read_bytes()
    scratch.unlink()
    return data


def classifier(path: Path, width: int) -> Path:
    """Six convolutions, four of them with a stride of 2, and a mean: 0.2 billion multiplications at a width of 24."""
    random = np.random.default_rng(0)
    nodes, weights, x, channels = [], [], "pixels", 3
    for i, (out, stride) in enumerate([(1, 2), (2, 2), (4, 2), (4, 1), (8, 2), (8, 1)]):
        kernel = random.normal(0, (2 / (9 * channels)) ** 0.5, (out * width, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{i}"))
        nodes.append(helper.make_node("Conv", [x, f"w{i}"], [f"c{i}"], pads=[1] * 4, strides=[stride] * 2))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        x, channels = f"r{i}", out * width
    weights.append(numpy_helper.from_array(random.normal(0, 0.1, (channels, CLASSES)).astype(np.float32), "last"))
    nodes += [
        helper.make_node("GlobalAveragePool", [x], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "last"], ["scores"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, CROP, CROP])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])
    graph = helper.make_graph(nodes, "classifier", [pixels], [scores], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def in_threads(work: Callable[[int], None], threads: int, images: int) -> NDArray[np.float64]:
    """Wall and CPU seconds an image that `threads` calls at once take."""
    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    wall, cpu = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu]) / images


def decoded_alone(paths: Sequence[Path], threads: int) -> NDArray[np.float64]:
    """Wall and CPU seconds an image of opening, decoding and resizing."""
    fit = Fit((RESIZE,), (CROP,))

    def work(first: int) -> None:
        for path in paths[first::threads]:
            image = ResizedImage(open_image(path), fit)
            image.read(Region.whole(image.info.shape))
            image.close()

    return in_threads(work, threads, len(paths))


def forward_alone(model: Path, images: int, batch: int, threads: int) -> NDArray[np.float64]:
    """Wall and CPU seconds an image of the model."""
    loaded = load_model(str(model))
    batches = [np.random.default_rng(i).random((batch, 3, CROP, CROP), np.float32) for i in range(threads)]
    loaded.predict(batches[0])

    def work(number: int) -> None:
        for _ in range(images // batch // threads):
            loaded.predict(batches[number])

    return in_threads(work, threads, images // batch // threads * threads * batch)


def measure(folder: Path, paths: Sequence[Path], model: Path, threads: int, out: Path) -> tuple[float, ...]:
    """Images a second of decoder, model and run; the run's ratios to the smaller, to both together, and in CPU time."""
    options = {"patch": "image", "resize": RESIZE, "centre_crop": CROP, "scale": 255}
    sample = paths[:1000]
    decode = [decoded_alone(sample, threads)]
    forward = [forward_alone(model, 1024, BATCH, threads)]
    watch = Stopwatch()
    patchloom.predict(str(folder), str(model), out, threads=threads, batch=BATCH, callbacks=[watch], **options)
    decode.append(decoded_alone(sample, threads))
    forward.append(forward_alone(model, 1024, BATCH, threads))
    decoder, alone = np.mean(decode, 0), np.mean(forward, 0)
    run = np.array([watch.wall, watch.cpu]) / len(paths)
    ratios = max(decoder[0], alone[0]) / run[0], *((decoder + alone) / run)
    return 1 / decoder[0], 1 / alone[0], 1 / run[0], *ratios, 1000 * run[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 24, 64])
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    arguments = parser.parse_args()
    folder = arguments.folder / f"photographs-{arguments.images}"
    paths = photographs(folder, arguments.images)
    table = Table(title=f"{len(paths):,} photographs, {arguments.threads} threads; medians of {arguments.repeat}")
    for heading in ("width", "decoder /s", "model /s", "run /s", "to the smaller", "to both", "CPU", "CPU ms an image"):
        table.add_column(heading, justify="right")
    for width, number in itertools.product(arguments.widths, [arguments.repeat]):
        model = classifier(arguments.folder / f"classifier-{width}.onnx", width)
        results = []
        for _ in range(number):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as out:
                results.append(measure(folder, paths, model, arguments.threads, Path(out) / "run"))
        medians = [statistics.median(column) for column in zip(*results, strict=True)]
        table.add_row(str(width), *(f"{value:,.0f}" for value in medians[:3]), *(f"{v:.2f}" for v in medians[3:]))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
