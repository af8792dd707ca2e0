"""Names of axes."""

from __future__ import annotations

import pytest

from patchloom.geometry.axes import check_axes, spatial_axes


@pytest.mark.parametrize("axes", ["YX", "XY", "YXC", "STCZYX", "TZYX"])
def test_letters_out_of_stczyx_are_axes(axes: str) -> None:
    assert check_axes(axes.lower()) == axes


@pytest.mark.parametrize("axes", ["", "Y", "YXQ", "YYX", "CZT", "YXS "])
def test_anything_else_is_refused_by_name(axes: str) -> None:
    with pytest.raises(ValueError, match=repr(axes.upper())):
        check_axes(axes)


def test_as_many_letters_as_the_array_has_axes() -> None:
    assert check_axes("CYX", (3, 10, 10)) == "CYX"
    with pytest.raises(ValueError, match=r"2 axes and the array of shape \(3, 10, 10\) has 3"):
        check_axes("YX", (3, 10, 10))


def test_a_model_of_two_or_three_dimensions_sees_the_last_axes() -> None:
    assert (spatial_axes(2), spatial_axes(3)) == ("YX", "ZYX")
