"""The page about databases says what is true: its commands and its code are run, and print what it shows."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

import pytest

from patchloom.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "databases.md"
BLOCKS = re.findall(r"```(python|console|)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stain", raising=False)
    names: dict[str, object] = {"__name__": "page"}
    said = ""
    for i, (kind, block) in enumerate(BLOCKS):
        if kind == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, f"{PAGE.name}, block {i}", "exec"), names)
            said = printed.getvalue()
        elif kind == "console":
            for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
                program, *arguments = shlex.split(command)
                assert program == "patchloom"
                code = main(arguments)
                shown = capsys.readouterr()
                assert expected in shown.out + shown.err
                assert code == (1 if "warning:" in expected else 0)
        elif "pip install" not in block:
            assert said == block
    assert said == "21\n"
