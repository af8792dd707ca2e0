"""TensorFlow models without Keras: SavedModel folders, modules and functions."""

import numpy as np
import pytest
import tensorflow as tf

from patchloom.errors import ModelError, ModelInputError, ModelLoadError, PickleRefusedError, UsageError
from patchloom.models.load import load_model
from patchloom.models.tensorflow import TensorflowLoader, TensorflowModel

from . import nets

BATCH = np.random.default_rng(0).random((3, 16, 20, 3)).astype(np.float32)
ANY = (None, None, None, 3)


class Net(tf.Module):
    """Behaves otherwise in training; declares nothing."""

    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = tf.Variable(factor)

    def __call__(self, pixels, training=True):
        if training:
            return pixels * 0
        return {"map": pixels * self.factor, "mean": tf.reduce_mean(pixels, (1, 2))}


def saved(folder, function, shape=ANY, dtype=tf.float32, **others):
    """SavedModel with one signature."""
    module = tf.Module()
    module.variable = tf.Variable(3.0)
    graph = tf.function(function, input_signature=[tf.TensorSpec(shape, dtype, "pixels")])
    tf.saved_model.save(module, folder, signatures={"serving_default": graph, **others})
    return folder


def test_an_exported_keras_model_answers_as_keras_does(tmp_path):
    model = nets.two_heads(as_dict=True)
    model.export(tmp_path / "net", verbose=False)
    loaded = load_model(tmp_path / "net")
    found, expected = loaded.predict(BATCH), model.predict(BATCH, verbose=0)
    assert sorted(found) == ["map", "score"]
    np.testing.assert_allclose(found["map"], np.moveaxis(expected["map"], -1, 1), atol=1e-5)
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)
    assert (loaded.info.channels_last, loaded.info.channels, loaded.info.name) == (True, 3, "net")


def test_a_module_is_called_in_inference_mode():
    found = load_model(Net()).predict(BATCH)
    np.testing.assert_allclose(found["map"], np.moveaxis(BATCH, -1, 1) * 2, rtol=1e-6)
    np.testing.assert_allclose(found["mean"], BATCH.mean((1, 2)), rtol=1e-5)


def test_a_module_says_where_its_channels_are():
    net = Net()
    net.channels_last = False
    model = load_model(net)
    batch = np.moveaxis(BATCH, -1, 1)
    assert not model.info.channels_last
    np.testing.assert_allclose(model.predict(batch)["map"], batch * 2, rtol=1e-6)


def test_a_function_is_called_as_a_graph():
    def doubled(pixels):
        total = pixels
        for _ in tf.range(2):  # AutoGraph makes a loop of it
            total += pixels
        return total if not tf.executing_eagerly() else None

    model = load_model(tf.function(doubled))
    np.testing.assert_allclose(model.predict(BATCH)["prediction"], np.moveaxis(BATCH, -1, 1) * 3, rtol=1e-6)


def test_a_concrete_function_and_a_loaded_model_are_understood_too(tmp_path):
    graph = tf.function(lambda pixels: pixels + 1).get_concrete_function(tf.TensorSpec(ANY))
    folder = saved(tmp_path / "net", lambda pixels: {"out": pixels + 1})
    for model in (graph, tf.saved_model.load(str(folder))):
        (found,) = load_model(model).predict(BATCH).values()
        np.testing.assert_allclose(found, np.moveaxis(BATCH, -1, 1) + 1, rtol=1e-6)


def test_signature_says_channels_sizes_type_and_batch(tmp_path):
    info = load_model(saved(tmp_path / "net", lambda x: {"y": tf.cast(x, tf.float32)}, (2, 3, 64, 48), tf.uint8)).info
    assert (info.channels_last, info.channels, info.patch, info.batch) == (False, 3, (64, 48), 2)
    assert (info.dtype, info.ndim) == (np.uint8, 2)


def test_batches_of_other_lengths_are_not_traced_again():
    traced = []

    def counted(pixels):
        traced.append(pixels.shape)
        return pixels

    model = load_model(tf.function(counted))
    for count in (1, 3, 2):
        model.predict(BATCH[:count])
    assert [tuple(shape) for shape in traced] == [(None, 16, 20, 3)]


