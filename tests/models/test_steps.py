"""Preprocessing and reductions give what their NumPy definitions give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from patchloom.errors import ModelInputError, UsageError
from patchloom.models.steps import EVERY_HEAD, Preprocess, Reduce, Steps, parse_reduce

DTYPES = [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64, np.bool_]
LAYOUTS = {
    "planar": np.empty,
    "interleaved": lambda shape, dtype: np.moveaxis(np.empty((*shape[1:], shape[0]), dtype), -1, 0),
    "cropped": lambda shape, dtype: np.empty((shape[0], *(n + 3 for n in shape[1:])), dtype)[
        (slice(None), *(slice(1, n + 1) for n in shape[1:]))
    ],
    "turned": lambda shape, dtype: np.empty(shape, dtype)[:, ::-1],
}


def random_pixels(shape, dtype, layout):
    pixels = LAYOUTS[layout](shape, dtype)
    pixels[...] = (np.random.default_rng(sum(shape)).random(shape) * 255).astype(dtype)
    return pixels


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(DTYPES),
    layouts=st.tuples(st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS))),
    scale=st.sampled_from([None, 255.0, 3.0]),
    per_channel=st.booleans(),
    steps=st.sampled_from(["mean", "std", "both"]),
)
def test_preprocessing_equals_the_formula_bit_by_bit_in_any_memory_order(
    *, shape, dtype, layouts, scale, per_channel, steps
):
    numbers = np.linspace(0.3, 1.7, shape[0] if per_channel else 1)
    mean = tuple(numbers) if steps != "std" else None
    std = tuple(numbers[::-1]) if steps != "mean" else None
    pixels = random_pixels(shape, dtype, layouts[0])
    out = LAYOUTS[layouts[1]](shape, np.float32)

    Preprocess(scale, mean, std).into(pixels, out)

    expected = pixels.astype(np.float32)
    column = (-1, 1, 1)
    expected = expected if scale is None else expected / np.float32(scale)
    expected = expected if mean is None else expected - np.array(mean, np.float32).reshape(column)
    expected = expected if std is None else expected / np.array(std, np.float32).reshape(column)
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(out, expected)


def test_preprocessing_of_volumes_and_of_channels_in_the_last_place():
    pixels = random_pixels((3, 4, 5, 6), np.uint8, "planar")
    out, last = np.empty(pixels.shape, np.float32), np.empty((4, 5, 6, 3), np.float32)
    steps = Preprocess(255, (0.1, 0.2, 0.3), (2, 3, 4))
    steps.into(pixels, out)
    steps.into(np.moveaxis(pixels, 0, -1), last, channel_axis=-1)
    np.testing.assert_array_equal(np.moveaxis(last, -1, 0), out)


def test_without_steps_values_are_cast_not_scaled():
    out = np.empty((1, 2, 2), np.float32)
    Preprocess().into(np.full((1, 2, 2), 200, np.uint8), out)
    np.testing.assert_array_equal(out, 200)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_models_get_the_float32_result_cast(dtype):
    pixels = random_pixels((3, 5, 7), np.uint8, "planar")
    single, out = np.empty(pixels.shape, np.float32), np.empty(pixels.shape, dtype)
    steps = Preprocess(255, (0.5,), (0.25,))
    steps.into(pixels, single)
    steps.into(pixels, out)
    np.testing.assert_array_equal(out, single.astype(dtype))


def test_dtype_of_the_batch_follows_model_then_steps_then_image():
    assert Preprocess().output_dtype(np.uint16) == np.uint16
    assert Preprocess(255).output_dtype(np.uint16) == np.float32
    assert Preprocess().output_dtype(np.uint8, np.float16) == np.float16
    assert Preprocess(255).output_dtype(np.uint8, np.float64) == np.float64
    assert Preprocess().output_dtype(np.uint8, np.int64) == np.int64


def test_an_integer_model_refuses_what_it_cannot_hold():
    with pytest.raises(ModelInputError, match="uint8 pixels, and the image has uint16"):
        Preprocess().output_dtype(np.uint16, np.uint8)
    with pytest.raises(ModelInputError, match="make them float32"):
        Preprocess(255).output_dtype(np.uint8, np.uint8)


def test_numbers_for_other_channels_are_a_usage_error():
    with pytest.raises(UsageError, match="mean has 3 numbers, and the patches have 4 channels"):
        Preprocess(mean=(1, 2, 3)).into(np.zeros((4, 2, 2), np.uint8), np.zeros((4, 2, 2), np.float32))
    with pytest.raises(UsageError, match="std cannot be 0"):
        Preprocess(std=(1, 0))


def reference_softmax(scores, axis):
    wide = scores.astype(np.float64)
    exponential = np.exp(wide - wide.max(axis, keepdims=True))
    return exponential / exponential.sum(axis, keepdims=True)


SCORES = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.float16, np.int32, np.uint8]),
    st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 6), st.integers(1, 6)),
    elements=st.integers(0, 9),
)


@given(SCORES, st.booleans())
def test_argmax_is_numpys_in_values_and_ties(scores, interleaved):
    if interleaved:
        scores = np.moveaxis(np.ascontiguousarray(np.moveaxis(scores, 1, -1)), -1, 1)
    found = Reduce.of("argmax")(scores)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, scores.argmax(1))


@given(SCORES)
def test_softmax_and_argmax_of_vectors_and_bands(scores):
    for axis, array in ((0, scores[0]), (1, scores[:, :, 0, 0]), (1, scores[..., 0])):
        np.testing.assert_array_equal(Reduce.of("argmax")(array, axis), array.argmax(axis))
        tolerance = 2e-3 if array.dtype == np.float16 else 1e-6
        np.testing.assert_allclose(Reduce.of("softmax")(array, axis), reference_softmax(array, axis), atol=tolerance)


def test_argmax_over_more_than_one_block_and_many_channels():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(2, 3, 300, 301)).astype(np.float32)
    np.testing.assert_array_equal(Reduce.of("argmax")(wide), wide.argmax(1))
    np.testing.assert_allclose(Reduce.of("softmax")(wide), reference_softmax(wide, 1), atol=1e-6)
    many = rng.normal(size=(1, 300, 9, 9)).astype(np.float32)
    found = Reduce.of("argmax")(many)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, many.argmax(1))


def test_nan_and_infinity_go_where_numpy_sends_them():
    scores = np.array([[1, np.nan, 5, np.nan], [np.inf, 1, np.inf, 0], [-np.inf] * 4, [2, 3, 1, np.nan]], np.float32)
    np.testing.assert_array_equal(Reduce.of("argmax")(scores), scores.argmax(1))


def test_softmax_is_stable_for_large_scores_and_keeps_the_dtype():
    for dtype in (np.float16, np.float32, np.float64):
        scores = np.array([[1e4, 1e4 - 1, -1e4]], dtype)
        found = Reduce.of("softmax")(scores)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, reference_softmax(scores, 1), atol=1e-3)


def test_sigmoid_threshold_and_quantisation():
    scores = np.array([[-1000, -1, 0, 1, 1000]], np.float32)
    probabilities = Reduce.of("sigmoid")(scores, None)
    np.testing.assert_allclose(probabilities, [[0, 0.26894143, 0.5, 0.7310586, 1]], atol=1e-7)
    np.testing.assert_array_equal(Reduce.of("sigmoid", "threshold:0.5")(scores, None), [[0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(Reduce.of("sigmoid", "uint8")(scores, None), [[0, 69, 128, 186, 255]])


def test_quantisation_clips_and_sends_nan_to_zero():
    values = np.array([-0.1, 1.2, np.inf, -np.inf, np.nan, 0.5], np.float32)
    np.testing.assert_array_equal(Reduce.of("uint8")(values, None), [0, 255, 255, 0, 0, 128])
    np.testing.assert_array_equal(Reduce.of("uint8")(np.array([3, 200]), None), [3, 200])
    assert Reduce.of("threshold:0.1")(np.array([np.nan], np.float32), None).tolist() == [0]


def test_float16_overflows_to_infinity_without_a_warning():
    np.testing.assert_array_equal(Reduce.of("float16")(np.array([1, 1e6], np.float32), None), [1, np.inf])


@pytest.mark.parametrize(
    "texts", [["softmax"], ["argmax"], ["sigmoid"], ["threshold:0.5"], ["uint8"], ["float16"], ["softmax", "uint8"],
              ["softmax", "argmax"], ["argmax", "uint8"], ["sigmoid", "threshold:0.2", "float16"], []],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
def test_output_foretells_shape_dtype_and_classes(texts, dtype):
    array = np.ones((2, 3, 4, 5), dtype)
    reduce = Reduce.of(*texts)
    shape, foretold, classes = reduce.output((3, 4, 5), dtype, ("a", "b", "c"))
    found = reduce(array)
    assert (found.shape[1:], found.dtype) == (shape, foretold)
    assert classes == (() if "argmax" in texts else ("a", "b", "c"))


def test_reductions_do_not_write_to_their_input():
    array = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)
    kept = array.copy()
    for text in ("softmax", "sigmoid", "argmax", "threshold:0", "uint8", "float16"):
        Reduce.of(text)(array)
        np.testing.assert_array_equal(array, kept)


def test_softmax_without_channels_is_a_usage_error():
    with pytest.raises(UsageError, match="softmax needs a channel axis"):
        Reduce.of("softmax")(np.zeros(3), None)
    with pytest.raises(UsageError, match="softmax needs a channel axis"):
        Reduce.of("argmax", "softmax").output((3, 4, 4), np.float32, ("a", "b", "c"))
    with pytest.raises(UsageError, match="argmax needs a channel axis"):
        Reduce.of("argmax").output((), np.float32, ())


def test_reductions_are_read_for_all_heads_or_for_one():
    found = parse_reduce(["softmax", "map=argmax", "score=threshold:0.25"], ["map", "score"])
    assert {name: str(reduce) for name, reduce in found.items()} == {
        "map": "softmax,argmax", "score": "softmax,threshold:0.25",
    }
    assert not parse_reduce([], ["map"])["map"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("softmin", "'softmin' is no reduction"), ("threshold", "is no reduction"), ("argmax:3", "is no reduction"),
     ("threshold:high", "'high'"), ("other=argmax", "no head 'other'")],
)
def test_unknown_reductions_and_heads_are_usage_errors(text, message):
    with pytest.raises(UsageError, match=message):
        parse_reduce([text], ["map"])


def test_steps_fall_back_to_those_for_every_head():
    steps = Steps(reduce={EVERY_HEAD: Reduce.of("argmax"), "score": Reduce()})
    assert str(steps.reduction("map")) == "argmax"
    assert not steps.reduction("score")
