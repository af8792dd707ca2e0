"""Patches through a `DataLoader`: seconds to decode each chunk once, over the seconds of a whole pass.

Patches of 512, stride 448, out of a JPEG-tiled TIFF, batches of 8, two workers. Decoding once is the codec alone on
every tile, in as many threads. Also a dataset that reads each patch on its own, as people write it, shuffled and not;
and the sliding-window dataset of MONAI where that is installed (it decodes the whole image for each patch, so that it
is measured on a few patches). "Ready patches" is the `DataLoader` alone, which copies patches into batches and carries
these between processes: no dataset can be faster.

    python benchmarks/loading.py [--size 8192] [--repeat 3] [--image FILE]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import zarr
from efficiency import jpeg_image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from patchloom.torch import PatchDataset, PatchStream, ShuffledSampler

PATCH, STRIDE, BATCH, WORKERS = 512, 448, 8, 2
FEW = 16
"""Patches of datasets that take minutes."""

Seconds = tuple[float, float]


class NaiveDataset(Dataset[torch.Tensor]):
    """Each patch on its own: the file's tiles that it touches are decoded for it."""

    def __init__(self, path: Path) -> None:
        self._path, self._array = path, None
        with tifffile.TiffFile(path) as file:
            height, width = file.pages[0].shape[:2]
        starts = [[*range(0, n - PATCH, STRIDE), n - PATCH] for n in (height, width)]
        self._starts = [(y, x) for y in starts[0] for x in starts[1]]

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, i: int) -> torch.Tensor:
        if self._array is None:
            # Tiles that zarr reads at a time share tifffile's file handle, which sometimes mixes them up.
            zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1})
            found = zarr.open(tifffile.imread(self._path, aszarr=True, level=0), mode="r")
            self._array = found if isinstance(found, zarr.Array) else found["0"]
        y, x = self._starts[i]
        return torch.from_numpy(np.moveaxis(self._array[y : y + PATCH, x : x + PATCH], -1, 0).copy())


class ReadyDataset(Dataset[torch.Tensor]):
    """As many patches that are ready: what the `DataLoader` itself costs, which carries them between processes."""

    def __init__(self, path: Path) -> None:
        self._count = len(PatchDataset(path, PATCH, STRIDE))
        self._patch = torch.ones((3, PATCH, PATCH), dtype=torch.uint8)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> torch.Tensor:
        return self._patch


def monai_dataset(path: Path) -> Dataset[Any] | None:
    """MONAI's, or None where it is not installed."""
    try:
        from monai.data import SlidingPatchWSIDataset
    except ImportError:
        return None
    return SlidingPatchWSIDataset([{"image": str(path)}], patch_size=PATCH, overlap=1 - STRIDE / PATCH,
                                  reader="tifffile")


def spent(work: Callable[[], None]) -> Seconds:
    """Wall and CPU seconds, those of processes that it started among them."""

    def cpu() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    begin = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - begin[0], cpu() - begin[1]


def decode_once(path: Path) -> None:
    """The codec alone, on every tile."""
    with tifffile.TiffFile(path) as file, ThreadPoolExecutor(WORKERS) as pool:
        page = file.pages[0]
        handle = file.filehandle
        tiles = list(handle.read_segments(page.dataoffsets, page.databytecounts))
        tables = page.jpegtables
        list(pool.map(lambda tile: page.decode(tile[0], tile[1], jpegtables=tables), tiles))


def a_pass(loader: Iterable[Any], patches: int | None = None) -> None:
    """Draw all batches."""
    seen = 0
    for batch in loader:
        pixels = batch["patch"] if isinstance(batch, dict) and "patch" in batch else batch
        pixels = pixels["image"] if isinstance(pixels, dict) else pixels
        seen += len(pixels)
        if patches is not None and seen >= patches:
            break


def loaders(path: Path) -> dict[str, tuple[Callable[[], Iterable[Any]], int | None]]:
    """What is measured, and how many patches of it."""
    workers = {"batch_size": BATCH, "num_workers": WORKERS}

    def shuffled() -> Iterable[Any]:
        dataset = PatchDataset(path, PATCH, STRIDE)
        sampler = ShuffledSampler(dataset, seed=1, **workers)
        return DataLoader(dataset, sampler=sampler, **workers)

    found: dict[str, tuple[Callable[[], Iterable[Any]], int | None]] = {
        "no decoding, ready patches": (lambda: DataLoader(ReadyDataset(path), **workers), None),
        "PatchStream": (lambda: DataLoader(PatchStream(path, PATCH, STRIDE), **workers), None),
        "PatchDataset, in order": (lambda: DataLoader(PatchDataset(path, PATCH, STRIDE), **workers), None),
        "PatchDataset, ShuffledSampler": (shuffled, None),
        "PatchDataset, shuffle=True": (
            lambda: DataLoader(PatchDataset(path, PATCH, STRIDE), shuffle=True, **workers), None),
        "naive, in order": (lambda: DataLoader(NaiveDataset(path), **workers), None),
        "naive, shuffle=True": (lambda: DataLoader(NaiveDataset(path), shuffle=True, **workers), None),
    }
    monai = monai_dataset(path)
    if monai is not None:
        found["MONAI, in order"] = (lambda: DataLoader(monai, **workers), FEW)
    return found


def ratio(path: Path, loader: Callable[[], Iterable[Any]], patches: int | None) -> Seconds:
    """Decoding once over a pass, wall and CPU."""
    once, whole = spent(lambda: decode_once(path)), spent(lambda: a_pass(loader(), patches))
    return once[0] / whole[0], once[1] / whole[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--image", type=Path, help="keep the image here, or use it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = jpeg_image(options.image or Path(folder) / "scene.tif", options.size)
        total = len(PatchDataset(path, PATCH, STRIDE))
        table = Table("loader", "wall", "CPU", title=f"decoding once / a pass over {total} patches, medians")
        decode_once(path)
        for name, (loader, few) in loaders(path).items():
            share = 1 if few is None else min(1.0, few / total)
            ratios = [ratio(path, loader, few) for _ in range(options.repeat if few is None else 1)]
            wall, cpu = (share * statistics.median(values) for values in zip(*ratios, strict=True))
            table.add_row(name, f"{wall:.3f}", f"{cpu:.3f}")
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
