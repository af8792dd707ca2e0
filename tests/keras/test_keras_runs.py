"""Whole runs with Keras and TensorFlow models, in Python and on the command line."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import patchloom
from patchloom.cli import main
from patchloom.errors import ConfigMismatchError, ModelInputError

from . import nets

L = keras.layers
OPTIONS = ("--patch", "32", "--scale", "255")
SIZES = {"a.png": (96, 96), "deep/b.png": (64, 128), "c.png": (128, 96)}


@pytest.fixture
def images(tmp_path):
    """Folder of three photographs, and what is in them."""
    drawn = np.random.default_rng(0)
    pixels = {name: drawn.integers(0, 255, (*size, 3), np.uint8) for name, size in SIZES.items()}
    for name, values in pixels.items():
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(tmp_path / "images" / name)
    return pixels


def check_patches(run, images, model, expected=None):
    """Every prediction is what Keras itself says of that patch."""
    count = 0
    for name, y, x, found in run.items():
        patch = images[name][y : y + 32, x : x + 32].astype(np.float32)[None] / 255
        answer = model.predict(patch, verbose=0) if expected is None else expected(patch)
        np.testing.assert_allclose(found, np.moveaxis(answer[0], -1, 0), atol=1e-5)
        count += 1
    assert count == 3 * 3 + 2 * 4 + 4 * 3


@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
def test_predictions_of_a_run_are_those_of_keras_patch_by_patch(tmp_path, images, name):
    model = nets.convolution()
    model.save(tmp_path / name)
    run = patchloom.predict(tmp_path / "images", tmp_path / name, out=tmp_path / "run", patch=32, scale=255)
    check_patches(run, images, model)


def test_a_live_model_a_folder_and_a_module_predict_alike(tmp_path, images):
    model = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(2, 3, padding="same")])
    model.export(tmp_path / "net", verbose=False)
    kernel, bias = (tf.Variable(weight) for weight in model.get_weights())

    class Module(tf.Module):
        def __call__(self, pixels):
            return tf.nn.conv2d(pixels, kernel, 1, "SAME") + bias

    for i, given in enumerate((model, tmp_path / "net", Module())):
        run = patchloom.predict(tmp_path / "images", given, out=tmp_path / f"run{i}", patch=32, scale=255)
        check_patches(run, images, model)


def test_a_fixed_input_is_the_patch_and_a_fixed_batch_is_filled_up(tmp_path, images):
    model = nets.convolution((32, 32, 3), batch=4)
    run = patchloom.predict(tmp_path / "images", model, out=tmp_path / "run", scale=255)

    def answered(patch):
        return model.predict(np.repeat(patch, 4, axis=0), batch_size=4, verbose=0)[:1]

    check_patches(run, images, model, answered)


def test_two_heads_are_stored_at_their_own_scales_and_looked_up(tmp_path, images):
    model = nets.two_heads(as_dict=True)
    run = patchloom.predict(tmp_path / "images", model, out=tmp_path / "run", patch=32, overlap=8, scale=255)
    found = run["a.png"][24, 24]
    patch = images["a.png"][24:56, 24:56].astype(np.float32)[None] / 255
    expected = model.predict(patch, verbose=0)
    np.testing.assert_allclose(found["score"], expected["score"][0], atol=1e-5)
    assert found["map"].shape == (2, 16, 16)
    assert run["a.png"].stitched("map").shape == (2, 48, 48)


def test_channels_first_gives_what_channels_last_gives(tmp_path, images):
    last = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(2, 3, padding="same")])
    convolution = L.Conv2D(2, 3, padding="same", data_format="channels_first")
    other = keras.Sequential([keras.Input((3, None, None)), convolution])
    other.set_weights(last.get_weights())
    run = patchloom.predict(tmp_path / "images", other, out=tmp_path / "run", patch=32, scale=255, batch=4)
    check_patches(run, images, last)


def test_bytes_go_into_a_model_that_takes_them(tmp_path, images):
    model = keras.Sequential([keras.Input((None, None, 3), dtype="uint8"), L.Rescaling(1 / 255), L.Conv2D(2, 1)])
    run = patchloom.predict(tmp_path / "images", model, out=tmp_path / "run", patch=32)
    check_patches(run, images, model, lambda patch: model.predict(np.rint(patch * 255).astype(np.uint8), verbose=0))


def test_a_volume_is_predicted(tmp_path):
    pixels = np.random.default_rng(0).random((2, 8, 32, 32)).astype(np.float32)
    model = nets.volume()
    run = patchloom.predict({"v": pixels}, model, out=tmp_path / "run", patch=(8, 16, 16), axes="CZYX")
    expected = model.predict(np.moveaxis(pixels[:, :, :16, 16:], 0, -1)[None], verbose=0)[0]
    np.testing.assert_allclose(run["v"][0, 0, 16], np.moveaxis(expected, -1, 0), atol=1e-5)


def test_the_wrong_number_of_channels_stops_the_run(tmp_path, images):
    model = keras.Sequential([keras.Input((None, None, 5)), L.Conv2D(2, 1)])
    with pytest.raises(ModelInputError, match=r"takes 5 channels, and .* has 3"):
        patchloom.predict(tmp_path / "images", model, out=tmp_path / "run", patch=32)


def test_a_run_is_taken_up_with_the_same_model_and_refused_with_another(tmp_path, images):
    model = nets.convolution()
    options = {"patch": 32, "scale": 255}
    source, out = tmp_path / "images", tmp_path / "run"
    patchloom.predict(source, model, out=out, **options)
    Image.fromarray(images["a.png"]).save(source / "d.png")
    same = nets.convolution()
    same.set_weights(model.get_weights())
    run = patchloom.predict(source, same, out=out, **options)
    np.testing.assert_array_equal(run["d.png"][0, 0], run["a.png"][0, 0])
    same.layers[1].bias.assign(np.ones(8))
    with pytest.raises(ConfigMismatchError, match="different model"):
        patchloom.predict(source, same, out=out, **options)


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def _here(self, tmp_path, monkeypatch, images, capsys):
        monkeypatch.chdir(tmp_path)
        self._capsys = capsys

    def call(self, *arguments):
        """Exit status and what was printed."""
        self._capsys.readouterr()
        code = main(list(arguments))
        return code, *self._capsys.readouterr()

    def done(self):
        """Number of images that are done."""
        return json.loads(self.call("status", "run", "--json")[1])["done"]

    def test_predict_and_look_up(self, images):
        model = nets.convolution()
        model.save("net.keras")
        code, _, errors = self.call("predict", "images", "-m", "net.keras", "-o", "run", *OPTIONS)
        assert code == 0, errors
        assert self.done() == 3
        check_patches(patchloom.open("run"), images, model)

    def test_resume(self):
        nets.convolution().save("net.keras")
        self.call("predict", "images", "-m", "net.keras", "-o", "run", "--patch", "32")
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save("images/e.png")
        code, _, errors = self.call("resume", "run")
        assert code == 0, errors
        assert self.done() == 4

    def test_weights_with_arch(self, images):
        model = nets.convolution()
        model.save_weights("net.weights.h5")
        arch = ("--arch", f"{nets.__name__}:weighted")
        code, _, errors = self.call("predict", "images", "-m", "net.weights.h5", "-o", "run", *OPTIONS, *arch)
        assert code == 0, errors
        check_patches(patchloom.open("run"), images, model)

    @pytest.mark.parametrize("named", ["live", "weighted"])
    def test_a_model_by_its_own_name_or_that_of_its_builder(self, images, monkeypatch, named):
        monkeypatch.setattr(nets, "live", nets.convolution())
        monkeypatch.setattr(nets, "weighted", lambda: nets.live)
        code, _, errors = self.call("predict", "images", "-m", f"{nets.__name__}:{named}", "-o", "run", *OPTIONS)
        assert code == 0, errors
        check_patches(patchloom.open("run"), images, nets.live)

    def test_code_in_a_file_is_one_line_of_refusal(self):
        keras.Sequential([keras.Input((32, 32, 3)), L.Lambda(lambda pixels: pixels)]).save("net.keras")
        code, _, errors = self.call("predict", "images", "-m", "net.keras", "-o", "run")
        assert code == 2
        assert "[pickle-refused]" in errors and "Traceback" not in errors
