"""Examples in the documentation of the geometry do what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import patchloom.geometry
from patchloom.testing import oracle

MODULES = sorted(f"patchloom.geometry.{module.name}" for module in pkgutil.iter_modules(patchloom.geometry.__path__))


@pytest.mark.parametrize("name", [*MODULES, oracle.__name__])
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    attempted = sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES)
    assert attempted >= 5
