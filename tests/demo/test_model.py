import json
from importlib.resources import as_file, files
from pathlib import Path

import imagecodecs
import numpy as np
import onnxruntime
import pytest

from patchloom.demo.quality import Confusion
from patchloom.demo.scenes import CLASSES, Scene

METRICS = Path(__file__).parents[2] / "training" / "demo_metrics.json"
MARGIN = 0.06
"""Four square millimetres are further from the mean than 32 are."""


@pytest.fixture(scope="module")
def session():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with as_file(files("patchloom.demo") / "demo.onnx") as path:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def scores(session, rgb):
    return session.run(None, {"image": rgb.transpose(2, 0, 1)[None].astype(np.float32) / 255})[0][0]


def test_the_model_is_below_a_megabyte_and_names_its_classes(session):
    assert (files("patchloom.demo") / "demo.onnx").stat().st_size < 1_000_000
    assert session.get_modelmeta().custom_metadata_map["classes"].split(",") == list(CLASSES)


def test_the_model_is_as_good_on_scenes_it_has_not_seen_as_its_documentation_says(session):
    confusion = Confusion.empty(CLASSES)
    for seed in range(700_001, 700_005):
        rgb, truth = Scene("held out", (2048, 2048), seed).block(1024, 512, 1024, 1024)
        rgb = imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(rgb, level=85))
        confusion += Confusion.of(CLASSES, truth, scores(session, rgb).argmax(0))
    documented = json.loads(METRICS.read_text(encoding="utf-8"))
    assert confusion.mean_iou > documented["mean_iou"] - MARGIN
    assert confusion.accuracy > documented["accuracy"] - MARGIN


def test_the_readme_of_the_training_quotes_what_the_training_measured():
    documented = json.loads(METRICS.read_text(encoding="utf-8"))
    readme = (METRICS.parent / "README.md").read_text(encoding="utf-8")
    quoted = [documented["mean_iou"], documented["accuracy"], *documented["iou"].values()]
    assert [value for value in quoted if f"{value:.3f}" not in readme] == []


def test_what_lies_beyond_the_halo_of_the_demo_hardly_changes_a_class(session):
    rgb, _ = Scene("held out", (1024, 1024), 700_003).block(256, 256, 576, 576)
    whole, part = scores(session, rgb).argmax(0), scores(session, rgb[32:-32, 32:-32]).argmax(0)
    assert np.mean(whole[64:-64, 64:-64] != part[32:-32, 32:-32]) < 1e-3
