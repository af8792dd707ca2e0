import numpy as np
import pytest

from patchloom.demo.quality import Confusion

CLASSES = ("a", "b", "c")


def test_iou_and_accuracy_are_what_a_count_by_hand_gives():
    truth, predicted = np.array([[0, 0, 1], [1, 1, 1]], np.uint8), np.array([[0, 1, 1], [1, 1, 0]], np.uint8)
    confusion = Confusion.of(CLASSES, truth, predicted)
    assert confusion.iou == {"a": 1 / 3, "b": 3 / 5}
    assert confusion.mean_iou == pytest.approx((1 / 3 + 3 / 5) / 2)
    assert confusion.accuracy == pytest.approx(4 / 6)
    assert confusion.shares == {"a": 2 / 6, "b": 4 / 6, "c": 0}


def test_counts_of_blocks_add_up_to_the_count_of_the_whole():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 3, (2, 40, 60), np.uint8)
    parts = sum((Confusion.of(CLASSES, truth[:, x : x + 7], predicted[:, x : x + 7]) for x in range(0, 60, 7)),
                Confusion.empty(CLASSES))
    np.testing.assert_array_equal(parts.counts, Confusion.of(CLASSES, truth, predicted).counts)


def test_a_pixel_that_was_not_predicted_is_wrong():
    truth, predicted = np.zeros((2, 2), np.uint8), np.array([[0, 0], [0, 255]], np.uint8)
    confusion = Confusion.of(CLASSES, truth, predicted)
    assert confusion.accuracy == 0.75
    assert confusion.iou == {"a": 0.75}


def test_a_truth_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match="truth"):
        Confusion.of(CLASSES, np.full((2, 2), 3, np.uint8), np.zeros((2, 2), np.uint8))


def test_nothing_counted_has_no_quality():
    assert np.isnan(Confusion.empty(CLASSES).mean_iou)
