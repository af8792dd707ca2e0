"""These tests need TensorFlow, which gets a process of its own: they are skipped where it is not installed.

With ``PATCHLOOM_REQUIRE_TENSORFLOW`` set they fail instead, so that a broken installation is no green build.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

REQUIRED = "PATCHLOOM_REQUIRE_TENSORFLOW"
INSTALLED = importlib.util.find_spec("tensorflow") is not None and importlib.util.find_spec("keras") is not None

if not INSTALLED:
    if os.environ.get(REQUIRED):
        raise RuntimeError(f"{REQUIRED} is set, and TensorFlow is not installed: pip install --group tensorflow")
    collect_ignore_glob = ["test_*.py"]
else:
    from patchloom.models.keras_file import import_keras

    # As patchloom imports it: quietly. Warnings of TensorFlow's own modules are not ours to mend.
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "tensorflow"))
        import_keras("tests/keras", threads=2)


@pytest.fixture(autouse=True)
def _same_weights_every_time():
    """Keras draws initial weights and numbers its layers from a global state."""
    import keras

    keras.utils.clear_session()
    keras.utils.set_random_seed(3)


def pytest_collection_modifyitems(items):
    """Keras and TensorFlow make arrays in a way that NumPy 2 warns of; what patchloom calls does not."""
    for item in items:
        if "tests/keras/" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"))
