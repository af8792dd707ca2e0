"""The page about job arrays says what is true: its commands are run, and print what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from patchloom.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "job-arrays.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|console|bash)\n(.*?)```", TEXT, re.DOTALL)


def test_the_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "brightness", raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "patchloom").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m patchloom "$@"\n')
    (tmp_path / "bin" / "patchloom").chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, PAGE.name, "exec"), {"__name__": "page"})
        elif kind == "bash" and "SBATCH" not in block:
            environment = os.environ | {"PATH": path}
            ended = subprocess.run(["bash", "-ec", block], env=environment, capture_output=True, text=True, check=False)
            assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        elif kind == "console":
            for command, expected in re.findall(r"^\$ patchloom (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
                code = main(command.split())
                said = capsys.readouterr()
                assert (said.out, code) == (expected, 1 if "missing:" in expected else 0), said.err


def test_the_script_gives_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    [script] = [block for kind, block in BLOCKS if kind == "bash" and "SBATCH" in block]
    assert main(["predict", "--help"]) == 0
    offered = capsys.readouterr().out
    words = script.partition("srun patchloom predict")[2].split()
    flags = [word for word in words if word.startswith("-")]
    assert "--shard" in flags and all(re.search(rf"(^|[\s,]){flag}\b", offered, re.MULTILINE) for flag in flags)
