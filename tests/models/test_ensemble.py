"""Several models as one: exact means and votes, and clear words where models do not fit each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from patchloom.errors import ModelError, ModelOutputError, UsageError
from patchloom.models.ensemble import Ensemble, combined
from patchloom.models.flips import Augmented
from patchloom.models.load import load_model
from patchloom.models.model import Model, ModelInfo
from patchloom.models.steps import Preprocess, Reduce, Steps
from patchloom.testing.models import ModelTests

from . import graphs

BATCH = np.arange(2 * 3 * 4 * 6, dtype=np.float32).reshape(2, 3, 4, 6)


def model(function: Any, **about: Any) -> Model:
    for name, value in about.items():
        setattr(function, name, value)
    return load_model(function)


def red(batch):
    return {"map": batch[:, :2], "mean": batch.mean((2, 3))}


def shifted(batch):
    return {"map": batch[:, :2] + 3, "mean": batch.mean((2, 3)) * 3}


red.concurrent = shifted.concurrent = True


class TestEnsemble(ModelTests):
    refuses_channels = False

    def model(self):
        return Ensemble([load_model(red), load_model(shifted)])


class TestVotingEnsemble(ModelTests):
    refuses_channels = False

    def model(self):
        return Ensemble([load_model(red), load_model(shifted)], "vote")


class TestEnsembleOfFiles(ModelTests):
    @pytest.fixture(autouse=True)
    def _loaded(self, tmp_path):
        paths = [graphs.convolution(tmp_path / f"{i}.onnx") for i in range(2)]
        self._model = Ensemble([load_model(path) for path in paths])

    def model(self):
        return self._model


def fixed(*values: Any, dtype: Any = np.float32) -> list[tuple[str, dict[str, NDArray[Any]]]]:
    return [(f"m{i}", {"h": np.array(value, dtype)}) for i, value in enumerate(values)]


def test_mean_of_two_known_models_is_exact() -> None:
    answer = Ensemble([load_model(red), load_model(shifted)]).predict(BATCH)
    np.testing.assert_array_equal(answer["map"], BATCH[:, :2] + 1.5)
    np.testing.assert_array_equal(answer["mean"], BATCH.mean((2, 3)) * 2)
    assert answer["map"].dtype == answer["mean"].dtype == np.float32


def test_half_floats_are_averaged_in_float32() -> None:
    large = [model(lambda batch: np.full((len(batch), 2), 60000, np.float16)) for _ in range(3)]
    answer = Ensemble(large).predict(BATCH)["prediction"]
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, 60000)


def test_mean_of_three_scores() -> None:
    np.testing.assert_allclose(combined(fixed([[0.1, 0.9]], [[0.2, 0.8]], [[0.6, 0.4]]), "mean", 4)["h"],
                               [[0.3, 0.7]], rtol=1e-6)


def test_votes_of_scores_become_one_winner() -> None:
    scores = fixed([[0.9, 0.1, 0]], [[0.1, 0.2, 0.7]], [[0.3, 0.1, 0.6]])
    np.testing.assert_array_equal(combined(scores, "vote", 4)["h"], [[0, 0, 1]])


def test_votes_that_are_tied_go_to_the_smaller_class() -> None:
    np.testing.assert_array_equal(combined(fixed([[0, 0, 1.0]], [[0, 1.0, 0]]), "vote", 4)["h"], [[0, 1, 0]])
    np.testing.assert_array_equal(combined(fixed([5, 3], [2, 3], [9, 7], dtype=np.uint8), "vote", 4)["h"], [2, 3])


@pytest.mark.parametrize("mode", ["mean", "vote"])
def test_class_numbers_are_always_voted(mode: Any) -> None:
    maps = fixed([[[0, 2], [7, 1]]], [[[1, 2], [7, 0]]], [[[1, 0], [7, 1]]], dtype=np.uint8)
    answer = combined(maps, mode, 4)["h"]
    np.testing.assert_array_equal(answer, [[[1, 2], [7, 1]]])
    assert answer.dtype == np.uint8


def test_votes_agree_with_a_naive_count() -> None:
    rng = np.random.default_rng(0)
    for count in range(1, 9):
        votes = rng.integers(0, 4, (count, 1, 16, 16)).astype(np.int16)
        answer = combined(fixed(*votes, dtype=np.int16), "vote", 4)["h"]
        naive = np.apply_along_axis(lambda column: np.bincount(column, minlength=4).argmax(), 0, votes)
        np.testing.assert_array_equal(answer, naive)


def test_a_pixel_that_is_no_number_does_not_vote() -> None:
    nan = float("nan")
    np.testing.assert_array_equal(combined(fixed([[nan, nan]], [[0.2, 0.8]]), "vote", 4)["h"], [[0, 1]])
    assert np.isnan(combined(fixed([[nan, 1.0]], [[0.2, nan]]), "vote", 4)["h"]).all()


def test_votes_need_classes() -> None:
    ensemble = Ensemble([model(lambda batch: batch[:, 0]) for _ in range(2)], "vote")
    with pytest.raises(ModelOutputError, match="no classes to vote for") as error:
        ensemble.predict(BATCH)
    assert "mean" in error.value.hint


def test_models_with_one_head_each_may_call_it_differently() -> None:
    one = model(lambda batch: {"logits": batch[:, 0]})
    other = model(lambda batch: {"out": batch[:, 1]})
    answer = Ensemble([one, other]).predict(BATCH)
    assert list(answer) == ["logits"]
    np.testing.assert_array_equal(answer["logits"], (BATCH[:, 0] + BATCH[:, 1]) / 2)


def test_other_heads_name_both_models() -> None:
    def two(batch):
        return {"map": batch, "count": batch.mean((1, 2, 3))}

    ensemble = Ensemble([load_model(red), load_model(two)])
    with pytest.raises(ModelOutputError, match=r"red has heads map, mean, and .*two has map, count"):
        ensemble.predict(BATCH)


def test_other_shapes_name_both_models() -> None:
    def one(batch):
        return batch[:, :1]

    def whole(batch):
        return batch

    ensemble = Ensemble([load_model(one), load_model(whole)])
    with pytest.raises(ModelOutputError, match=r"\(2, 1, 4, 6\) of .*one, .*\(2, 3, 4, 6\) of .*whole"):
        ensemble.predict(BATCH)


@pytest.mark.parametrize(("item", "values"), [("channels", (3, 4)), ("patch", (32, 64)), ("batch", (1, 2)),
                                              ("classes", (("a", "b"), ("b", "a"))), ("dtype", ("f4", "u1"))])
def test_models_that_take_other_patches_are_refused(item: str, values: Any) -> None:
    models = [model(lambda batch: batch, **{item: value}) for value in values]
    with pytest.raises(ModelError, match=f"do not agree: {item}"):
        Ensemble(models)


def test_what_one_model_says_holds_for_all() -> None:
    silent, saying = model(lambda batch: batch), model(lambda batch: batch, channels=3, classes=("a", "b", "c"))
    info = Ensemble([silent, saying]).info
    assert (info.channels, info.classes, info.concurrent, info.on_device) == (3, ("a", "b", "c"), False, False)
    assert Ensemble([load_model(red), load_model(shifted)]).info.concurrent


def test_channels_may_be_in_different_places() -> None:
    first = model(lambda batch: batch[:, 0])
    last = model(lambda batch: batch[..., 0], channels_last=True)
    np.testing.assert_array_equal(Ensemble([first, last]).predict(BATCH)["prediction"], BATCH[:, 0])
    other = Ensemble([last, first])
    assert other.info.channels_last
    np.testing.assert_array_equal(other.predict(np.moveaxis(BATCH, 1, -1))["prediction"], BATCH[:, 0])


def test_identity_knows_models_and_mode() -> None:
    models = [load_model(red), load_model(shifted)]
    identities = {Ensemble(models).info.identity, Ensemble(models, "vote").info.identity,
                  Ensemble(models[:1]).info.identity, models[0].info.identity}
    assert len(identities) == 4
    assert Ensemble(models).info.identity == Ensemble([load_model(red), load_model(shifted)]).info.identity
    assert all(identity.startswith("sha256:") for identity in identities if identity is not None)


class Counting:
    """Something that cannot be hashed."""

    def __call__(self, batch: NDArray[Any]) -> NDArray[Any]:
        return batch


def test_an_ensemble_with_a_live_model_has_no_identity() -> None:
    assert Ensemble([load_model(red), load_model(Counting())]).info.identity is None


class OnDevice:
    """Model that preprocesses and reduces by itself, as those on a GPU do."""

    info = ModelInfo("net", "sha256:0", np.dtype(np.float32), on_device=True)

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def with_steps(self, steps: Steps) -> OnDevice:
        return OnDevice(steps)

    def predict(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        pixels = np.empty(batch.shape, np.float32)
        self.steps.preprocess.into(batch, pixels, channel_axis=1)
        return {"prediction": self.steps.reduction("prediction")(pixels)}


def test_steps_that_a_model_does_on_its_device_are_left_to_the_caller() -> None:
    loaded = OnDevice(Steps(Preprocess(255.0), {"*": Reduce.of("argmax")}))
    assert loaded.predict(BATCH)["prediction"].dtype == np.uint8
    for wrapped in (Ensemble([loaded, loaded]), Augmented(loaded, "flips")):
        assert not wrapped.info.on_device
        np.testing.assert_array_equal(wrapped.predict(BATCH)["prediction"], BATCH)


@pytest.mark.parametrize(("models", "mode"), [([], "mean"), ([red], "median")])
def test_nothing_to_combine_is_a_usage_error(models: Any, mode: Any) -> None:
    with pytest.raises(UsageError):
        Ensemble([load_model(one) for one in models], mode)
