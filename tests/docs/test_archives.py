"""The page about archives says what is true: its commands and its code are run."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import patchloom
from patchloom.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "archives.md"
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "brightness", raising=False)
    names: dict[str, object] = {"__name__": "page"}
    for i, (kind, block) in enumerate(BLOCKS):
        if kind == "python":
            exec(compile(block, f"{PAGE.name}, block {i}", "exec"), names)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line.removeprefix("$ "))
            assert program == "patchloom"
            assert main(arguments) == 0
    run = patchloom.open("run")
    shown = capsys.readouterr().out.splitlines()
    first = run.patch("a.png", 0, 0, head="light")
    assert shown[0].split()[:3] == ["a.png", "0", "0"]
    assert np.float32(shown[0].split()[3]) == first
    assert shown[1] == "predictions/a.png.npy (96, 128) bool"
    assert shown[2].startswith("brightest: ")
    assert shown[3] == "(96, 128)"
