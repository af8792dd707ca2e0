"""Every kind of Keras and TensorFlow model passes the conformance suite."""

import numpy as np
import pytest
import tensorflow as tf

from patchloom.models.load import load_model
from patchloom.testing.models import ModelTests

from . import nets


class TestLive(ModelTests):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _loaded(cls, tmp_path_factory):
        """Once a class: making a model takes seconds."""
        cls._model = cls.load(tmp_path_factory.mktemp("model"))

    @classmethod
    def load(cls, folder):
        return load_model(nets.convolution())

    def model(self):
        return self._model


class TestKerasFile(TestLive):
    @classmethod
    def load(cls, folder):
        nets.convolution().save(folder / "net.keras")
        return load_model(folder / "net.keras")


class TestHdf5File(TestLive):
    @classmethod
    def load(cls, folder):
        nets.convolution().save(folder / "net.h5")
        return load_model(folder / "net.h5")


class TestWeightsFile(TestLive):
    @classmethod
    def load(cls, folder):
        nets.convolution().save_weights(folder / "net.weights.h5")
        return load_model(folder / "net.weights.h5", arch=f"{nets.__name__}:weighted")


class TestSeveralHeads(TestLive):
    @classmethod
    def load(cls, folder):
        return load_model(nets.two_heads())


class TestChannelsFirst(TestLive):
    @classmethod
    def load(cls, folder):
        return load_model(nets.convolution((3, None, None), data_format="channels_first"))

    def test_channels_are_first(self):
        assert (self.info.channels_last, self.info.channels) == (False, 3)


class TestThreeDimensional(TestLive):
    patch = (8, 12, 16)

    @classmethod
    def load(cls, folder):
        return load_model(nets.volume())

    def test_axes_are_known(self):
        assert (self.info.ndim, self.info.channels) == (3, 2)


class TestFixedBatch(TestLive):
    @classmethod
    def load(cls, folder):
        return load_model(nets.convolution((64, 48, 3), batch=4))

    def test_sizes_are_known(self):
        assert (self.info.batch, self.info.patch) == (4, (64, 48))


class TestIntegers(TestLive):
    @classmethod
    def load(cls, folder):
        return load_model(nets.integers())

    def test_type_is_known(self):
        assert (self.info.dtype, self.info.patch) == (np.uint8, (16, 16))


class TestSubclassedAndNeverCalled(TestLive):
    refuses_channels = False  # it has as many as it is first called with

    @pytest.fixture(autouse=True)
    def _loaded(self):
        type(self)._model = load_model(nets.Subclassed())


class TestSubclassedAndCalled(TestLive):
    @classmethod
    def load(cls, folder):
        model = nets.Subclassed()
        model(np.zeros((1, 8, 8, 3), np.float32))
        return load_model(model)

    def test_size_of_the_first_call_is_not_taken_for_the_only_one(self):
        assert (self.info.channels, self.info.patch, self.info.batch) == (3, None, None)


class TestExported(TestLive):
    @classmethod
    def load(cls, folder):
        nets.two_heads(as_dict=True).export(folder / "net", verbose=False)
        return load_model(folder / "net")


class Doubling(tf.Module):
    """Module with a variable and a signature."""

    def __init__(self):
        super().__init__()
        self.factor = tf.Variable([2.0, 1.0, 3.0])

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
    def __call__(self, pixels):
        return pixels * self.factor


class TestModule(TestLive):
    @classmethod
    def load(cls, folder):
        return load_model(Doubling())


class TestSavedModule(TestLive):
    @classmethod
    def load(cls, folder):
        tf.saved_model.save(Doubling(), folder / "net")
        return load_model(folder / "net")


class TestFunction(TestLive):
    refuses_channels = False

    @classmethod
    def load(cls, folder):
        return load_model(tf.function(lambda x: {"mean": tf.reduce_mean(x, (1, 2, 3)), "same": x}))
