"""Small real images, runs over them, and a way to call the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from patchloom.cli import main

ROOT = Path(__file__).parents[2]
PATCH = ("--patch", "64")


@dataclass(frozen=True)
class Ended:
    """What a call of the program left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)


Call = Callable[..., Ended]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the program in this process."""

    def run(*args: object) -> Ended:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        return Ended(code, *capsys.readouterr())

    return run


def start(*args: object, cwd: Path) -> subprocess.Popen[str]:
    """Start the program in a process of its own."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "90", "SECONDS_A_PATCH": "0.02"}
    return subprocess.Popen([sys.executable, "-m", "patchloom", *map(str, args)], cwd=cwd, text=True, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def write_image(path: Path, values: Sequence[Sequence[int]], size: int = 64) -> None:
    """RGB TIFF of flat grey squares, `size` pixels each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.kron(np.array(values, np.uint8), np.ones((size, size), np.uint8))
    tifffile.imwrite(path, np.stack([grey] * 3, -1), tile=(64, 64), photometric="rgb",
                     compression="deflate")


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good images, one of them in a folder, whose patches have known means."""
    folder = tmp_path_factory.mktemp("images") / "slides"
    write_image(folder / "a" / "s.tif", [[204, 51, 0], [102, 153, 255]])
    write_image(folder / "b.tif", [[51]])
    return folder


@pytest.fixture(scope="session")
def with_bad(tmp_path_factory: pytest.TempPathFactory, slides: Path) -> Path:
    """A good image and one that is cut off."""
    folder = tmp_path_factory.mktemp("images") / "mixed"
    write_image(folder / "good.tif", [[51, 102]])
    (folder / "cut.tif").write_bytes((slides / "b.tif").read_bytes()[:300])
    return folder


def make_run(tmp_path_factory: pytest.TempPathFactory, source: Path, model: str, *options: str) -> Path:
    """Run of a model of `models`."""
    run = tmp_path_factory.mktemp("runs") / "run"
    code = main(["predict", str(source), "-m", f"tests.cli.models:{model}", "-o", str(run), *PATCH, "-q", *options])
    assert code in (0, 1)
    return run


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory, slides: Path) -> Path:
    """Run of `scores`."""
    return make_run(tmp_path_factory, slides, "scores", "--classes", "tumour,stroma")


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory, slides: Path) -> Path:
    """Run of `maps`."""
    return make_run(tmp_path_factory, slides, "maps", "--classes", "tumour,stroma")


@pytest.fixture(scope="session")
def two_heads(tmp_path_factory: pytest.TempPathFactory, slides: Path) -> Path:
    """Run of `both`."""
    return make_run(tmp_path_factory, slides, "both")


@pytest.fixture(scope="session")
def failed(tmp_path_factory: pytest.TempPathFactory, with_bad: Path) -> Path:
    """Run with one failed image."""
    return make_run(tmp_path_factory, with_bad, "scores", "--classes", "tumour,stroma")
