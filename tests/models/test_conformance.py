"""Every kind of model that comes with patchloom passes the conformance suite."""

import numpy as np
import pytest

from patchloom.models.load import load_model
from patchloom.testing.models import ModelTests

from . import graphs


class TestOnnx(ModelTests):
    @pytest.fixture(autouse=True)
    def _loaded(self, tmp_path):
        self._model = load_model(graphs.convolution(tmp_path / "net.onnx"))

    def model(self):
        return self._model


class TestOnnxChannelsLast(TestOnnx):
    @pytest.fixture(autouse=True)
    def _loaded(self, tmp_path):
        self._model = load_model(graphs.channels_last(tmp_path / "net.onnx"))


class TestOnnxFixedBatch(TestOnnx):
    @pytest.fixture(autouse=True)
    def _loaded(self, tmp_path):
        self._model = load_model(graphs.convolution(tmp_path / "net.onnx", shape=[4, 3, 64, 64]))


class TestOnnxSeveralHeads(TestOnnx):
    @pytest.fixture(autouse=True)
    def _loaded(self, tmp_path):
        self._model = load_model(graphs.two_heads(tmp_path / "net.onnx"))


def halves(batch):
    return {"half": batch[:, :2, ::2, ::2], "mean": batch.mean((1, 2, 3))}


halves.concurrent = True


class TestFunction(ModelTests):
    refuses_channels = False

    def model(self):
        return load_model(halves)


class TestFunctionThatReturnsItsInput(ModelTests):
    refuses_channels = False
    dtype = np.uint8

    def model(self):
        return load_model(lambda batch: batch)


torch = pytest.importorskip("torch")


def small_net():
    torch.manual_seed(3)
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Dropout(0.5)]
    return torch.nn.Sequential(*layers, torch.nn.Conv2d(8, 2, 1))


class TestTorchModule(ModelTests):
    @pytest.fixture(autouse=True)
    def _loaded(self):
        self._model = load_model(small_net())

    def model(self):
        return self._model


class TestTorchScript(TestTorchModule):
    @pytest.fixture(autouse=True)
    def _loaded(self, tmp_path):
        with pytest.warns(DeprecationWarning, match="torch.jit"):
            torch.jit.script(small_net()).save(tmp_path / "net.pt")
        self._model = load_model(tmp_path / "net.pt")


class TestTorchExported(TestTorchModule):
    @pytest.fixture(autouse=True)
    def _loaded(self, exported):
        self._model = load_model(exported)


class TestTorchThreeDimensional(TestTorchModule):
    patch = (8, 12, 16)

    @pytest.fixture(autouse=True)
    def _loaded(self):
        self._model = load_model(torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3, padding=1), torch.nn.ReLU()))

    def test_axes_are_known(self):
        assert (self.info.ndim, self.info.channels) == (3, 2)


class TestTorchIdentity(TestTorchModule):
    refuses_channels = False

    @pytest.fixture(autouse=True)
    def _loaded(self):
        self._model = load_model(torch.nn.Identity())
