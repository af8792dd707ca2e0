import contextlib
import os
import re

import pytest
from PIL import Image
from rich.console import Console

import patchloom
from patchloom.demo.demo import run_demo
from patchloom.demo.scenes import Scene

SCENES = (Scene("section.tif", (1024, 1536), 7), Scene("patient-1/biopsy.tif", (768, 640), 8),
          Scene("patient-2/biopsy.tif", (700, 768), 21))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Working folder and output of two demonstrations, one after the other in the same folder."""
    folder, outputs = tmp_path_factory.mktemp("demo") / "patchloom-demo", []
    for _ in range(2):
        with open(os.devnull, "w", encoding="utf-8") as nowhere, _captured(folder.parent / "stdout") as read:
            assert run_demo(folder, console=Console(file=nowhere), scenes=SCENES) == 0
        outputs.append(read())
    return folder, outputs


@contextlib.contextmanager
def _captured(path):
    with path.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield lambda: path.read_text(encoding="utf-8")


def test_the_demo_ends_with_every_image_predicted_and_a_picture(shown):
    folder, _ = shown
    run = patchloom.open(folder / "run")
    assert set(run) == {scene.name for scene in SCENES}
    assert run.status().done == len(SCENES)
    with Image.open(folder.with_name("patchloom-demo.png")) as picture:
        assert picture.width == 1600


def test_the_demo_prints_its_quality_one_patch_and_what_to_try_next(shown):
    for output in shown[1]:
        scores = re.search(r"all .* (\d\.\d{3}) +(\d+\.\d)%", output)
        assert float(scores[1]) > 0.6 and float(scores[2]) > 85
        assert "uint8 of shape (512, 512)" in output
        assert "patchloom verify" in output


def test_a_second_demo_uses_the_scenes_of_the_first_and_makes_its_run_anew(shown):
    first, second = shown[1]
    assert "made just now" in first and "used again" in second
    for output in (first, second):
        assert "3 of 3 images complete" in output


@pytest.mark.slow
def test_the_demo_runs_on_a_cluster_of_two_nodes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)  # so that none is written into the home folder
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        assert run_demo(tmp_path / "demo", console=Console(file=nowhere), scenes=SCENES, cluster=True) == 0
    assert "a Ray cluster of two nodes" in capsys.readouterr().out
    run = patchloom.open(tmp_path / "demo" / "run")
    assert run.status().done == len(SCENES)
    assert run.verify() == []
