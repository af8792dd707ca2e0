"""The scripts in docs/keras.md run as they stand, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "keras.md"
SCRIPTS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)


def test_the_page_has_a_script() -> None:
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_short_and_runs(script, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(script.splitlines()) < 25
    exec(compile(script, str(PAGE), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith("(2, 64, 64) [")
    assert (tmp_path / "run" / "run.json").is_file()
