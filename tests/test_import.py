"""`import patchloom` is quick, loads no framework, and shows what users type."""

from __future__ import annotations

import ast
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import patchloom

SECONDS = 0.3
NAMES = 25
HEAVY = {
    "PIL", "cv2", "duckdb", "imagecodecs", "jax", "keras", "lightning", "matplotlib", "onnx", "onnxruntime", "pandas",
    "polars", "psycopg", "pyarrow", "pymongo", "pymysql", "pytest", "ray", "redis", "rich", "safetensors", "scipy",
    "skimage", "sqlite3", "tensorflow", "tifffile", "torch", "torchvision", "zarr",
}  # fmt: skip

PROBE = """
import json, sys, time
start = time.process_time()
import patchloom
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def probe(code: str = PROBE) -> dict[str, object]:
    """What a fresh interpreter says."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_importing_loads_no_framework_no_driver_and_no_codec() -> None:
    modules = probe()["modules"]
    assert isinstance(modules, list)
    assert HEAVY.isdisjoint(modules), HEAVY.intersection(modules)


def test_importing_takes_less_than_three_tenths_of_a_second() -> None:
    probe()  # compiles what is not yet compiled
    # Seconds of the processor, so that whatever else the machine does counts little.
    assert statistics.median(float(str(probe()["seconds"])) for _ in range(5)) < SECONDS


def test_all_is_the_sorted_public_namespace() -> None:
    assert list(patchloom.__all__) == sorted(patchloom.__all__)
    public = {name for name in dir(patchloom) if not name.startswith("_")}
    assert public == set(patchloom.__all__) - {"__version__"}


def test_what_type_checkers_see_is_what_is_exported() -> None:
    tree = ast.parse(Path(patchloom.__file__).read_text(encoding="utf-8"))
    checked = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.name for node in ast.walk(checked[0]) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(patchloom.__all__) - {"__version__"}


def test_at_most_25_names_are_exported() -> None:
    assert 0 < len(patchloom.__all__) <= NAMES


@pytest.mark.parametrize("name", patchloom.__all__)
def test_each_exported_name_is_there_and_documented(name: str) -> None:
    value = getattr(patchloom, name)
    assert isinstance(value, str) or value.__doc__


def test_a_name_that_is_not_exported_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = patchloom.nonsense
