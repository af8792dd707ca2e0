"""Heads are found out from one trial batch."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.errors import ModelOutputError, UsageError
from patchloom.models.heads import find_heads, reduced_heads, safe_names
from patchloom.models.model import ModelInfo
from patchloom.models.steps import parse_reduce


def heads_of(outputs, *, ndim=2, patch=(64, 32), classes=None, info=None):
    outputs = outputs if isinstance(outputs, dict) else {"prediction": outputs}
    info = info or ModelInfo("net")
    return find_heads(outputs, batch_size=2, patch=patch, ndim=ndim, classes=classes, info=info)


@pytest.mark.parametrize(
    ("shape", "ndim", "kind", "classes"),
    [((2, 3, 64, 32), 2, "dense", 3), ((2, 64, 32), 2, "dense", 0), ((2, 5), 2, "vector", 5), ((2,), 2, "vector", 0),
     ((2, 3, 8, 64, 32), 3, "dense", 3), ((2, 8, 64, 32), 3, "dense", 0)],
)
def test_shape_decides_between_maps_and_vectors(shape, ndim, kind, classes):
    patch = (8, 64, 32)[-ndim:]
    (head,) = heads_of(np.zeros(shape, np.float16), ndim=ndim, patch=patch)
    assert (head.kind, head.shape, head.dtype) == (kind, shape[1:], np.float16)
    assert head.classes == tuple(map(str, range(classes)))
    assert head.scale == ((1,) * ndim if kind == "dense" else ())
    assert head.channels == (classes or None if kind == "dense" else None)


def test_scale_is_map_pixels_per_input_pixel():
    (head,) = heads_of(np.zeros((2, 1, 128, 8)))
    assert head.scale == (Fraction(2), Fraction(1, 4))


@pytest.mark.parametrize(
    ("array", "message"),
    [(np.float32(3), "not an array"), (np.zeros(()), "single number"),
     (np.zeros((3, 4)), "first axis is not the batch"),
     (np.zeros((2, 3), complex), "complex numbers"), (np.array(["a", "b"]), "texts"),
     (np.array([{}, {}]), "Python objects"), (np.zeros((2, 1, 1, 1, 4, 4)), "neither a 2-D map"),
     (np.zeros((2, 0)), "is empty")],
)
def test_what_is_neither_map_nor_vector_is_named_with_its_shape(array, message):
    with pytest.raises(ModelOutputError, match=message):
        heads_of(array)


def test_no_output_at_all_is_an_error():
    with pytest.raises(ModelOutputError, match="nothing"):
        heads_of({})


def test_classes_of_the_user_come_before_those_of_the_model():
    info = ModelInfo("net", classes=("a", "b", "c"))
    maps = np.zeros((2, 3, 64, 32))
    assert heads_of(maps, info=info)[0].classes == ("a", "b", "c")
    assert heads_of(maps, info=info, classes=["x", "y", "z"])[0].classes == ("x", "y", "z")
    assert heads_of(np.zeros((2, 4)), info=info)[0].classes == ("0", "1", "2", "3")


def test_classes_name_the_heads_that_they_fit():
    outputs = {"map": np.zeros((2, 3, 64, 32)), "score": np.zeros((2,))}
    assert [head.classes for head in heads_of(outputs, classes=["x", "y", "z"])] == [("x", "y", "z"), ()]


@pytest.mark.parametrize(("classes", "message"), [(["x"], "1 names for a prediction with 3 channels"),
                                                  (["x", "x", "y"], "a name twice")])
def test_classes_that_fit_no_head_are_a_usage_error(classes, message):
    with pytest.raises(UsageError, match=message):
        heads_of(np.zeros((2, 3, 64, 32)), classes=classes)


def test_reduced_heads_lose_what_reductions_take():
    heads = heads_of({"map": np.zeros((2, 3, 64, 32), np.float32), "score": np.zeros((2, 4), np.float32)})
    found = reduced_heads(heads, parse_reduce(["map=argmax", "score=float16"], ["map", "score"]))
    assert [(head.shape, head.dtype, head.classes) for head in found] == [
        ((64, 32), np.uint8, ()), ((4,), np.float16, ("0", "1", "2", "3")),
    ]
    assert found[0].scale == (1, 1)
    assert found[0].channels is None


def test_a_reduction_that_does_not_fit_names_the_head():
    with pytest.raises(UsageError, match="head 'score'"):
        reduced_heads(heads_of({"score": np.zeros((2,))}), parse_reduce(["argmax"], ["score"]))


def test_reduced_heads_of_vectors_lose_their_classes():
    (head,) = reduced_heads(heads_of(np.zeros((2, 4), np.float32)), parse_reduce(["argmax"], ["prediction"]))
    assert (head.shape, head.classes, head.kind) == ((), (), "vector")


@given(st.lists(st.text(max_size=80), max_size=8))
def test_safe_names_are_distinct_folder_names(names):
    safe = safe_names(names)
    assert len({name.casefold() for name in safe}) == len(safe) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") for name in safe)
    assert all(name and name[0] not in ".-" and name not in ("..", "con", "nul") for name in safe)


def test_safe_names_number_those_that_become_equal():
    assert safe_names(["a:0", "a_0", "A_0", "nul"]) == ["a_0", "a_0_2", "A_0_3", "nul_"]
