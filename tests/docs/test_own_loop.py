"""The page about one's own loop says what is true: its code is run, and its examples are as short as it claims."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile

import patchloom

PAGE = Path(__file__).parents[2] / "docs" / "own-loop.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    with warnings.catch_warnings():
        for module in ("lightning", "torch"):  # what they say of themselves is not ours
            warnings.filterwarnings("ignore", module=module)
        for i, block in enumerate(BLOCKS):
            exec(compile(block, f"{PAGE.name}, block {i}", "exec"), names)
    shown = capsys.readouterr().out
    assert float(re.findall(r"loss ([\d.]+)", shown)[0]) < 0.5
    assert shown.count("['a.tiff', 'b.tiff']") == 2
    by_hand, lightning = (tifffile.imread(tmp_path / folder / "a.tiff") for folder in ("scores", "from-lightning"))
    run = np.asarray(patchloom.open("run")["a.png"].stitched())
    np.testing.assert_allclose(by_hand, lightning, rtol=1e-5)
    assert by_hand.shape[-2:] == run.shape[-2:] == (448, 576)
    assert "a.png (448, 576, 3)" in shown


def test_examples_are_under_25_lines() -> None:
    assert len(BLOCKS) == 6
    assert max(len(block.splitlines()) for block in BLOCKS) < 25
