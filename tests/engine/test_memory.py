"""Peak resident memory, measured by the operating system, of runs in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

TILE = 256
PROGRAM = """
import json, re, sys
from pathlib import Path
import numpy as np
import patchloom

def model(batch):
    return batch[:, :1].astype(np.float32)

image, out, blend = sys.argv[1:]
options = dict(patch=512, overlap=64, batch=1, threads=2, blend=blend, model_id="copy")
plan = patchloom.plan(image, model, **options)
run = patchloom.predict(image, model, out, **options)
# Not `ru_maxrss`, which begins with what the parent had when it started this process.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"peak": peak, "projected": plan.memory, "patches": plan.patches}))
"""


def large_image(path: Path, height: int, width: int) -> Path:
    """JPEG-tiled TIFF that is made in no time: one tile over and over."""
    tile = imagecodecs.jpeg8_encode(np.random.default_rng(0).integers(0, 255, (TILE, TILE, 3), dtype=np.uint8))
    count = -(-height // TILE) * -(-width // TILE)

    def tiles() -> Iterator[bytes]:
        return (tile for _ in range(count))

    tifffile.imwrite(
        path, tiles(), shape=(height, width, 3), dtype="uint8", tile=(TILE, TILE), compression="jpeg", photometric="rgb"
    )
    return path


def measured(folder: Path, height: int, width: int, blend: str) -> dict[str, int]:
    folder.mkdir(exist_ok=True)
    image = large_image(folder / f"{height}x{width}.tif", height, width)
    call = [sys.executable, "-c", PROGRAM, str(image), str(folder / f"run {height}x{width}"), blend]
    ended = subprocess.run(call, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    answer: dict[str, int] = json.loads(ended.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("blend", ["crop", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_a_larger_image_takes_no_more_memory_and_no_more_than_was_projected(tmp_path: Path, blend: str) -> None:
    # Eight units a sweep, so that as many are under way at once as ever will be.
    first, again = (measured(tmp_path / name, 4096, 8192, blend) for name in ("first", "again"))
    # Where threads happen to meet moves a peak by a buffer or so, also from one run of the same image to the next.
    reference = max(first["peak"], again["peak"])
    for height, width in ((12288, 8192), (4096, 24576)):
        tries = [measured(tmp_path / name, height, width, blend) for name in ("first", "again")]
        assert min(one["peak"] for one in tries) < 1.1 * reference
        assert all(one["patches"] > 2.5 * first["patches"] for one in tries)
        assert all(one["peak"] < one["projected"] for one in tries)
