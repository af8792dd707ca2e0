"""The page about stores says what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "stores.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def run_page(names: dict[str, Any], *, with_server: bool) -> dict[str, Any]:
    for block in blocks():
        if with_server or not block.startswith("# server:"):
            exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page({}, with_server=False)
    assert '"predictions": {"prediction": {"dark": ' in capsys.readouterr().out
    assert names["run"].patch("1.png", 0, 50).shape == (2,)
    assert (tmp_path / "copy" / "1.png.json").exists()


def test_the_page_runs_with_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.chdir(tmp_path)
    run_page({"redis_url": redis_url}, with_server=True)
    assert (tmp_path / "run-redis").is_dir()
