"""Keras models, live and out of files: what they say of themselves, what they answer, what is refused."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from patchloom.errors import (
    ModelError,
    ModelInputError,
    ModelLoadError,
    PickleRefusedError,
    UsageError,
)
from patchloom.models.keras import KerasModel
from patchloom.models.keras_file import is_keras_file
from patchloom.models.load import load_model

from . import nets

L = keras.layers
BATCH = np.random.default_rng(0).random((3, 16, 20, 3)).astype(np.float32)


def first(array):
    """Channels of Keras's own answer before space."""
    return np.moveaxis(array, -1, 1)


def predicted(model, batch=BATCH):
    """What Keras itself answers."""
    return model.predict(batch, verbose=0)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_answers_are_those_of_keras_itself_in_inference_mode():
    model = nets.convolution()
    model.layers[2].moving_mean.assign(np.arange(8.0))
    (found,) = load_model(model).predict(BATCH).values()
    close(found, first(predicted(model)))


@pytest.mark.parametrize("name", ["net.keras", "a.h5", "a.hdf5", "Net.KERAS", "net.model", "net.H5", "my.weights.h5"])
def test_a_whole_model_file_is_recognised_by_its_content_or_name(tmp_path, name):
    model = nets.convolution()
    saved = tmp_path / ("saved.h5" if "h5" in name.lower() or "hdf5" in name else "saved.keras")
    model.save(saved)
    path = saved.rename(tmp_path / name)
    (found,) = load_model(path).predict(BATCH).values()
    close(found, first(predicted(model)))


def test_files_of_other_kinds_are_not_recognised(tmp_path):
    (tmp_path / "text.txt").write_text("hello")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("config.json", "{}")
    assert not is_keras_file(tmp_path / "text.txt")
    assert not is_keras_file(tmp_path / "archive.zip")
    assert not is_keras_file(tmp_path)


def test_heads_of_a_functional_model_are_named_by_their_layers():
    model = nets.two_heads()
    found = load_model(model).predict(BATCH)
    assert list(found) == ["tissue", "grade"]
    expected = predicted(model)
    close(found["tissue"], first(expected[0]))
    close(found["grade"], expected[1])


def test_heads_of_a_dict_are_named_by_its_keys(tmp_path):
    model = nets.two_heads(as_dict=True)
    model.save(tmp_path / "net.keras")
    found, expected = load_model(tmp_path / "net.keras").predict(BATCH), predicted(model)
    assert list(found) == ["map", "score"]
    close(found["map"], first(expected["map"]))
    close(found["score"], expected["score"])


def test_one_head_alone_is_called_prediction():
    assert list(load_model(nets.convolution()).predict(BATCH)) == ["prediction"]


def test_a_model_with_channels_first_answers_as_the_one_with_channels_last():
    last = keras.Sequential([keras.Input((16, 20, 3)), L.Conv2D(4, 3)])
    other = keras.Sequential([keras.Input((3, 16, 20)), L.Conv2D(4, 3, data_format="channels_first")])
    other.set_weights(last.get_weights())
    model = load_model(other)
    assert not model.info.channels_last and model.info.patch == (16, 20)
    close(model.predict(first(BATCH))["prediction"], first(predicted(last)))


@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [((3, 64, 64), False), ((64, 64, 3), True), ((64, 64, 64), True), ((4, 4, 4), True), ((None, None, 3), True),
     ((3, None, None), False), ((None, None, None), True), ((2, 8, 64, 64), False)],
)  # fmt: skip
def test_without_layers_that_mind_the_shape_says_where_channels_are(shape, channels_last):
    model = keras.Sequential([keras.Input(shape), L.Rescaling(2.0)])
    assert load_model(model).info.channels_last == channels_last


def test_channels_last_is_found_in_nested_models():
    inner = keras.Sequential([keras.Input((3, 16, 16)), L.Conv2D(4, 3, data_format="channels_first")])
    assert not load_model(keras.Sequential([keras.Input((3, 16, 16)), inner])).info.channels_last


