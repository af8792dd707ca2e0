"""Choosing a loader."""

import subprocess
import sys

import numpy as np
import pytest

from patchloom.errors import ModelLoadError, ModelNotFoundError
from patchloom.models.load import load_model, with_steps
from patchloom.models.steps import Preprocess, Steps


def test_a_model_is_returned_as_it_is():
    model = load_model(np.negative)
    assert load_model(model) is model


@pytest.mark.parametrize("name", ["absent.onnx", "folder/absent.pt", "absent", "C:\\models\\absent.onnx"])
def test_a_path_that_does_not_exist_is_not_found(name):
    with pytest.raises(ModelNotFoundError) as caught:
        load_model(name)
    assert isinstance(caught.value, FileNotFoundError)
    assert name.rpartition("\\")[2] in caught.value.message
    assert "module:function" in caught.value.hint


def test_an_unknown_file_lists_what_is_understood(tmp_path):
    (tmp_path / "model.xyz").write_bytes(b"?")
    for path in (tmp_path / "model.xyz", str(tmp_path / "model.xyz"), tmp_path):
        with pytest.raises(ModelLoadError) as caught:
            load_model(path)
        assert ".onnx" in caught.value.hint
        assert ".safetensors" in caught.value.hint


def test_an_object_that_is_no_model_is_a_load_error():
    with pytest.raises(ModelLoadError, match="a int is no model"):
        load_model(3)


def test_steps_do_not_change_models_that_leave_them_to_the_caller():
    model = load_model(np.negative)
    assert with_steps(model, Steps(Preprocess(255))) is model


def test_a_loader_of_another_package_is_found_by_its_entry_point(tmp_path):
    site = tmp_path / "site"
    (site / "other-1.dist-info").mkdir(parents=True)
    (site / "other-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (site / "other-1.dist-info" / "entry_points.txt").write_text("[patchloom.models]\nother = other_models:Loader\n")
    (site / "other_models.py").write_text(
        "from pathlib import Path\n"
        "from patchloom.models.function import FunctionModel\n"
        "class Loader:\n"
        "    suffixes = ('.other',)\n"
        "    def recognises(self, model):\n"
        "        return isinstance(model, Path) and model.suffix == '.other'\n"
        "    def load(self, model, **options):\n"
        "        return FunctionModel(lambda batch: batch.mean((1, 2, 3)), model.name)\n"
    )
    (tmp_path / "net.other").write_bytes(b"weights")
    code = (f"import sys; sys.path.insert(0, {str(site)!r}); from patchloom.models.load import load_model; "
            f"print(load_model({str(tmp_path / 'net.other')!r}).info.name)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "net.other"


def test_importing_the_models_loads_no_framework():
    code = ("import sys; import patchloom.models.load, patchloom.models.onnx, patchloom.models.torch; "
            "print([name for name in ('torch', 'onnxruntime', 'onnx', 'safetensors') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
