"""The page about clusters says what is true: what it shows for one machine is run, on two nodes."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import patchloom
from patchloom.cli import main
from patchloom.config import Config
from patchloom.events import WorkerJoined
from tests.cluster.failures import FAILURES

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
TEXT = PAGE.read_text(encoding="utf-8")
LAPTOP = TEXT[: TEXT.index("## A Slurm allocation")]
BLOCKS = re.findall(r"```(python|console|bash)\n(.*?)```", LAPTOP, re.DOTALL)

TOKEN = secrets.token_hex(16)
"""So that none is written into the home folder."""


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment in which `patchloom` and `ray` are those of this interpreter; ends the nodes that are started."""
    (tmp_path / "bin").mkdir()
    for name, module in (("patchloom", "patchloom"), ("ray", "ray.scripts.scripts")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        yield os.environ | {"PATH": path, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_TOKEN": TOKEN}
        for process in started_with(folder):  # `ray stop` would end all clusters of the machine
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, 9)


def started_with(variable: str) -> set[int]:
    """Processes with something in their environment, and what they started, which may have written over its own."""
    found, parents = set(), {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if variable.encode() in (process / "environ").read_bytes():
                found.add(int(process.name))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


@pytest.mark.slow
def test_what_it_shows_for_one_machine_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], commands: dict[str, str]
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "brightness", raising=False)
    in_shell = commands | {"RAY_AUTH_MODE": "token", "PYTHONPATH": str(tmp_path)}
    shown = 0
    for kind, block in BLOCKS:
        if kind == "bash":
            assert "ray start" in block and "patchloom predict" in block
            ended = subprocess.run(["bash", "-ec", block], env=commands, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, ended.stdout + ended.stderr
        elif kind == "console":
            for command, expected in re.findall(r"^\$ patchloom (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
                assert (main(command.split()), capsys.readouterr().out) == (0, expected)
                shown += 1
        else:
            subprocess.run([sys.executable, "-c", block], env=in_shell, check=True)
    assert shown == 2
    run, again = patchloom.open("run"), patchloom.open("run2")
    assert again.verify() == []
    assert again.patches().to_arrow().equals(run.patches().to_arrow())


def test_the_table_has_all_failures_and_no_difference() -> None:
    table = TEXT.partition("## When something goes wrong")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!what goes wrong|---)(.*) \|$", table, re.MULTILINE)
    cells = [row.split(" | ") for row in rows]
    assert [one[0] for one in cells] == [failure.name for failure in FAILURES]
    assert all(one[3] == "yes (bytes), yes (1e-5)" and one[4] == "clean" for one in cells)


def test_scripts_give_options_that_exist() -> None:
    for command in re.findall(r"patchloom predict (?:[^\n]|\\\n)*", TEXT):
        for flag in re.findall(r"--([a-z-]+)", command):
            assert flag.replace("-", "_") in {*Config.__dataclass_fields__, "dry_run", "quiet", "out"}, flag
    assert WorkerJoined.__name__ in TEXT
