"""Plain callables and ``package.module:function``."""

import functools
import sys
from collections import namedtuple

import numpy as np
import pytest

from patchloom.errors import (
    ModelError,
    ModelInputError,
    ModelLoadError,
    ModelNotFoundError,
    ModelOutputError,
    UsageError,
)
from patchloom.models.load import load_model

BATCH = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
Answer = namedtuple("Answer", ["score", "map"])


def mean(batch):
    return batch.mean((1, 2, 3))


def attributed(**attributes):
    def function(batch):
        return batch * 1

    for name, value in attributes.items():
        setattr(function, name, value)
    return load_model(function)


def test_a_function_is_called_by_one_thread_with_the_images_dtype():
    info = load_model(mean).info
    assert (info.name, info.concurrent, info.dtype, info.channels, info.channels_last) == (
        "mean", False, None, None, False,
    )


def test_attributes_say_what_the_function_takes():
    info = attributed(
        axes="NZYXC", thread_safe=True, classes=["a", "b"], dtype="float32", patch=8, batch=4, channels=2, model_id="v1"
    ).info
    assert (info.channels_last, info.ndim, info.patch, info.concurrent) == (True, 3, (8, 8, 8), True)
    assert (info.classes, info.dtype, info.batch, info.channels) == (("a", "b"), np.float32, 4, 2)
    assert info.identity == "id:v1"
    assert attributed(channels_last=True).info.channels_last is True
    assert attributed(axes="NCYX").info.ndim == 2


def test_stated_input_is_checked():
    with pytest.raises(ModelInputError, match="takes 2 channels, and the patches have 3"):
        attributed(channels=2).predict(BATCH)
    with pytest.raises(ModelLoadError, match="axes = 'XYC'"):
        attributed(axes="XYC")


def test_maps_of_channels_last_functions_come_channels_first():
    model = attributed(axes="NYXC")
    found = model.predict(np.ascontiguousarray(np.moveaxis(BATCH, 1, -1)))
    np.testing.assert_array_equal(found["prediction"], BATCH)


@pytest.mark.parametrize(
    ("result", "names"),
    [(np.zeros(2), ["prediction"]), ([0.5, 1.5], ["prediction"]),
     ((np.zeros(2), [1, 2]), ["prediction_0", "prediction_1"]),
     ({"a b": np.zeros(2), "a_b": np.zeros(2)}, ["a_b", "a_b_2"]), (Answer(np.zeros(2), np.zeros(2)), ["score", "map"]),
     ((np.zeros(2),), ["prediction"]), ([np.zeros((3, 3)), np.ones((3, 3))], ["prediction"])],
)
def test_results_become_named_heads(result, names):
    heads = load_model(lambda batch: result).predict(BATCH)
    assert list(heads) == names
    assert all(isinstance(array, np.ndarray) and array.shape[0] == 2 for array in heads.values())


def test_tensors_of_torch_are_taken():
    torch = pytest.importorskip("torch")
    found = load_model(lambda batch: (torch.ones(2, dtype=torch.bfloat16), [torch.zeros(3)] * 2)).predict(BATCH)
    assert found["prediction_0"].dtype == np.float32
    assert found["prediction_1"].shape == (2, 3)


@pytest.mark.parametrize(
    ("result", "message"),
    [(None, "NoneType"), ("text", "a str"), ([[1], [2, 3]], "cannot be made an array"), ([{}, {}], "object"),
     ({"a": {"b": 1}}, "a dict"), (np.array(["x", "y"]), "not numbers")],
)
def test_results_that_are_no_arrays_are_named(result, message):
    with pytest.raises(ModelOutputError, match=message):
        load_model(lambda batch: result).predict(BATCH)


def test_an_error_in_the_function_names_it_and_keeps_its_cause():
    def faulty(batch):
        raise KeyError("weights")

    message = "faulty raises KeyError on 2 patches of 3 channels, 4 x 5 pixels, uint8"
    with pytest.raises(ModelError, match=message) as caught:
        load_model(faulty).predict(BATCH)
    assert isinstance(caught.value.__cause__, KeyError)


def test_running_out_of_memory_is_passed_on():
    def hungry(batch):
        raise MemoryError("all gone")

    with pytest.raises(MemoryError, match="all gone"):
        load_model(hungry).predict(BATCH)


