"""Pipeline efficiency: raw forward seconds of the same batches, in memory, over the run's seconds, end to end.

From a JPEG-tiled TIFF to stitched OME-Zarr, patches of 512, overlap 64. The raw forward pass runs with as many threads
as the run, each calling the same session, before and after each run, in the same process; its mean is what the run is
compared with.

A second table says where the rest goes: CPU milliseconds a patch of each part of the pipeline, from one more run.

    python benchmarks/efficiency.py [--size 8192] [--repeat 3] [--only three]
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from networks import three_convolutions, unet
from rich.console import Console
from rich.table import Table

import patchloom
from patchloom.demo.files import write_scene
from patchloom.demo.scenes import Scene
from patchloom.engine import commit
from patchloom.engine.pipeline import Pipeline
from patchloom.engine.predictor import Predictor
from patchloom.engine.reading import BlockStore
from patchloom.engine.stitch import UnitMap
from patchloom.events import Event, RunFinished, RunStarted
from patchloom.models.load import load_model
from patchloom.predictions.dense import DenseMap

PATCH, OVERLAP = 512, 64
CASES: list[tuple[str, str, dict[str, object]]] = [
    ("U-Net 1.9 M", "unet", {}),
    ("U-Net 1.9 M, class map", "unet", {"reduce": "argmax"}),
    ("three convolutions, float32", "three", {}),
    ("three convolutions, float16", "three", {"reduce": "float16"}),
    ("three convolutions, class map", "three", {"reduce": "argmax"}),
    ("three convolutions, gaussian", "three", {"blend": "gaussian"}),
    ("three convolutions, gaussian, class map", "three", {"blend": "gaussian", "reduce": "argmax"}),
]


class Stopwatch:
    """Wall and CPU seconds between the first and the last event of a run."""

    def __init__(self) -> None:
        self.begin = self.end = (0.0, 0.0)

    def __call__(self, event: Event) -> None:
        now = (time.perf_counter(), time.process_time())
        if isinstance(event, RunStarted):
            self.begin = now
        elif isinstance(event, RunFinished):
            self.end = now

    @property
    def seconds(self) -> tuple[float, float]:
        return self.end[0] - self.begin[0], self.end[1] - self.begin[1]


PARTS: list[tuple[str, Any, str]] = [
    ("decode", BlockStore, "decode"),
    ("fill the batch, normalise", Pipeline, "_fill"),
    ("model", Predictor, "raw"),
    ("look for NaN", Predictor, "bad"),
    ("reduce and stitch", UnitMap, "place"),
    ("encode and write, levels 0 and 1", DenseMap, "write_shard"),
    ("levels from 2 on", DenseMap, "write_level_shard"),
    ("flush", commit, "flush"),
]


@contextmanager
def parts_timed() -> Iterator[dict[str, float]]:
    """CPU seconds of each part while the block runs; parts that a part calls are counted in it, not twice."""
    seconds: dict[str, float] = dict.fromkeys((title for title, _, _ in PARTS), 0.0)
    inside = threading.local()
    lock = threading.Lock()

    def timed(title: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if getattr(inside, "part", False):
                return function(*args, **kwargs)
            inside.part, begin = True, time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                inside.part = False
                with lock:
                    seconds[title] += time.thread_time() - begin

        return call

    originals = [(owner, name, getattr(owner, name)) for _, owner, name in PARTS]
    for title, owner, name in PARTS:
        setattr(owner, name, timed(title, getattr(owner, name)))
    try:
        yield seconds
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def where_it_goes(image: Path, model: Path, options: dict[str, object], threads: int, folder: Path) -> dict[str, float]:
    """CPU milliseconds a patch of each part, and of what is none of them."""
    watch = Stopwatch()
    with parts_timed() as seconds, tempfile.TemporaryDirectory(dir=folder) as out:
        run = predicted(image, model, f"{out}/run", threads, watch, options)
        patches = len(run[image.name])
    total = watch.seconds[1]
    seconds["the rest: scheduling, journal, Python"] = total - sum(seconds.values())
    return {title: 1000 * value / patches for title, value in seconds.items()}


def raw_forward(model_path: Path, patches: int, threads: int) -> tuple[float, float]:
    """Wall and CPU seconds a patch of the model alone."""
    model = load_model(str(model_path))
    batches = [np.random.default_rng(i).random((1, 3, PATCH, PATCH), dtype=np.float32) for i in range(4)]

    def work() -> None:
        for i in range(patches // threads):
            model.predict(batches[i % len(batches)])

    model.predict(batches[0])
    workers = [threading.Thread(target=work) for _ in range(threads)]
    wall, cpu = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done = patches // threads * threads
    return (time.perf_counter() - wall) / done, (time.process_time() - cpu) / done


def predicted(
    image: Path, model: Path, out: str, threads: int, watch: Stopwatch, options: dict[str, Any]
) -> patchloom.Run:
    """The run that is measured."""
    return patchloom.predict(
        str(image),
        str(model),
        out,
        patch=PATCH,
        overlap=OVERLAP,
        scale=255,
        batch=1,
        threads=threads,
        callbacks=[watch],
        **options,
    )


def measure(image: Path, model: Path, options: dict[str, object], threads: int, folder: Path) -> tuple[float, ...]:
    """Efficiency in wall and CPU seconds, and milliseconds a patch: raw wall, raw CPU, run wall, run CPU."""
    before = raw_forward(model, 40, threads)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        run = predicted(image, model, f"{out}/run", threads, watch, options)
        patches = len(run[image.name])
    after = raw_forward(model, 40, threads)
    raw = [(a + b) / 2 for a, b in zip(before, after, strict=True)]
    used = [seconds / patches for seconds in watch.seconds]
    return raw[0] / used[0], raw[1] / used[1], *(1000 * value for value in (*raw, *used))


def jpeg_image(path: Path, size: int) -> Path:
    """Tissue-like scene of the demo as a JPEG-tiled TIFF."""
    if not path.exists():
        write_scene(Scene(path.name, (size, size), seed=1), path, path.with_suffix(".truth.tif"))
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].is_tiled
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    image = jpeg_image(arguments.folder / f"tissue-{arguments.size}.tif", arguments.size)
    models = {
        "three": three_convolutions(arguments.folder / "three.onnx"),
        "unet": unet(arguments.folder / "unet.onnx"),
    }
    table = Table(
        title=f"{arguments.size} x {arguments.size} px, {arguments.threads} threads; medians of {arguments.repeat}"
    )
    for heading in ("case", "efficiency wall", "efficiency CPU", "raw ms", "raw CPU ms", "run ms", "run CPU ms"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    cases = [case for case in CASES if arguments.only in case[0]]
    rest: dict[str, dict[str, float]] = {}
    for title, model, options in cases:
        results = [
            measure(image, models[model], options, arguments.threads, arguments.folder) for _ in range(arguments.repeat)
        ]
        medians = [statistics.median(column) for column in zip(*results, strict=True)]
        table.add_row(title, f"{medians[0]:.3f}", f"{medians[1]:.3f}", *(f"{value:.1f}" for value in medians[2:]))
        rest[title] = where_it_goes(image, models[model], options, arguments.threads, arguments.folder)
    Console(width=140).print(table)
    parts = Table(title="where it goes: CPU milliseconds a patch")
    parts.add_column("part")
    for title in rest:
        parts.add_column(title, justify="right")
    for part in next(iter(rest.values()), {}):
        parts.add_row(part, *(f"{values[part]:.2f}" for values in rest.values()))
    Console(width=180).print(parts)


if __name__ == "__main__":
    main()