def test_half_precision_answers_stay_half_and_brain_floats_become_floats():
    half = keras.Sequential([keras.Input((16, 20, 3)), L.Conv2D(2, 1, dtype="float16")])
    brain = keras.Sequential([keras.Input((16, 20, 3)), L.Conv2D(2, 1, dtype="bfloat16")])
    assert load_model(half).predict(BATCH)["prediction"].dtype == np.float16
    assert load_model(brain).predict(BATCH)["prediction"].dtype == np.float32


def test_a_single_input_in_a_dict_gets_the_patches():
    pixels = keras.Input((16, 20, 3), name="image")
    model = keras.Model({"image": pixels}, L.Conv2D(2, 1)(pixels))
    close(load_model(model).predict(BATCH)["prediction"], first(predicted(model, {"image": BATCH})))


def test_several_inputs_are_an_error_that_names_them():
    one, two = keras.Input((8, 8, 3), name="pixels"), keras.Input((4,), name="age")
    model = keras.Model([one, two], L.Dense(1)(L.Concatenate()([L.Flatten()(one), two])))
    with pytest.raises(ModelInputError, match=r"2 inputs: pixels \(None, 8, 8, 3\), age"):
        load_model(model)


@pytest.mark.parametrize("shape", [(10,), (28, 28), (None, 4)])
def test_an_input_that_is_no_batch_of_patches_is_an_error(shape):
    with pytest.raises(ModelInputError, match="no batch of patches"):
        load_model(keras.Sequential([keras.Input(shape), L.Dense(1)]))


def test_text_input_is_an_error():
    with pytest.raises(ModelInputError, match="takes string, not pixels"):
        load_model(keras.Sequential([keras.Input((2, 2, 1), dtype="string"), L.Flatten()]))


def test_batches_of_other_lengths_are_not_traced_again(monkeypatch):
    traced = []

    class Counting(L.Layer):
        def call(self, pixels):
            traced.append(pixels.shape)
            return pixels

    model = load_model(keras.Sequential([keras.Input((None, None, 3)), Counting()]))
    traced.clear()
    for count in (1, 3, 2, 3, 1):
        model.predict(BATCH[:count])
    assert [tuple(shape) for shape in traced] == [(None, 16, 20, 3)]


def test_a_model_that_asks_to_run_eagerly_does():
    class Python(L.Layer):
        def call(self, pixels):
            return tf.constant(pixels.numpy() * 2)

        def compute_output_shape(self, shape):
            return shape

    model = keras.Sequential([keras.Input((None, None, 3)), Python()])
    model.compile(run_eagerly=True)
    close(load_model(model).predict(BATCH)["prediction"], first(BATCH) * 2)


def test_what_the_model_stumbles_over_is_one_line_of_its_own():
    model = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(2, 5), L.Conv2D(2, 5)])
    with pytest.raises(ModelInputError) as caught:
        load_model(model).predict(BATCH[:, :4, :4])
    assert "4 x 4 pixels" in str(caught.value)
    assert "\n" not in str(caught.value) and 'File "' not in str(caught.value)


def test_exhausted_memory_is_a_memory_error():
    class Greedy(L.Layer):
        def call(self, pixels):
            return tf.zeros((1 << 20, 1 << 20, tf.shape(pixels)[0]))

        def compute_output_shape(self, shape):
            return (1 << 20, 1 << 20, None)

    with pytest.raises(MemoryError):
        load_model(keras.Sequential([keras.Input((None, None, 3)), Greedy()])).predict(BATCH)


def test_nothing_is_printed(tmp_path, capfd):
    nets.convolution().save(tmp_path / "net.keras")
    capfd.readouterr()
    load_model(tmp_path / "net.keras").predict(BATCH)
    assert capfd.readouterr() == ("", "")