class Stateful:
    def __init__(self, factor=2.0):
        self.factor = factor

    def __call__(self, batch):
        return batch.mean((1, 2, 3)) * self.factor


def scaled(factor):
    return lambda batch: batch * factor


def test_identity_is_source_defaults_and_simple_captured_values():
    def identity(function):
        return load_model(function).info.identity

    assert identity(mean).startswith("sha256:")
    assert identity(scaled(2)) == identity(scaled(2)) != identity(scaled(3))
    assert identity(scaled(np.ones(3))) == identity(scaled(np.ones(3))) != identity(scaled(np.zeros(3)))
    assert identity(functools.partial(mean)) not in (None, identity(mean))
    first, second = lambda batch, k=1: batch * k, lambda batch, k=2: batch * k
    assert identity(first) != identity(second)


def test_what_has_a_state_of_its_own_has_no_identity():
    for function in (Stateful(), Stateful().__call__, scaled(object()), len):
        assert load_model(function).info.identity is None


def test_a_recursive_function_has_an_identity():
    def again(batch, depth=1):
        return again(batch, depth - 1) if depth else batch.mean((1, 2, 3))

    assert load_model(again).info.identity.startswith("sha256:")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Module in the current directory, under a name of its own."""
    name = f"weights_{tmp_path.name.replace('-', '_')}"

    def write(source):
        (tmp_path / f"{name}.py").write_text(source)
        return name

    monkeypatch.chdir(tmp_path)
    yield write
    sys.modules.pop(name, None)


def test_a_function_is_found_in_the_current_directory(module):
    name = module("def classify(batch):\n    return batch.mean((1, 2, 3))\n")
    before = list(sys.path)
    model = load_model(f"{name}:classify")
    assert model.info.name == f"{name}:classify"
    np.testing.assert_array_equal(model.predict(BATCH)["prediction"], mean(BATCH))
    assert sys.path == before


def test_a_builder_and_a_class_without_parameters_are_called_once(module):
    name = module(
        "class Scale:\n    def __init__(self, by=3):\n        self.by = by\n"
        "    def __call__(self, batch):\n        return batch.mean((1, 2, 3)) * self.by\n"
        "def build():\n    return Scale(5)\n"
    )
    np.testing.assert_array_equal(load_model(f"{name}:build").predict(BATCH)["prediction"], mean(BATCH) * 5)
    np.testing.assert_array_equal(load_model(f"{name}:Scale").predict(BATCH)["prediction"], mean(BATCH) * 3)


def test_a_torch_module_found_under_the_name_is_run_by_torch(module):
    pytest.importorskip("torch")
    name = module("import torch\nnet = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1))\n"
                  "class Net(torch.nn.Module): pass\n")
    info = load_model(f"{name}:net").info
    assert (info.ndim, info.channels, info.memory_format) == (2, 3, "channels_last")
    with pytest.raises(ModelLoadError, match="is a class"):
        load_model(f"{name}:Net")


@pytest.mark.parametrize(
    ("source", "item", "error", "message"),
    [("x = 3\n", "nothing", ModelNotFoundError, "has no 'nothing'"), ("x = 3\n", "x", ModelLoadError, "is a int"),
     ("import not_installed_at_all\n", "f", ModelLoadError, "not_installed_at_all"),
     ("1 / 0\n", "f", ModelLoadError, "ZeroDivisionError"), ("def f(:\n", "f", ModelLoadError, "SyntaxError"),
     ("def f():\n    raise OSError('no weights')\n", "f", ModelLoadError, "OSError: no weights"),
     ("class C:\n    pass\n", "C", ModelLoadError, "is a class")],
)
def test_what_cannot_be_used_is_said(module, source, item, error, message):
    with pytest.raises(error, match=message):
        load_model(f"{module(source)}:{item}")


def test_a_module_that_does_not_exist_is_not_found():
    with pytest.raises(ModelNotFoundError, match=r"no module 'surely_absent\.inner'"):
        load_model("surely_absent.inner:f")


def test_arch_does_not_apply():
    with pytest.raises(UsageError, match="arch"):
        load_model(mean, arch="a:b")
