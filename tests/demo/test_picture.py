import numpy as np
from PIL import Image

from patchloom.demo.picture import COLOURS, View, draw_picture, most_varied
from patchloom.demo.quality import Confusion
from patchloom.demo.scenes import CLASSES, Scene


def test_the_picture_shows_input_prediction_and_truth(tmp_path):
    rgb, truth = Scene("x", (1024, 768), 8).block(0, 0, 1024, 768)
    predicted = np.full_like(truth, CLASSES.index("tumour"))
    whole = View(rgb[::2, ::2], predicted[::2, ::2], truth[::2, ::2], 2.0, (0, 0, 0.5, 0.66))
    part = View(rgb[:512, :512], predicted[:512, :512], truth[:512, :512], 1.0)
    draw_picture(tmp_path / "demo.png", "a title", whole, part, Confusion.of(CLASSES, truth, predicted))
    with Image.open(tmp_path / "demo.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] == 1600
    width = pixels.shape[1] // 3
    tumour = np.all(pixels == COLOURS["tumour"], axis=2)
    assert tumour[:, :width].mean() < 0.05
    assert tumour[:, width : 2 * width].mean() > 0.6


def test_colours_of_classes_are_distinct():
    assert list(COLOURS) == list(CLASSES)
    values = np.array(list(COLOURS.values()), int)
    distance = np.abs(values[:, None] - values[None]).sum(-1)
    assert distance[~np.eye(len(values), dtype=bool)].min() > 60


def test_the_most_varied_square_holds_more_classes_than_others():
    truth = np.zeros((100, 100), np.uint8)
    truth[60:70, 60:70], truth[70:80, 60:70], truth[60:80, 70:80] = 1, 2, 3
    y, x = most_varied(truth, 20)
    assert len(np.unique(truth[y : y + 20, x : x + 20])) >= 3
