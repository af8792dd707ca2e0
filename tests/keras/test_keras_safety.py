"""No code out of a Keras file runs unless it is allowed to."""

import json
import os
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from patchloom.errors import ModelLoadError, PickleRefusedError
from patchloom.models.load import load_model

L = keras.layers
PIXELS = np.ones((1, 4, 4, 1), np.float32)
WITNESS = "PATCHLOOM_TEST_WITNESS"


@pytest.fixture
def witness(tmp_path, monkeypatch):
    """File that the code in a model would write."""
    path = tmp_path / "witness"
    monkeypatch.setenv(WITNESS, str(path))
    return path


def evil():
    """Model that writes a file when its code runs; it is marshalled into the model file."""
    layer = L.Lambda(
        lambda x: [__import__("pathlib").Path(__import__("os").environ["PATCHLOOM_TEST_WITNESS"]).touch(), x][1],
        output_shape=(4, 4, 1),
    )
    return keras.Sequential([keras.Input((4, 4, 1)), layer])


def nested(inner):
    """Model that has another one inside, and that one inside a wrapper."""
    return keras.Sequential([keras.Input((1, 4, 4, 1)), L.TimeDistributed(inner), L.Reshape((4, 4, 1))])


@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
@pytest.mark.parametrize("deep", [False, True])
def test_code_of_a_lambda_layer_does_not_run(tmp_path, witness, name, deep):
    model = evil()
    if deep:
        pixels = keras.Input((4, 4, 1))
        model = keras.Model(pixels, keras.Sequential([keras.Input((4, 4, 1)), model])(pixels))
    model.save(tmp_path / name)
    witness.unlink(missing_ok=True)
    with pytest.raises(PickleRefusedError, match="Lambda") as caught:
        load_model(tmp_path / name)
    assert "--allow-pickle" in str(caught.value)
    assert not witness.exists()


def test_code_of_a_lambda_layer_runs_where_it_is_allowed_to(tmp_path, witness):
    evil().save(tmp_path / "net.keras")
    witness.unlink(missing_ok=True)
    model = load_model(tmp_path / "net.keras", allow_pickle=True)
    np.testing.assert_array_equal(model.predict(PIXELS)["prediction"], PIXELS.reshape(1, 1, 4, 4))
    assert witness.exists()


def test_a_lambda_layer_inside_a_wrapper_is_found(tmp_path, witness):
    nested(evil()).save(tmp_path / "net.keras")
    witness.unlink(missing_ok=True)
    with pytest.raises(PickleRefusedError, match="Lambda"):
        load_model(tmp_path / "net.keras")
    assert not witness.exists()


