"""Test-time augmentation: what goes in turned comes back as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.errors import ModelOutputError, UsageError
from patchloom.models.ensemble import Ensemble
from patchloom.models.flips import Augmented, View
from patchloom.models.load import load_model
from patchloom.testing.models import ModelTests

RNG = np.random.default_rng(0)
SQUARE = RNG.integers(0, 100, (2, 3, 8, 8)).astype(np.float32)
BOTH = pytest.mark.parametrize("sides", ["flips", "d4"])


def equivariant(batch):
    """What a pixel and its neighbours give, whatever way they lie."""
    around = sum(np.roll(batch, shift, axis) for shift in (-1, 1) for axis in (-2, -1))
    return {"map": (batch * 4 + around).astype(np.float32), "mean": batch.mean((2, 3)), "class": batch[:, 0] > 50}


class TestAugmented(ModelTests):
    refuses_channels = False

    def model(self):
        return Augmented(load_model(equivariant), "flips")


class TestAugmentedByTurns(ModelTests):
    refuses_channels = False
    patch = (32, 32)

    def model(self):
        return Augmented(load_model(equivariant), "d4")


class TestAugmentedInSpace(ModelTests):
    refuses_channels = False
    patch = (5, 16, 16)

    def model(self):
        return Augmented(load_model(lambda batch: {"map": batch * 2, "mean": batch.mean((2, 3, 4))}), "d4")


@BOTH
def test_an_equivariant_model_answers_the_same(sides: Any) -> None:
    model = load_model(equivariant)
    expected, found = model.predict(SQUARE), Augmented(model, sides).predict(SQUARE)
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
    assert found["class"].dtype == np.bool_


@BOTH
def test_a_map_that_leans_is_righted(sides: Any) -> None:
    """A model that shifts by a pixel shifts into all directions alike."""
    model = load_model(lambda batch: np.roll(batch, 1, -1))
    found = Augmented(model, sides).predict(SQUARE)["prediction"]
    left_right = (np.roll(SQUARE, 1, -1) + np.roll(SQUARE, -1, -1)) / 2
    up_down = (np.roll(SQUARE, 1, -2) + np.roll(SQUARE, -1, -2)) / 2
    np.testing.assert_allclose(found, left_right if sides == "flips" else (left_right + up_down) / 2, rtol=1e-6)


@BOTH
def test_vectors_are_averaged(sides: Any) -> None:
    corners = SQUARE[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].mean(-1)
    found = Augmented(load_model(lambda batch: batch[:, :, 0, 0]), sides).predict(SQUARE)["prediction"]
    np.testing.assert_allclose(found, corners, rtol=1e-6)


@BOTH
def test_a_model_sees_each_view_once_in_contiguous_batches(sides: Any) -> None:
    seen: list[bytes] = []

    def watching(batch):
        assert batch.flags.c_contiguous
        seen.append(batch.tobytes())
        return batch

    Augmented(load_model(watching), sides).predict(SQUARE)
    assert len(seen) == len(set(seen)) == (4 if sides == "flips" else 8)


def test_depth_is_never_turned() -> None:
    volume = RNG.random((1, 1, 4, 6, 6)).astype(np.float32)
    found = Augmented(load_model(lambda batch: batch.max((1, 3, 4))), "d4").predict(volume)["prediction"]
    np.testing.assert_allclose(found, volume.max((1, 3, 4)))


def test_channels_may_be_last() -> None:
    def last(batch):
        return np.roll(batch, 1, -2)

    last.channels_last = True
    batch = np.moveaxis(SQUARE, 1, -1)
    found = Augmented(load_model(last), "flips").predict(batch)["prediction"]
    np.testing.assert_allclose(found, (np.roll(SQUARE, 1, -1) + np.roll(SQUARE, -1, -1)) / 2, rtol=1e-6)


def test_interleaved_batches_stay_interleaved() -> None:
    def watching(batch):
        assert np.moveaxis(batch, 1, -1).flags.c_contiguous
        return batch

    interleaved = np.moveaxis(np.ascontiguousarray(np.moveaxis(SQUARE, 1, -1)), -1, 1)
    found = Augmented(load_model(watching), "d4").predict(interleaved)["prediction"]
    np.testing.assert_allclose(found, SQUARE, rtol=1e-6)


def test_patches_that_are_not_square_can_be_flipped_but_not_turned() -> None:
    oblong = SQUARE[:, :, :6]
    model = load_model(lambda batch: batch)
    np.testing.assert_array_equal(Augmented(model, "flips").predict(oblong)["prediction"], oblong)
    with pytest.raises(UsageError, match="6 x 8 pixels") as error:
        Augmented(model, "d4").predict(oblong)
    assert "flips" in error.value.hint


def test_a_fixed_input_that_is_not_square_is_refused_at_once() -> None:
    def oblong(batch):
        return batch

    oblong.patch = (32, 64)
    with pytest.raises(UsageError, match="32 x 64"):
        Augmented(load_model(oblong), "d4")


def test_maps_that_are_not_square_cannot_be_turned_back() -> None:
    with pytest.raises(ModelOutputError, match="not square"):
        Augmented(load_model(lambda batch: batch[:, :, ::2]), "d4").predict(SQUARE)


def test_an_unknown_choice_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'turns'"):
        Augmented(load_model(equivariant), "turns")  # type: ignore[arg-type]


def test_identity_differs_from_that_of_the_model_and_of_other_views() -> None:
    model = load_model(equivariant)
    identities = {model.info.identity, *(Augmented(model, sides).info.identity for sides in ("flips", "d4"))}
    assert len(identities) == 3
    assert None not in identities


def test_an_ensemble_can_be_augmented() -> None:
    def leaning(batch):
        return np.roll(batch, 1, -1)

    def upright(batch):
        return batch

    found = Augmented(Ensemble([load_model(leaning), load_model(upright)]), "flips").predict(SQUARE)["prediction"]
    expected = (np.roll(SQUARE, 1, -1) + np.roll(SQUARE, -1, -1)) / 4 + SQUARE / 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@given(st.booleans(), st.booleans(), st.booleans(), st.integers(1, 5), st.integers(1, 5))
def test_every_view_comes_back(exchange: bool, flip_y: bool, flip_x: bool, height: int, width: int) -> None:
    view = View(exchange, flip_y, flip_x)
    array = np.arange(height * width * 2).reshape(2, height, width)
    np.testing.assert_array_equal(view.back(view.seen(array, 1, 2), 1, 2), array)
