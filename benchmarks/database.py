"""Small JPEGs in a database, classified: images a second of a run, beside the decoder alone and the model alone.

The JPEGs are encoded images in a column of a table, in SQLite (made here) or in the database of ``--url`` (its table
``photos`` is made anew). Decoding and the forward pass are measured alone with as many threads as the run has, through
the same functions, before and after each run. "Shared" is what the two together allow where both run on the same cores;
"CPU" is the same ratio in CPU seconds, which other processes do not disturb.

    python benchmarks/database.py [--images 100000] [--threads 2] [--size 160] [--url postgresql://…]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy
from numpy.typing import NDArray
from photographs import Stopwatch, _drawn, in_threads
from rich.console import Console
from rich.table import Table

import patchloom
from patchloom.geometry.region import Region
from patchloom.images.encoded import open_bytes
from patchloom.images.sources.database import database
from patchloom.models.load import load_model

DIFFERENT = 256
TABLE = "photos"


def classifier(path: Path, size: int, width: int) -> Path:
    """Three convolutions with a stride of 2 and a mean."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes, weights, x, channels = [], [], "pixels", 3
    for i, out in enumerate((width, 2 * width, 4 * width)):
        kernel = random.normal(0, (2 / (9 * channels)) ** 0.5, (out, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{i}"))
        nodes.append(helper.make_node("Conv", [x, f"w{i}"], [f"c{i}"], pads=[1] * 4, strides=[4 if i == 0 else 2] * 2))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        x, channels = f"r{i}", out
    weights.append(numpy_helper.from_array(random.normal(0, 0.1, (channels, 10)).astype(np.float32), "last"))
    nodes += [helper.make_node("GlobalAveragePool", [x], ["mean"]), helper.make_node("Flatten", ["mean"], ["flat"]),
              helper.make_node("MatMul", ["flat", "last"], ["scores"])]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, size, size])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "classifier", [pixels], [scores], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def filled(url: str, jpegs: Sequence[bytes], count: int) -> None:
    """Make the table, with `count` rows out of these JPEGs."""
    opened = database(url)
    blob = {"postgresql": "bytea", "mysql": "longblob", "mariadb": "longblob"}.get(opened.dialect, "blob")
    insert = sqlalchemy.text(f"insert into {TABLE} values (:id, :jpeg)")
    engine = sqlalchemy.create_engine(opened.engine.url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"drop table if exists {TABLE}"))
        connection.execute(sqlalchemy.text(f"create table {TABLE} (id integer primary key, jpeg {blob})"))
        for start in range(0, count, 1000):
            numbers = range(start, min(count, start + 1000))
            connection.execute(insert, [{"id": n, "jpeg": jpegs[n % len(jpegs)]} for n in numbers])
    engine.dispose()


def decoded_alone(jpegs: Sequence[bytes], threads: int, repeat: int = 8) -> NDArray[np.float64]:
    """Wall and CPU seconds an image of opening and decoding."""
    def work(first: int) -> None:
        for _ in range(repeat):
            for data in jpegs[first::threads]:
                image = open_bytes(data)
                image.read(Region.whole(image.info.shape))
                image.close()

    return in_threads(work, threads, repeat * len(jpegs))


def forward_alone(model: Path, images: int, batch: int, size: int, threads: int) -> NDArray[np.float64]:
    """Wall and CPU seconds an image of the model."""
    loaded = load_model(str(model))
    batches = [np.random.default_rng(i).random((batch, 3, size, size), np.float32) for i in range(threads)]
    loaded.predict(batches[0])
    calls = max(1, images // batch // threads)

    def work(number: int) -> None:
        for _ in range(calls):
            loaded.predict(batches[number])

    return in_threads(work, threads, calls * threads * batch)


def measured(url: str, jpegs: Sequence[bytes], model: Path, options: argparse.Namespace) -> tuple[NDArray[Any], ...]:
    """Wall and CPU seconds an image of the decoder, the model and a run."""
    source = patchloom.SQLSource(url, f"select id, jpeg from {TABLE}")
    watch, alone = Stopwatch(), []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(2):
            alone.append([decoded_alone(jpegs, options.threads),
                          forward_alone(model, 2048, options.batch, options.size, options.threads)])
            if turn == 0:
                patchloom.predict(source, str(model), Path(folder) / "run", patch=options.size, scale=255,
                                  threads=options.threads, batch=options.batch, callbacks=[watch])  # fmt: skip
    decode, forward = np.mean(alone, axis=0)
    return decode, forward, np.array([watch.wall, watch.cpu]) / options.images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=160, help="pixels a side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=8, help="of the network")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--url", help="of a database besides SQLite")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "lab.db").touch()
        jpegs = [_drawn(path / "drawing.jpg", (options.size, options.size), seed) for seed in range(DIFFERENT)]
        model = classifier(path / "net.onnx", options.size, options.width)
        table = Table("database", "decode/s", "forward/s", "shared/s", "run/s", "of the smaller", "of shared", "CPU")
        for name, url in {"SQLite": f"sqlite:///{path}/lab.db", "server": options.url}.items():
            if url is None:
                continue
            filled(url, jpegs, options.images)
            for _ in range(options.repeat):
                decode, forward, run = measured(url, jpegs, model, options)
                shared = decode + forward
                ratios = (max(decode[0], forward[0]) / run[0], shared[0] / run[0], shared[1] / run[1])
                speeds = (1 / seconds[0] for seconds in (decode, forward, shared, run))
                table.add_row(name, *(f"{n:,.0f}" for n in speeds), *(f"{ratio:.2f}" for ratio in ratios))
        Console(width=120).print(f"{options.images:,} JPEGs of {np.mean([*map(len, jpegs)]) / 1000:.1f} kB", table)


if __name__ == "__main__":
    main()
