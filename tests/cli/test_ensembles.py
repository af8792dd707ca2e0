"""Several models as one, and models that see patches from all sides, from the command line and in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom
from patchloom.errors import ConfigMismatchError, UsageError
from tests.cli.conftest import PATCH, Call
from tests.cli.models import maps, scores

MODELS = ("-m", "tests.cli.models:scores", "-m", "tests.cli.models:rest")


def test_several_models_predict_their_mean(call: Call, slides: Path, tmp_path: Path) -> None:
    ended = call("predict", slides, *MODELS, "-o", tmp_path / "run", *PATCH, "--classes", "tumour,stroma", "-q")
    assert (ended.code, ended.err) == (0, "")
    rows = call("query", tmp_path / "run", "--json").json
    assert len(rows) == 7
    assert all((row["tumour"], row["stroma"]) == (0.5, 0.5) for row in rows)
    assert "tests.cli.models:scores + tests.cli.models:rest" in json.loads((tmp_path / "run" / "run.json").read_text())[
        "model"]["name"]


def test_several_models_vote(call: Call, slides: Path, tmp_path: Path) -> None:
    third = ("-m", "tests.cli.models:scores")
    vote = (*MODELS, *third, "--ensemble", "vote")
    assert call("predict", slides, *vote, "-o", tmp_path / "run", *PATCH, "-q").code == 0
    single = patchloom.predict(slides, scores, tmp_path / "single", patch=64)
    for image, y, x, value in patchloom.open(tmp_path / "run").items():
        expected = single.patch(image, y, x)
        assert expected is not None
        assert value.tolist() == [float(i == expected.argmax()) for i in range(2)]


def test_resume_loads_all_models_again(call: Call, with_bad: Path, slides: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for path in with_bad.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert call("predict", folder, *MODELS, "--tta", "flips", "-o", tmp_path / "run", *PATCH, "-q").code == 1
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["model"]["spec"] == ["tests.cli.models:scores", "tests.cli.models:rest"]
    assert document["config"]["tta"] == "flips"
    (folder / "cut.tif").write_bytes((slides / "b.tif").read_bytes())
    assert call("resume", tmp_path / "run", "-q").code == 0
    run = patchloom.open(tmp_path / "run")
    assert run.patch("cut.tif", 0, 0).tolist() == [0.5, 0.5]  # type: ignore[union-attr]
    assert call("resume", tmp_path / "run", *MODELS, "-q").code == 0


@pytest.mark.parametrize(("options", "what"), [(("--ensemble", "vote"), "ensemble"), (("--tta", "flips"), "tta")])
def test_another_way_to_combine_is_another_run(
    call: Call, slides: Path, tmp_path: Path, options: tuple[str, ...], what: str
) -> None:
    assert call("predict", slides, *MODELS, "-o", tmp_path / "run", *PATCH, "-q").code == 0
    ended = call("predict", slides, *MODELS, *options, "-o", tmp_path / "run", *PATCH, "-q")
    assert ended.code == 2
    assert f"run was made with a different {what} (" in ended.err
    assert "[config-mismatch]" in ended.err


def test_other_models_are_another_run(call: Call, slides: Path, tmp_path: Path) -> None:
    assert call("predict", slides, *MODELS, "-o", tmp_path / "run", *PATCH, "-q").code == 0
    ended = call("predict", slides, *MODELS[:2], "-o", tmp_path / "run", *PATCH, "-q")
    assert ended.code == 2
    assert "different model" in ended.err


def test_voting_needs_several_models(call: Call, slides: Path, tmp_path: Path) -> None:
    ended = call("predict", slides, *MODELS[:2], "--ensemble", "vote", "-o", tmp_path / "run", *PATCH)
    assert ended.code == 2
    assert "several models" in ended.err
    assert not (tmp_path / "run").exists()


def test_turned_patches_must_be_square(call: Call, slides: Path, tmp_path: Path) -> None:
    ended = call("predict", slides, *MODELS[:2], "--tta", "d4", "--patch", "64,32", "-o", tmp_path / "run")
    assert ended.code == 2
    assert "64 x 32 pixels" in ended.err
    assert "--tta flips" in ended.err


def test_a_config_file_keeps_all_models(call: Call, slides: Path, tmp_path: Path) -> None:
    saved = tmp_path / "run.toml"
    ended = call("predict", slides, *MODELS, *PATCH, "--ensemble", "vote", "--tta", "d4", "--dry-run", "--save-config",
                 saved)
    assert ended.code == 0
    assert call("predict", "--config", saved, "-o", tmp_path / "run", "-q").code == 0
    document = patchloom.open(tmp_path / "run").document
    assert document.model["spec"] == list(MODELS[1::2])
    assert (document.config.ensemble, document.config.tta) == ("vote", "d4")


@pytest.mark.parametrize("tta", ["flips", "d4"])
def test_maps_of_a_pixelwise_model_stay_the_same(slides: Path, tmp_path: Path, tta: Any) -> None:
    plain = patchloom.predict(slides, maps, tmp_path / "plain", patch=64, overlap=16, blend="gaussian")
    turned = patchloom.predict(slides, maps, tmp_path / "turned", patch=64, overlap=16, blend="gaussian", tta=tta)
    for name in plain:
        np.testing.assert_allclose(turned[name].stitched(), plain[name].stitched(), rtol=1e-6)


def test_python_takes_a_list_of_models_of_any_kind(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)

    def red(batch: Any) -> Any:
        return batch[:, :1]

    def doubled(batch: Any) -> Any:
        return batch[:, :1] * 2 + np.float32(1)

    run = patchloom.predict({"a": image}, [red, doubled], tmp_path / "run", patch=32, scale=2, reduce="threshold:96")
    expected = (image[..., 0] / np.float32(2) * 3 + 1) / 2 > 96
    np.testing.assert_array_equal(np.asarray(run["a"].stitched())[0], expected)
    with pytest.raises(ConfigMismatchError, match="different model"):
        patchloom.predict({"a": image}, [doubled, doubled], tmp_path / "run", patch=32, scale=2, reduce="threshold:96")
    with pytest.raises(UsageError, match="needs a model"):
        patchloom.predict({"a": image}, [], tmp_path / "none")
    again = run.resume(model=[red, doubled], source={"a": image})
    assert again.status().done == 1
