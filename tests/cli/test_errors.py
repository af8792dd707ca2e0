"""A mistake is one ``error:`` line, one ``hint:`` line and a kind; an exit code says what sort of end it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from patchloom import api
from patchloom.cli.errors import WIDTH, report
from tests.cli.conftest import Call, Ended

TWO_LINES = re.compile(r"error: (?P<message>\S.*)\nhint: (?P<hint>\S.*?) {2,}\[(?P<kind>[a-z-]+)\]\n")


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Current directory without any files."""
    monkeypatch.chdir(tmp_path)


def complaint(ended: Ended) -> re.Match[str]:
    """The two lines, which are all that was written."""
    match = TWO_LINES.fullmatch(ended.err)
    assert match, ended.err
    assert ended.out == ""
    return match


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        ("predcit", "no such command 'predcit'", "did you mean `patchloom predict`?"),
        ("xyzzy", "no such command 'xyzzy'", "commands are predict, resume"),
        ("predict --pacth 3", "no such option --pacth", "did you mean --patch? see `patchloom predict --help`"),
        ("--nonsense", "no such option --nonsense", "see `patchloom --help`"),
        ("predict", "no images were given", "patchloom predict SOURCE"),
        ("predict x", "no model was given", "-m model.onnx"),
        ("predict x -m y", "no folder for the run was given", "--dry-run"),
        ("predict x -m y -o z --json", "--json is for --dry-run", "patchloom status"),
        ("predict x -m y -o z --edge cut", "invalid value for '--edge': 'cut' is not one of", "--help"),
        ("predict x -m y -o z --patch big", "patch: whole numbers separated by commas, not 'big'", "--patch"),
        ("predict x -m y -o z --overlap 1 --stride 2", "stride and overlap exclude each other", "give one"),
        ("predict x -m y -o z --config none.toml", "none.toml: ", "a config file is TOML"),
        ("patch run", "missing argument 'IMAGE'", "see `patchloom patch --help`"),
        ("patch run image y x", "invalid value for 'Y X': 'y' is not a valid integer", "patch --help"),
        ("status", "missing argument 'RUN'", "status --help"),
    ],
)
def test_a_wrong_call_is_a_usage_error_with_a_hint(
    args: str, message: str, hint: str, call: Call, empty_folder: None
) -> None:
    ended = call(*args.split())
    match = complaint(ended)
    assert (ended.code, match["kind"]) == (2, "usage")
    assert match["message"].startswith(message) and hint in match["hint"]


@pytest.mark.parametrize("name", ["resume", "status", "failures", "query", "verify"])
def test_a_folder_without_a_run_is_named(name: str, call: Call, tmp_path: Path) -> None:
    ended = call(name, tmp_path / "nothing")
    match = complaint(ended)
    assert (ended.code, match["kind"]) == (2, "run-not-found")
    assert str(tmp_path / "nothing") in match["message"]


def test_missing_images_are_named(call: Call, tmp_path: Path) -> None:
    ended = call("predict", tmp_path / "none", "-m", "tests.cli.models:scores", "-o", tmp_path / "run")
    assert (ended.code, complaint(ended)["kind"]) == (2, "source-not-found")
    assert not (tmp_path / "run").exists()


def test_a_missing_model_is_named(call: Call, slides: Path, tmp_path: Path) -> None:
    ended = call("predict", slides, "-m", tmp_path / "none.onnx", "-o", tmp_path / "run")
    match = complaint(ended)
    assert (ended.code, match["kind"]) == (2, "model-not-found")
    assert "none.onnx" in match["message"]


def test_a_run_with_other_options_is_refused(call: Call, slides: Path, vectors: Path) -> None:
    ended = call("predict", slides, "-m", "tests.cli.models:scores", "-o", vectors, "--patch", "32")
    match = complaint(ended)
    assert (ended.code, match["kind"]) == (2, "config-mismatch")
    assert "--overwrite" in match["hint"]


def test_a_bug_is_an_internal_error_that_asks_to_be_reported(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "open", lambda run, store: {}[run])
    ended = call("status", "run")
    match = complaint(ended)
    assert (ended.code, match["kind"]) == (2, "internal")
    assert match["message"] == "internal error: KeyError: 'run'"
    assert "--debug" in match["hint"] and "report" in match["hint"]


@pytest.mark.parametrize("args", [("--debug", "status", "nothing"), ("status", "nothing", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(args: tuple[str, ...], call: Call) -> None:
    ended = call(*args)
    assert ended.code == 2
    assert "Traceback (most recent call last)" in ended.err
    assert TWO_LINES.search(ended.err)


def test_the_kind_ends_in_the_same_column_whatever_the_hint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    report("run was made with a different model", "choose another -o, or --overwrite to discard 209 images",
           "config-mismatch")
    assert capsys.readouterr().err.splitlines()[1] == (
        "hint: choose another -o, or --overwrite to discard 209 images            [config-mismatch]")


def test_a_long_hint_or_a_message_with_line_breaks_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    report("first\n  second", "x" * 200, "usage")
    assert capsys.readouterr().err == f"error: first second\nhint: {'x' * 200}  [usage]\n"
