"""Small Keras models."""

import keras

L = keras.layers


def convolution(shape=(None, None, 3), batch=None, **options):
    """Two convolutions, normalised between; behaves otherwise in training."""
    pixels = keras.Input(shape, batch_size=batch)
    features = L.Conv2D(8, 3, padding="same", activation="relu", **options)(pixels)
    features = L.Dropout(0.9)(L.BatchNormalization(axis=1 if options else -1)(features))
    return keras.Model(pixels, L.Conv2D(2, 1, **options)(features))


def two_heads(as_dict=False):
    """A map and three numbers, named by their layers or by a dict."""
    pixels = keras.Input((None, None, 3))
    features = L.Conv2D(4, 3, padding="same", activation="relu")(pixels)
    heads = {
        "map": L.Conv2D(2, 2, strides=2, name="tissue")(features),
        "score": L.Dense(3, activation="softmax", name="grade")(L.GlobalAveragePooling2D()(features)),
    }
    return keras.Model(pixels, heads if as_dict else list(heads.values()))


def volume():
    """Of three spatial axes and two channels."""
    return keras.Sequential([keras.Input((None, None, None, 2)), L.Conv3D(3, 3, padding="same")])


def integers():
    """Takes bytes and scales them itself."""
    return keras.Sequential([keras.Input((16, 16, 3), dtype="uint8"), L.Rescaling(1 / 255), L.Flatten(), L.Dense(4)])


class Subclassed(keras.Model):
    """Says nothing of its input until it is called."""

    def __init__(self):
        super().__init__()
        self.inner = L.Conv2D(2, 3, padding="same")
        self.drop = L.Dropout(0.9)

    def call(self, pixels, training=None):
        return self.drop(self.inner(pixels), training=training)


def weighted():
    """Architecture for files that hold weights only."""
    return convolution()


def unbuilt():
    """Architecture without weights yet."""
    return keras.Sequential([L.Conv2D(2, 1)])


def no_model():
    """No model."""
    return 7


def broken():
    """A builder that fails."""
    raise KeyError("lost")


live = None
"""Set by a test, to be named as ``tests.keras.nets:live``."""
