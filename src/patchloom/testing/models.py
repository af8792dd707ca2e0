"""What every model must do: subclass `ModelTests`, say how to load one, and let pytest collect the class."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from patchloom.errors import ModelInputError
from patchloom.models.heads import find_heads, safe_names
from patchloom.models.model import Head, Model, ModelInfo

__all__ = ["ModelTests"]


class ModelTests:
    """Conformance of a `Model`.

    Examples
    --------
    ::

        class TestMyModel(ModelTests):
            def model(self):
                return load_model("my.onnx")
    """

    patch: tuple[int, ...] = (32, 48)
    """Size of patches where the model fixes none."""
    channels = 3
    """Number of channels where the model states none."""
    dtype: Any = np.float32
    """Type of pixels where the model states none."""
    tolerance = 1e-5
    """How far, in relation to the largest value, answers may differ between batches."""
    refuses_channels = True
    """Whether the model minds another number of channels."""

    def model(self) -> Model:
        """Model to test; called once a test."""
        raise NotImplementedError

    def patches(self, count: int, extra_channels: int = 0) -> NDArray[Any]:
        """Batch of random patches as the model takes them."""
        info = self.info
        channels = (info.channels or self.channels) + extra_channels
        space = info.patch or self.patch
        shape = (count, *space, channels) if info.channels_last else (count, channels, *space)
        values = np.random.default_rng(count).random(shape)
        dtype = np.dtype(self.dtype) if info.dtype is None else info.dtype
        return (values * 255).astype(dtype) if dtype.kind in "iu" else values.astype(dtype)

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself."""
        return self.model().info

    def heads(self, outputs: Any, count: int) -> tuple[Head, ...]:
        """Heads that a batch shows."""
        space = self.info.patch or self.patch
        return find_heads(outputs, batch_size=count, patch=space, ndim=len(space), classes=None, info=self.info)

    def test_info_is_consistent(self) -> None:
        """Numbers fit each other and are possible."""
        info = self.info
        assert info == self.info
        assert info.name
        assert info.identity is None or info.identity.startswith(("sha256:", "id:"))
        assert info.ndim in (None, 2, 3)
        assert info.patch is None or (len(info.patch) == (info.ndim or len(info.patch)) and min(info.patch) > 0)
        assert info.channels is None or info.channels > 0
        assert info.memory_format in ("contiguous", "channels_last")
        assert info == replace(info)

    def test_model_satisfies_the_protocol(self) -> None:
        """The engine recognises it."""
        assert isinstance(self.model(), Model)

    def test_head_names_are_safe_and_stable(self) -> None:
        """Every call answers with the same heads, whose names can be folders."""
        model, count = self.model(), self.info.batch or 2
        first, second = (model.predict(self.patches(count)) for _ in range(2))
        assert list(first) == list(second) == safe_names(first)
        assert self.heads(first, count) == self.heads(second, count)

    def test_patches_are_predicted_alike_in_any_batch(self) -> None:
        """One patch alone gets the answer that it gets among five."""
        model = self.model()
        if model.info.batch not in (None, 1):
            pytest.skip("the model takes batches of one size only")
        count = model.info.batch or 5
        patches = self.patches(5)
        together = [model.predict(patches[i : i + count]) for i in range(0, 5, count)]
        for i in range(5):
            alone = model.predict(patches[i : i + 1])
            for name, expected in together[i // count].items():
                self._assert_close(alone[name][0], expected[i % count])

    def test_answers_belong_to_the_caller(self) -> None:
        """Neither the batch nor a later call shares memory with an answer."""
        model = self.model()
        batch = self.patches(model.info.batch or 2)
        before = model.predict(batch)
        kept = {name: np.array(array) for name, array in before.items()}
        assert not any(np.may_share_memory(array, batch) for array in before.values())
        batch[...] = 0
        model.predict(batch)
        for name, array in before.items():
            np.testing.assert_array_equal(array, kept[name])

    def test_batch_is_not_written_to(self) -> None:
        """The caller's batch is as it was."""
        batch = self.patches(self.info.batch or 2)
        kept = batch.copy()
        self.model().predict(batch)
        np.testing.assert_array_equal(batch, kept)

    def test_batch_may_be_in_any_memory_order(self) -> None:
        """Interleaved and read-only batches get the same answers."""
        model = self.model()
        batch = self.patches(model.info.batch or 2)
        other = np.moveaxis(np.ascontiguousarray(np.moveaxis(batch, 1, -1)), -1, 1)
        other.flags.writeable = False
        expected, found = model.predict(batch), model.predict(other)
        for name in expected:
            self._assert_close(found[name], expected[name])

    def test_wrong_number_of_channels_is_a_model_input_error(self) -> None:
        """The message says what is wrong instead of the framework's."""
        if not self.refuses_channels:
            pytest.skip("the model takes any number of channels")
        with pytest.raises(ModelInputError, match="channel"):
            self.model().predict(self.patches(self.info.batch or 1, extra_channels=1))

    def test_four_threads_at_once_get_the_same_answers(self) -> None:
        """A model that calls itself concurrent is."""
        model = self.model()
        if not model.info.concurrent:
            pytest.skip("the model is called by one thread at a time")
        batches = [self.patches(model.info.batch or 1) + i for i in range(4)]
        expected = [model.predict(batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(model.predict, batches * 4))
        for i, heads in enumerate(found):
            for name in heads:
                self._assert_close(heads[name], expected[i % 4][name])

    def _assert_close(self, found: NDArray[Any], expected: NDArray[Any]) -> None:
        scale = float(np.abs(expected, dtype=np.float64).max(initial=0)) if expected.dtype.kind != "b" else 1.0
        np.testing.assert_allclose(found, expected, rtol=0, atol=self.tolerance * scale)
