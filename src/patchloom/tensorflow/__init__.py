"""For people with a TensorFlow or Keras loop of their own: patches of images as a ``tf.data.Dataset``."""

from __future__ import annotations

from typing import Any

__all__ = ["tf_dataset"]


def __getattr__(name: str) -> Any:
    if name != "tf_dataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from patchloom.tensorflow.dataset import tf_dataset

    return tf_dataset


def __dir__() -> list[str]:
    return __all__
