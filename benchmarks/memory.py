"""Peak resident memory of a run over images of growing size, same configuration: it should not grow with them.

Each run is a process of its own; the figure is the operating system's (`VmHWM`, so this needs Linux).

    python benchmarks/memory.py [--sizes 8192 24576] [--model three] [--reduce argmax]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from networks import three_convolutions
from rich.console import Console
from rich.table import Table

TILE = 256


def large_image(path: Path, size: int) -> Path:
    """JPEG-tiled TIFF of any size in little time: sixteen different tiles, over and over."""
    random = np.random.default_rng(0)
    ramps = np.add.outer(np.arange(TILE), np.arange(TILE))[..., None] // 4
    tiles = [
        imagecodecs.jpeg8_encode((ramps + random.integers(0, 60, (TILE, TILE, 3))).astype(np.uint8), level=85)
        for _ in range(16)
    ]
    count = (-(-size // TILE)) ** 2

    def encoded() -> Iterator[bytes]:
        return (tiles[i * 7 % 16] for i in range(count))

    tifffile.imwrite(
        path,
        encoded(),
        shape=(size, size, 3),
        dtype="uint8",
        tile=(TILE, TILE),
        compression="jpeg",
        photometric="rgb",
        bigtiff=True,
    )
    return path


def one_run(image: str, model: str, out: str, options: dict[str, object]) -> None:
    import patchloom

    run = patchloom.predict(image, model, out, patch=512, overlap=64, scale=255, batch=1, threads=2, **options)
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    peak = int(found[1]) / 1024
    print(json.dumps({"patches": len(run[Path(image).name]), "peak": peak}))


def measured(image: Path, model: Path, options: dict[str, object], folder: Path) -> dict[str, float]:
    out = tempfile.mkdtemp(dir=folder)
    try:
        call = [sys.executable, __file__, "--one", str(image), str(model), f"{out}/run", json.dumps(options)]
        answer = subprocess.run(call, check=True, capture_output=True, text=True).stdout
        return json.loads(answer.splitlines()[-1])
    finally:
        shutil.rmtree(out)


def main() -> None:
    if "--one" in sys.argv:
        image, model, out, options = sys.argv[sys.argv.index("--one") + 1 :]
        one_run(image, model, out, json.loads(options))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8192, 24576])
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    model = three_convolutions(arguments.folder / "three.onnx")
    table = Table(title="peak resident memory, MiB (three convolutions, patch 512, overlap 64, batch 1, 2 threads)")
    for heading in ("output", *(f"{size:,} px" for size in arguments.sizes), "largest / smallest"):
        table.add_column(heading, justify="right")
    for title, options in (
        ("class map", {"reduce": "argmax"}),
        ("float32 scores", {}),
        ("float32 scores, gaussian", {"blend": "gaussian"}),
    ):
        peaks = []
        for size in arguments.sizes:
            image = large_image(arguments.folder / f"large-{size}.tif", size)
            peaks.append(measured(image, model, options, arguments.folder)["peak"])
        table.add_row(title, *(f"{peak:.0f}" for peak in peaks), f"{peaks[-1] / peaks[0]:.3f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