class TestRefused:
    def test_several_inputs_are_named(self, tmp_path):
        module = tf.Module()
        specs = [tf.TensorSpec(ANY, name="pixels"), tf.TensorSpec((None,), name="age")]
        graph = tf.function(lambda pixels, age: {"y": pixels + age}, input_signature=specs)
        tf.saved_model.save(module, tmp_path / "net", signatures=graph)
        with pytest.raises(ModelInputError, match="2 inputs"):
            load_model(tmp_path / "net")

    def test_several_signatures_without_a_default_are_named(self, tmp_path):
        module = tf.Module()
        graph = tf.function(lambda pixels: {"y": pixels}, input_signature=[tf.TensorSpec(ANY)])
        tf.saved_model.save(module, tmp_path / "net", signatures={"one": graph, "two": graph})
        with pytest.raises(ModelLoadError, match="signatures one, two"):
            load_model(tmp_path / "net")

    def test_a_module_that_cannot_be_called_is_said_to_be_none(self, tmp_path):
        tf.saved_model.save(tf.Module(), tmp_path / "net")
        for model in (tf.Module(), tmp_path / "net"):
            with pytest.raises(ModelLoadError, match="no __call__"):
                load_model(model)

    def test_texts_are_no_pixels(self, tmp_path):
        folder = saved(tmp_path / "net", lambda x: {"y": tf.strings.length(x)}, (None, None, None, 1), tf.string)
        with pytest.raises(ModelInputError, match="takes string"):
            load_model(folder)

    def test_a_graph_that_writes_files_does_not_run(self, tmp_path):
        witness = str(tmp_path / "witness")

        def writes(pixels):
            with tf.control_dependencies([tf.io.write_file(witness, "owned")]):
                return {"y": tf.identity(pixels)}

        folder = saved(tmp_path / "net", writes)
        with pytest.raises(PickleRefusedError, match=r"operations .*WriteFile.*--allow-pickle"):
            load_model(folder)
        assert not (tmp_path / "witness").exists()
        load_model(folder, allow_pickle=True).predict(BATCH)
        assert (tmp_path / "witness").exists()

    def test_a_graph_that_writes_checkpoints_does_not_run(self, tmp_path):
        prefix = str(tmp_path / "checkpoint")

        def writes(pixels):
            save = tf.raw_ops.SaveV2(prefix=prefix, tensor_names=["x"], shape_and_slices=[""], tensors=[pixels])
            with tf.control_dependencies([save]):
                return {"y": tf.identity(pixels)}

        with pytest.raises(PickleRefusedError, match="SaveV2"):
            load_model(saved(tmp_path / "net", writes))

    def test_python_in_a_graph_is_refused(self, tmp_path):
        folder = saved(tmp_path / "net", lambda x: {"y": tf.ensure_shape(tf.py_function(abs, [x], tf.float32), ANY)})
        with pytest.raises(PickleRefusedError, match="EagerPyFunc"):
            load_model(folder)

    @pytest.mark.parametrize("share", [0.0, 0.5])
    def test_truncated_graphs_are_damaged(self, tmp_path, share):
        graph = saved(tmp_path / "net", lambda pixels: {"y": pixels}) / "saved_model.pb"
        graph.write_bytes(graph.read_bytes()[: int(graph.stat().st_size * share)])
        with pytest.raises(ModelLoadError, match="is damaged, or no SavedModel"):
            load_model(tmp_path / "net")

    def test_missing_weights_are_damage(self, tmp_path):
        folder = saved(tmp_path / "net", lambda pixels: {"y": pixels})
        for file in (folder / "variables").iterdir():
            file.unlink()
        with pytest.raises(ModelLoadError, match="is damaged"):
            load_model(folder)

    def test_arch_does_not_apply(self, tmp_path):
        with pytest.raises(UsageError, match="arch does not apply"):
            load_model(saved(tmp_path / "net", lambda pixels: {"y": pixels}), arch="a:b")

    def test_what_fails_is_named(self):
        class Failing(tf.Module):
            def __call__(self, pixels):
                raise KeyError("lost")

        with pytest.raises(ModelError, match="lost"):
            load_model(Failing()).predict(BATCH)


class TestIdentity:
    def test_of_a_folder_is_that_of_all_its_files(self, tmp_path):
        folder = saved(tmp_path / "net", lambda pixels: {"y": pixels})
        before = load_model(folder).info.identity
        assert before == load_model(folder.rename(tmp_path / "other")).info.identity
        (tmp_path / "other" / "assets" / "labels.txt").write_text("stroma")
        assert load_model(tmp_path / "other").info.identity != before

    def test_of_a_module_is_that_of_its_variables(self):
        assert load_model(Net(2.0)).info.identity == load_model(Net(2.0)).info.identity is not None
        assert load_model(Net(2.0)).info.identity != load_model(Net(3.0)).info.identity

    def test_of_a_module_without_variables_is_not_known(self):
        class Same(tf.Module):
            def __call__(self, pixels):
                return pixels

        assert load_model(Same()).info.identity is None

    def test_of_a_function_is_that_of_its_source(self):
        @tf.function
        def doubled(pixels):
            return pixels * 2

        assert str(load_model(doubled).info.identity).startswith("sha256:")


def test_other_objects_are_not_recognised(tmp_path):
    loader = TensorflowLoader()
    assert not any(loader.recognises(item) for item in (tmp_path, len, 7, "a:b", np.zeros(3), lambda batch: batch))
    assert isinstance(load_model(Net()), TensorflowModel)