class TestIdentity:
    def test_of_a_file_is_its_hash(self, tmp_path):
        nets.convolution().save(tmp_path / "net.keras")
        one = load_model(tmp_path / "net.keras").info.identity
        (tmp_path / "net.keras").rename(tmp_path / "other.keras")
        assert one == load_model(tmp_path / "other.keras").info.identity

    def test_of_a_live_model_does_not_depend_on_the_names_that_keras_numbers(self):
        one = nets.two_heads()
        two = nets.two_heads()
        two.set_weights(one.get_weights())
        assert one.layers[1].name != two.layers[1].name
        assert load_model(one).info.identity == load_model(two).info.identity is not None

    def test_of_a_live_model_does_not_change_when_it_is_used(self):
        model = nets.two_heads()
        before = load_model(model)
        before.predict(BATCH)
        keras.Model(model.input, L.Rescaling(2.0)(model.layers[1].output))
        model.compile("adam", loss=["mse", "mse"])
        assert load_model(model).info.identity == before.info.identity

    @pytest.mark.parametrize(
        "other",
        [
            lambda pixels: L.Conv2D(2, 3, padding="same", activation="relu")(pixels) * 2.0,
            lambda pixels: L.Conv2D(2, 3, padding="same", activation="tanh")(pixels) * 1.0,
            lambda pixels: L.Conv2D(2, 3, padding="same", activation="relu", dilation_rate=2)(pixels) * 1.0,
            lambda pixels: 1.0 - L.Conv2D(2, 3, padding="same", activation="relu")(pixels),
        ],
    )
    def test_of_a_live_model_depends_on_options_and_wiring(self, other):
        pixels = keras.Input((None, None, 3))
        one = keras.Model(pixels, L.Conv2D(2, 3, padding="same", activation="relu")(pixels) * 1.0)
        two = keras.Model(pixels, other(pixels))
        two.set_weights(one.get_weights())
        assert load_model(one).info.identity != load_model(two).info.identity

    def test_of_a_live_model_depends_on_its_weights(self):
        model = nets.convolution()
        before = load_model(model).info.identity
        model.layers[2].moving_mean.assign(np.ones(8))
        assert load_model(model).info.identity != before

    def test_of_a_subclassed_model_that_has_no_weights_yet_is_not_known(self):
        assert load_model(nets.Subclassed()).info.identity is None


class TestArch:
    ARCH = f"{nets.__name__}:"

    def test_weights_alone_say_what_to_do(self, tmp_path):
        nets.convolution().save_weights(tmp_path / "net.weights.h5")
        with pytest.raises(ModelLoadError, match=r"weights only.*--arch package.module:builder"):
            load_model(tmp_path / "net.weights.h5")

    @pytest.mark.parametrize("name", ["net.weights.h5", "renamed.h5"])
    def test_weights_are_loaded_into_what_arch_builds(self, tmp_path, name):
        model = nets.convolution()
        model.save_weights(tmp_path / "net.weights.h5")
        (tmp_path / "net.weights.h5").rename(tmp_path / name)
        close(load_model(tmp_path / name, arch=self.ARCH + "weighted").predict(BATCH)["prediction"],
              first(predicted(model)))

    @pytest.mark.parametrize("name", ["net.keras", "net.h5"])
    def test_weights_are_also_taken_from_whole_models(self, tmp_path, name):
        model = nets.convolution()
        model.save(tmp_path / name)
        close(load_model(tmp_path / name, arch=self.ARCH + "weighted").predict(BATCH)["prediction"],
              first(predicted(model)))

    @pytest.mark.parametrize(
        ("builder", "message"),
        [("no_model", "builds a int"), ("broken", "raises KeyError"), ("unbuilt", "without weights"),
         ("integers", "does not fit"), ("missing", "has no 'missing'")],
    )  # fmt: skip
    def test_what_is_wrong_with_a_builder_is_said(self, tmp_path, builder, message):
        nets.convolution().save_weights(tmp_path / "net.weights.h5")
        with pytest.raises(ModelError, match=message):
            load_model(tmp_path / "net.weights.h5", arch=self.ARCH + builder)

    def test_a_live_model_needs_no_arch(self):
        with pytest.raises(UsageError, match="live model"):
            load_model(nets.convolution(), arch=self.ARCH + "weighted")


