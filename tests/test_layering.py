"""Imports go downward only, and a module is one concept."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import patchloom

ROOT = Path(patchloom.__file__).parent
LAYERS = (
    ("errors", "events"),
    ("connections", "geometry", "references"),
    ("objects", "parsing"),
    ("config",),
    ("images", "models"),
    ("predictions",),
    ("engine", "export"),
    ("run",),
    ("session",),
    ("api",),
    ("loop", "writing"),
    ("torch", "tensorflow", "viewer"),
    ("demo",),
    ("cli",),
    ("__main__",),
)
"""Lowest first; a layer imports from those before it, and its parts do not import one another."""
LINES = 500

RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted(ROOT.rglob("*.py"))


def part_of(module: str) -> str:
    """Name of the part of patchloom that a module belongs to; empty for `patchloom` itself."""
    return module.split(".")[1] if "." in module else ""


def dotted(path: Path) -> str:
    """Name of the module that `path` holds."""
    return ".".join(("patchloom", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of everything of ours that is imported, also within functions and for type checkers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "patchloom")


def upward(module: str, tree: ast.Module) -> list[str]:
    """Imports that do not go downward, as lines to show."""
    part = part_of(module)
    if not part:
        return []  # what users type is exported here
    found = []
    for line, name in imports(tree):
        other = part_of(name)
        if name == "patchloom.__version__" or other == part:
            continue
        # What users import from `patchloom` itself comes from the api.
        down = other != "cli" if part == "testing" else RANKS.get(other, RANKS["api"]) < RANKS[part]
        if not down:
            found.append(f"{module}:{line} imports {name}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_imports_only_from_layers_below_its_own(path: Path) -> None:
    assert upward(dotted(path), ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_has_at_most_500_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES


def test_each_part_has_a_layer() -> None:
    parts = {part_of(dotted(path)) for path in MODULES} - {"", "testing"}
    assert parts <= set(RANKS), "add the new part to LAYERS"


@pytest.mark.parametrize(
    ("module", "text", "upward_imports"),
    [
        ("patchloom.geometry.grid", "from patchloom.errors import UsageError", 0),
        ("patchloom.geometry.grid", "from patchloom.config import Config", 1),
        ("patchloom.images.image", "def f():\n    import patchloom.models.model", 1),
        ("patchloom.images.image", "import numpy\nfrom patchloom.images.source import Source", 0),
        ("patchloom.engine.plan", "from patchloom import api", 1),
        ("patchloom.engine.plan", "import patchloom", 1),
        ("patchloom.engine.plan", "from patchloom import __version__", 0),
        ("patchloom.cli.main", "from patchloom import predict", 0),
        ("patchloom.testing.readers", "from patchloom.api import predict", 0),
        ("patchloom.testing.readers", "from patchloom.cli import main", 1),
        ("patchloom", "from patchloom.api import predict", 0),
    ],
)
def test_the_check_itself_finds_upward_imports(module: str, text: str, upward_imports: int) -> None:
    assert len(upward(module, ast.parse(text))) == upward_imports
