"""What is imported when, on which backend, and what is said where something is not installed."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

SETTINGS = ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL")


def python(code, folder, **environment):
    """What a fresh interpreter prints; `environment` is added to ours."""
    rest = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=folder, capture_output=True, text=True, check=False,
        env=rest | {"KERAS_HOME": str(folder / "keras-home")} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def saved(tmp_path):
    """Folder with a model file, a batch, and what Keras on TensorFlow answers."""
    from . import nets

    model = nets.two_heads()
    batch = np.random.default_rng(0).random((3, 16, 20, 3)).astype(np.float32)
    model.save(tmp_path / "net.keras")
    model.save(tmp_path / "net.h5")
    expected = model.predict(batch, verbose=0)
    np.savez(tmp_path / "batch.npz", batch=batch, tissue=np.moveaxis(expected[0], -1, 1), grade=expected[1])
    return tmp_path


def test_asking_every_loader_about_other_models_imports_neither_keras_nor_tensorflow(tmp_path):
    code = """
    import sys
    from patchloom.models.load import load_model
    assert load_model(lambda batch: batch)
    print(sorted({"keras", "tensorflow", "h5py", "jax"} & set(sys.modules)))
    """
    assert python(code, tmp_path).stdout == "[]\n"


@pytest.mark.parametrize("name", ["net.keras", pytest.param("net.h5", marks=pytest.mark.slow)])
def test_tensorflow_is_imported_without_a_word(saved, name):
    code = f"""
    import os
    import numpy as np
    from pathlib import Path
    from patchloom.models.load import load_model
    before = dict(os.environ)
    model = load_model({name!r}, threads=2)
    found, expected = (data := np.load("batch.npz")) and model.predict(data["batch"]), data
    np.testing.assert_allclose(found["tissue"], expected["tissue"], atol=1e-5)
    assert {{k: v for k, v in os.environ.items() if k not in before and k.startswith(("TF_CPP", "KERAS"))}} == {{}}
    import tensorflow
    print(tensorflow.config.threading.get_intra_op_parallelism_threads())
    """
    done = python(code, saved)
    assert (done.stdout, done.stderr) == ("2\n", "")


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.parametrize("name", ["net.keras", pytest.param("net.h5", marks=pytest.mark.slow)])
def test_another_backend_answers_alike_and_imports_no_tensorflow(saved, backend, name):
    """Except for HDF5 files, for which Keras itself imports it where it is installed."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    code = f"""
    import sys
    import numpy as np
    from patchloom.models.load import load_model
    data = np.load("batch.npz")
    model = load_model({name!r})
    for count in (3, 1, 2):
        found = model.predict(data["batch"][:count])
        for head in ("tissue", "grade"):
            np.testing.assert_allclose(found[head], data[head][:count], atol=1e-5)
            assert found[head].flags.writeable
    import keras
    live = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(2, 3)])
    assert type(load_model(live)).__name__ == "KerasModel"
    assert load_model(live).info.identity.startswith("sha256:")
    assert load_model(live).predict(data["batch"])["prediction"].shape == (3, 2, 14, 18)
    print(keras.config.backend(), "tensorflow" in sys.modules)
    """
    assert python(code, saved, KERAS_BACKEND=backend).stdout == f"{backend} {name == 'net.h5'}\n"


HIDDEN = """
import sys
from importlib import abc
class Hides(abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hides())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {hidden!r} else found(name, package)
from patchloom.errors import MissingExtraError
from patchloom.models.load import load_model
"""


@pytest.mark.parametrize(
    ("hidden", "name", "message"),
    [
        (["keras"], "net.keras", "net.keras needs keras, which is not installed (pip install 'patchloom[keras]')"),
        (["keras"], "net.h5", "net.h5 needs keras, which is not installed (pip install 'patchloom[keras]')"),
        (["tensorflow", "torch", "jax"], "net.keras", "needs a backend of Keras, and none is installed"),
        (["tensorflow"], "folder", "needs tensorflow, which is not installed (pip install 'patchloom[tensorflow]')"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(saved, hidden, name, message):
    (saved / "folder").mkdir()
    (saved / "folder" / "saved_model.pb").touch()
    code = HIDDEN.format(hidden=hidden) + textwrap.dedent(f"""
        try:
            load_model({name!r})
        except MissingExtraError as error:
            print(error)
    """)
    assert message in python(code, saved).stdout


def test_a_backend_that_is_asked_for_and_missing_is_named(saved):
    code = HIDDEN.format(hidden=["jax"]) + textwrap.dedent("""
        try:
            load_model("net.keras")
        except MissingExtraError as error:
            print(error)
    """)
    assert "needs jax, which KERAS_BACKEND asks for" in python(code, saved, KERAS_BACKEND="jax").stdout


def test_without_tensorflow_another_backend_is_taken(saved):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    code = HIDDEN.format(hidden=["tensorflow", "jax"]) + textwrap.dedent("""
        print(len(load_model("net.keras").info.identity))
        import keras
        print(keras.config.backend())
    """)
    assert python(code, saved).stdout == "71\ntorch\n"
