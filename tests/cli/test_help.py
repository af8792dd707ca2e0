"""Help names what there is, and nothing else does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from patchloom.cli.app import COMMANDS, patchloom
from patchloom.config import OPTIONS
from tests.cli.conftest import ROOT, Call

DOCUMENTED = """
    --patch --overlap --stride --edge --pad --fill --blend --axes --channels --level --scale --mean --std --preprocess
    --reduce --classes --batch --device --threads --memory --executor --shard --nodata --arch --model-id --fail-fast
    --overwrite --allow-pickle -m --model -o --out --dry-run --config --save-config --quiet --json --debug
"""
"""Flags of `predict` that users were promised."""
COMMAND_LINE = re.compile(r"^\s*(?:\$ )?patchloom +(?P<rest>.*)$", re.MULTILINE)


def command(name: str) -> click.Command:
    found = patchloom.get_command(click.Context(patchloom), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_names_its_options_in_80_columns(name: str, call: Call) -> None:
    ended = call(name, "--help")
    flags = [flag for param in command(name).params if isinstance(param, click.Option) for flag in param.opts]
    assert (ended.code, ended.err) == (0, "")
    assert all(flag in ended.out for flag in flags)
    assert max(map(len, ended.out.splitlines())) <= 80
    assert call(name, "-h") == ended


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_ends_with_one_example(name: str, call: Call) -> None:
    before, example = call(name, "--help").out.split("\nExample:\n")
    assert example.startswith(f"  patchloom {name}") and len(example.splitlines()) == 1
    assert "Options:" in before or "General:" in before


def test_help_of_the_program_lists_the_commands(call: Call) -> None:
    ended = call("--help")
    assert ended.code == 0
    assert re.findall(r"^  (\w+)  +\S", ended.out.split("Commands:")[1], re.MULTILINE) == list(COMMANDS)


def test_help_of_predict_groups_its_options(call: Call) -> None:
    headings = re.findall(r"^(\w+):$", call("predict", "--help").out, re.MULTILINE)
    assert headings == ["Input", "Patches", "Model", "Output", "Execution", "General", "Example"]


def test_predict_has_every_option_of_a_run_under_its_documented_flag() -> None:
    flags = {flag for param in command("predict").params for flag in param.opts}
    expected = {f"--{name.replace('_', '-')}" for name in OPTIONS} - {"--on-error"} | {"--fail-fast"}
    assert expected <= flags
    assert set(DOCUMENTED.split()) <= flags
    assert "--on-error" not in flags


def test_every_choice_is_in_the_help(call: Call) -> None:
    text = call("predict", "--help").out
    assert all("|".join(option.choices) in text for name, option in OPTIONS.items() if name != "on_error")


def test_flags_in_the_documents_exist() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    unknown = []
    for path in documents:
        for line in COMMAND_LINE.finditer(path.read_text(encoding="utf-8")):
            name, *words = line["rest"].split("#")[0].split() or [""]
            params = patchloom.params if name not in COMMANDS else command(name).params
            known = {"-h", "--help"}.union(*(param.opts for param in params))
            flags = {word for word in words if re.fullmatch(r"--[a-z][a-z-]*", word)}
            unknown += [(path.name, line[0], flag) for flag in flags - known]
    assert documents and unknown == []


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom patchloom.cli import main\nassert main(['--help']) == 0\n"
        "print(*sorted({'numpy', 'rich', 'onnxruntime', 'tifffile', 'zarr', 'duckdb', 'torch'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path.home())
    assert ended.stdout.splitlines()[-1] == ""


def test_version_is_the_package_version(call: Call) -> None:
    from patchloom import __version__

    assert call("--version").out == f"patchloom {__version__}\n"


def test_no_command_shows_the_help_and_is_a_usage_error(call: Call) -> None:
    ended = call()
    assert ended.code == 2
    assert ended.out == "" and ended.err.startswith("Usage: patchloom")
