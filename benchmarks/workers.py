"""What it costs to share a run among workers on a Ray cluster: throughput beside one process with as many threads.

Images are JPEG-tiled TIFFs, the model is the U-Net of the other benchmarks, patches of 512 with an overlap of 64. The
local run has as many threads as there are workers, each of which has one. Ray is started before; a run is measured from
when its workers have joined. "Driver" is the CPU time of this process out of that of all, workers included.

A second table has the geometry alone: what is predicted twice if images are cut for so many workers.

    python benchmarks/workers.py [--size 4096] [--images 3] [--workers 2] [--repeat 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
from networks import unet
from rich.console import Console
from rich.table import Table

import patchloom
from patchloom.config import Config
from patchloom.demo.files import write_scene
from patchloom.demo.scenes import Scene
from patchloom.engine.pieces import pieces
from patchloom.events import Event, ImageDone, RunFinished, RunStarted, WorkerJoined
from patchloom.models.model import Head
from patchloom.predictions.layout import RunLayout

TICKS = os.sysconf("SC_CLK_TCK")


class Stopwatch:
    """Seconds from when everybody is there to the last image, and CPU seconds of this process and of the workers."""

    def __init__(self, workers: int) -> None:
        self._waiting, self._pids = workers, [os.getpid()]
        self._begin = (0.0, np.zeros(1))
        self.wall, self.cpu = 0.0, np.zeros(1)

    def __call__(self, event: Event) -> None:
        if isinstance(event, WorkerJoined):
            self._pids.append(int(event.worker.rpartition("/")[2]))
            self._waiting -= 1
        if isinstance(event, (RunStarted, WorkerJoined)) and not self._waiting:
            self._begin = time.perf_counter(), self._used()
        if isinstance(event, (ImageDone, RunFinished)) and len(self._used()) == len(self._pids):
            self.wall, self.cpu = time.perf_counter() - self._begin[0], self._used() - self._begin[1]

    def _used(self) -> np.ndarray:
        """CPU seconds of each process that is there."""
        used = []
        for pid in self._pids:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except FileNotFoundError:
                continue
            used.append((int(fields[11]) + int(fields[12])) / TICKS)
        return np.array(used)


def measured(images: Path, model: Path, workers: int, *, ray: bool) -> Stopwatch:
    """One run."""
    watch = Stopwatch(workers if ray else 0)
    executor = patchloom.Ray(workers=workers, cpus_per_worker=1) if ray else "local"
    with tempfile.TemporaryDirectory() as out:
        threads = 1 if ray else workers
        patchloom.predict(images, model, Path(out) / "run", patch=512, overlap=64, scale=255, batch=1, threads=threads,
                          executor=executor, callbacks=[watch])  # fmt: skip
    return watch


def repeated() -> Table:
    """Patches predicted twice where an image of so many pixels a side is cut, in per cent."""
    table = Table("pixels a side", "overlap", *(f"{count} pieces" for count in (2, 4, 8, 16, 64)),
                  title="predicted twice, % of all patches")
    head = Head("map", "dense", np.dtype("f4"), (2, 512, 512), (Fraction(1), Fraction(1)))
    for side in (4096, 16384, 65536):
        for overlap in (0, 64, 256):
            stride = 512 - overlap
            layout = RunLayout(Path("run"), Config(patch=(512, 512), stride=(stride, stride)), 2, (head,), None)
            cells = []
            for count in (2, 4, 8, 16, 64):
                cut = pieces(layout, (side, side), (), count)
                again, number = sum(piece.repeated for piece in cut), sum(piece.patches for piece in cut)
                cells.append(f"{100 * again / (number - again):.1f}" + (f" ({len(cut)})" if len(cut) < count else ""))
            table.add_row(f"{side:,}", str(overlap), *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    import ray

    ray.init(address="local", num_cpus=options.workers, include_dashboard=False, log_to_driver=False)
    table = Table("run", "local, s", "workers, s", "throughput", "CPU", "driver, % of CPU")
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        for number in range(options.images):
            scene = Scene(f"{number}.tif", (options.size, options.size), seed=number)
            write_scene(scene, images / scene.name, Path(folder) / "truth.tif")
        model = unet(Path(folder) / "unet.onnx")
        ratios = []
        for number in range(options.repeat):
            local = measured(images, model, options.workers, ray=False)
            shared = measured(images, model, options.workers, ray=True)
            ratios.append(local.wall / shared.wall)
            table.add_row(str(number + 1), f"{local.wall:.1f}", f"{shared.wall:.1f}", f"{ratios[-1]:.2f}",
                          f"{local.cpu.sum() / shared.cpu.sum():.2f}",
                          f"{100 * shared.cpu[0] / shared.cpu.sum():.1f}")
        table.add_row("median", "", "", f"{statistics.median(ratios):.2f}")
    Console(width=120).print(table, repeated())


if __name__ == "__main__":
    main()