def written(path, layer):
    """Model file of one input and one layer, whose configuration is given."""
    layers = [
        {"module": "keras.layers", "class_name": "InputLayer", "registered_name": None,
         "config": {"batch_shape": [None, 4, 4, 1], "dtype": "float32", "name": "input"}},
        layer,
    ]  # fmt: skip
    config = {"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps(config)
            file.create_group("model_weights").attrs["layer_names"] = []
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("metadata.json", "{}")
    return path


def activation(function):
    return {"module": "keras.layers", "class_name": "Activation", "registered_name": None,
            "config": {"name": "a", "activation": function}}  # fmt: skip


@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "Lambda",
         "config": {"name": "l", "function": ["4wEAAAA=", None, None], "function_type": "lambda"}},
        {"class_name": "Lambda", "module": "keras.layers", "registered_name": "Custom>Dense",
         "config": {"function": {"module": "keras.utils", "class_name": "function", "config": "get_file"}}},
        {"class_name": "TorchModuleWrapper", "module": "keras.layers", "config": {"module": "cGlja2xl"}},
        {"class_name": "TFSMLayer", "module": "keras.layers", "config": {"filepath": "/somewhere"}},
        activation({"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}),
    ],
)  # fmt: skip
def test_everything_that_carries_code_is_refused(tmp_path, name, layer):
    with pytest.raises(PickleRefusedError, match="runs code out of the file"):
        load_model(written(tmp_path / name, layer))


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "Popen", "module": "subprocess", "registered_name": None, "config": {"args": ["true"]}},
        {"class_name": "Evil", "module": "evil_module", "registered_name": None, "config": {}},
        {"class_name": "Evil", "module": "keras_hub.evil", "registered_name": None, "config": {}},
        {"class_name": "get_file", "module": "keras.utils", "registered_name": None, "config": {}},
        {"class_name": "load_model", "module": "keras.models", "registered_name": None, "config": {}},
        activation({"module": "keras.utils", "class_name": "function", "config": "get_file"}),
        activation({"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}),
        activation({"module": "keras.models", "class_name": "function", "config": "load_model"}),
    ],
)  # fmt: skip
def test_objects_of_elsewhere_are_neither_imported_nor_made(tmp_path, monkeypatch, witness, layer):
    (tmp_path / "evil_module.py").write_text(f"import os, pathlib\npathlib.Path(os.environ['{WITNESS}']).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelLoadError, match="neither part of Keras nor registered"):
        load_model(written(tmp_path / "net.keras", layer))
    assert not witness.exists()
    assert "evil_module" not in sys.modules


class Doubling(L.Layer):
    def call(self, pixels):
        return pixels * 2


def halved(pixels):
    return pixels / 2


def difference(truth, found):
    return tf.reduce_mean(found - truth)


@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
def test_an_own_layer_works_where_it_is_registered_and_says_so_where_not(tmp_path, name):
    with keras.saving.custom_object_scope({"Doubling": Doubling, "halved": halved}):
        model = keras.Sequential([keras.Input((4, 4, 1)), Doubling(), L.Activation(halved)])
        model.save(tmp_path / name)
        found = load_model(tmp_path / name).predict(PIXELS)["prediction"]
    np.testing.assert_array_equal(found, PIXELS.reshape(1, 1, 4, 4))
    with pytest.raises(ModelLoadError, match=r"Doubling, which is neither part of Keras nor registered") as caught:
        load_model(tmp_path / name)
    assert "register_keras_serializable" in str(caught.value)


def test_a_loss_of_ones_own_does_not_matter(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 1)), L.Conv2D(1, 1)])
    model.compile("adam", loss=difference)
    model.save(tmp_path / "net.keras")
    assert load_model(tmp_path / "net.keras").info.channels == 1


@pytest.mark.parametrize(
    "layers",
    [
        [L.Conv2D(2, 3, activation="gelu", kernel_regularizer="l2"), L.BatchNormalization(), L.UpSampling2D()],
        [L.Rescaling(1 / 255), L.Normalization(mean=0.5, variance=2.0), L.SeparableConv2D(2, 3), L.ReLU(6.0)],
        [L.Conv2DTranspose(2, 2, strides=2), L.PReLU(), L.SpatialDropout2D(0.5), L.GlobalMaxPooling2D()],
        [L.Conv2D(2, 3, dtype="mixed_bfloat16", kernel_initializer=keras.initializers.RandomNormal()), L.Softmax()],
        [L.TimeDistributed(L.Dense(2)), L.Activation(keras.activations.silu), L.GroupNormalization(1)],
        [L.RandomFlip(), L.RandomRotation(0.1), L.Resizing(4, 4), L.Conv2D(1, 1, kernel_constraint="max_norm")],
    ],
)
def test_ordinary_layers_are_all_allowed(tmp_path, layers):
    model = keras.Sequential([keras.Input((8, 8, 2)), *layers])
    model.save(tmp_path / "net.keras")
    pixels = np.random.default_rng(0).random((2, 8, 8, 2)).astype(np.float32)
    (found,) = load_model(tmp_path / "net.keras").predict(pixels).values()
    expected = model(pixels, training=False).numpy().astype(np.float32)
    np.testing.assert_allclose(found, np.moveaxis(expected, -1, 1) if expected.ndim == 4 else expected, atol=1e-5)


def test_arithmetic_between_layers_is_allowed(tmp_path):
    pixels = keras.Input((8, 8, 2))
    features = keras.ops.concatenate([pixels * 2.0, keras.ops.relu(pixels)[..., :1]], axis=-1)
    keras.Model(pixels, keras.ops.mean(features + 1, axis=-1, keepdims=True)).save(tmp_path / "net.keras")
    found = load_model(tmp_path / "net.keras").predict(np.ones((1, 8, 8, 2), np.float32))["prediction"]
    np.testing.assert_allclose(found, 8 / 3, rtol=1e-6)


def test_environment_is_left_as_it_was():
    assert "TF_CPP_MIN_LOG_LEVEL" not in os.environ