class TestBadFiles:
    @pytest.mark.parametrize("name", ["net.keras", "net.h5", "net.weights.h5"])
    @pytest.mark.parametrize("share", [0, 0.3, 0.9])
    def test_truncated_files_are_damaged(self, tmp_path, name, share):
        model = nets.convolution()
        (model.save_weights if "weights" in name else model.save)(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ModelLoadError, match=f"{name} is damaged"):
            load_model(tmp_path / name)

    @pytest.mark.parametrize("name", ["net.keras", "net.h5", "net.hdf5"])
    def test_random_bytes_are_damaged(self, tmp_path, name):
        (tmp_path / name).write_bytes(np.random.default_rng(1).bytes(10_000))
        with pytest.raises(ModelLoadError, match="is damaged, or no Keras file"):
            load_model(tmp_path / name)

    def test_a_zip_archive_that_is_no_model_is_said_to_be_none(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
            archive.writestr("notes.txt", "hello")
        with pytest.raises(ModelLoadError, match=r"zip archive without config\.json"):
            load_model(tmp_path / "net.keras")

    @pytest.mark.parametrize("config", ["", "[]", "7", "{}", '{"class_name": "Functional"}', "[" * 100_000])
    def test_configurations_that_are_none_are_errors(self, tmp_path, config):
        with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
            archive.writestr("config.json", config)
            archive.writestr("metadata.json", "{}")
        with pytest.raises(ModelLoadError, match=r"net\.keras"):
            load_model(tmp_path / "net.keras")

    def test_a_model_without_its_weights_is_an_error(self, tmp_path):
        nets.convolution().save(tmp_path / "whole.keras")
        with zipfile.ZipFile(tmp_path / "whole.keras") as whole, zipfile.ZipFile(tmp_path / "net.keras", "w") as part:
            for name in ("config.json", "metadata.json"):
                part.writestr(name, whole.read(name))
        with pytest.raises(ModelLoadError, match=r"net\.keras cannot be loaded"):
            load_model(tmp_path / "net.keras")

    def test_hdf5_without_a_model_is_said_to_be_none(self, tmp_path):
        with h5py.File(tmp_path / "net.h5", "w") as file:
            file["pixels"] = np.zeros(4)
        with pytest.raises(ModelLoadError, match="holds no model"):
            load_model(tmp_path / "net.h5")

    def test_a_model_of_old_keras_says_what_it_lacks(self, tmp_path):
        config = {"class_name": "Sequential", "config": {"name": "s", "layers": [
            {"class_name": "TFOpLambda", "config": {"name": "tf.math.add", "function": "math.add"}}]}}  # fmt: skip
        with h5py.File(tmp_path / "net.h5", "w") as file:
            file.attrs["model_config"] = json.dumps(config)
            file.create_group("model_weights")
        with pytest.raises(ModelLoadError, match="TFOpLambda, which is neither part of Keras nor registered"):
            load_model(tmp_path / "net.h5")


def test_a_live_model_is_not_changed():
    model = nets.convolution()
    weights = [weight.copy() for weight in model.get_weights()]
    load_model(model).predict(BATCH)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert isinstance(load_model(model), KerasModel)


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "gpu"])
def test_unknown_devices_are_named(device):
    with pytest.raises(UsageError, match="unknown"):
        load_model(nets.convolution(), device=device)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error():
    with pytest.raises(UsageError, match="sees no such GPU"):
        load_model(nets.convolution(), device="cuda:0")


def test_files_that_would_run_code_are_not_loaded_by_the_loader(tmp_path):
    keras.Sequential([keras.Input((2, 2, 1)), L.Lambda(lambda pixels: pixels)]).save(tmp_path / "net.keras")
    with pytest.raises(PickleRefusedError, match="Lambda"):
        load_model(tmp_path / "net.keras")
