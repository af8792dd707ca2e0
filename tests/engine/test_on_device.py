"""A model that preprocesses and reduces on its device, as on a GPU, gives what one on the CPU gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import patchloom
from patchloom.models.load import load_model
from patchloom.models.steps import Steps
from patchloom.models.torch import TorchModel


class Net(torch.nn.Module):
    """A class map and a vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        scores = self.conv(x)
        return {"map": scores, "vector": scores.mean((2, 3))}


def invert(batch):
    """A step of the user's own, on what was scaled."""
    return 1 - batch


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
@pytest.mark.parametrize("preprocess", [None, invert])
def test_predictions_are_the_same(blend: str, preprocess, tmp_path: Path) -> None:
    on_cpu = load_model(Net(), device="cpu")
    info = replace(on_cpu.info, on_device=True, memory_format="contiguous")
    on_device = TorchModel(on_cpu._loaded, info, 1, Steps())
    image = np.random.default_rng(0).integers(0, 255, (90, 110, 3), np.uint8)
    runs = [
        patchloom.predict({"a": image}, model, tmp_path / name, patch=32, overlap=8, blend=blend, scale=255,
                          mean=(0.5, 0.4, 0.3), reduce="map=argmax", preprocess=preprocess, model_id="net")
        for name, model in (("cpu", on_cpu), ("device", on_device))
    ]
    maps = [np.asarray(run["a"].stitched("map")) for run in runs]
    assert maps[0].dtype == maps[1].dtype
    assert (maps[0] == maps[1]).mean() > 0.999
    assert len(np.unique(maps[0])) > 1
    vectors = [run.patch("a", 24, 48, head="vector") for run in runs]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
