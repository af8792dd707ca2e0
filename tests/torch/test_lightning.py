"""`PredictionWriter` in `Trainer.predict` of both Lightning packages."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from patchloom.errors import IncompleteImageError, MissingExtraError, PredictionError, UsageError  # noqa: E402
from patchloom.torch.lightning import PredictionWriter  # noqa: E402
from patchloom.writing import ImagePrediction, WriteImage, WriteTiles, WriteTilesZarr, write_npy  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        r"The 'predict_dataloader' does not have many workers",
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        r"predict returned None if it was on purpose",
    )
]
S, SIDE, TILE, OVERLAP = 5, 24, 16, 8
STARTS = [(y, x) for y in (0, 8) for x in (0, 8)]


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def lightning(request: pytest.FixtureRequest) -> Any:
    return pytest.importorskip(request.param)


def trainer(lightning: Any, writer: PredictionWriter, **options: Any) -> Any:
    return lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[writer],
        **options,
    )  # fmt: skip


def module(lightning: Any, step: Any) -> Any:
    class Module(lightning.LightningModule):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return step(*batch)

    return Module()


def loader(images: int = 2, tiles: bool = False, batch: int = 3, seed: int = 0) -> Any:
    """Samples, or their tiles, of images of S samples, each with its number."""
    pixels = torch.from_numpy(pixels_of(images, seed))
    if tiles:
        pixels = torch.stack([one[:, y : y + TILE, x : x + TILE] for one in pixels for y, x in STARTS])
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(pixels, torch.arange(len(pixels))), batch_size=batch
    )


def pixels_of(images: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((images * S, 1, SIDE, SIDE), np.float32)


def whole(pixels: Any, numbers: Any) -> list[ImagePrediction]:
    return [
        ImagePrediction(2 * one, "SYX", (S, SIDE, SIDE), number // S, number % S, f"a/{number // S}.tif")
        for one, number in zip(pixels, numbers, strict=True)
    ]


def in_tiles(pixels: Any, numbers: Any) -> list[ImagePrediction]:
    found = []
    for one, number in zip(pixels, numbers, strict=True):
        sample, tile = divmod(int(number), len(STARTS))
        start = torch.tensor(STARTS[tile])
        found.append(
            ImagePrediction(2 * one, "SYX", (S, SIDE, SIDE), sample // S, sample % S, f"a/{sample // S}.tif", start)
        )
    return found


def test_it_writes_what_predict_step_returns(lightning: Any, tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path, WriteImage(write_npy, ".npy"))
    returned = trainer(lightning, writer).predict(module(lightning, whole), loader())
    for i in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"a/{i}.npy"), 2 * pixels_of(2)[i * S : (i + 1) * S])
    assert [len(batch) for batch in returned] == [3, 3, 3, 1]  # Lightning returns them all the same


def test_it_is_a_callback_that_lightning_recognises(lightning: Any, tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path)
    assert isinstance(writer, PredictionWriter)
    assert isinstance(writer, lightning.pytorch.callbacks.BasePredictionWriter if hasattr(lightning, "pytorch")
                      else lightning.callbacks.BasePredictionWriter)  # fmt: skip


def test_tiles_are_stitched(lightning: Any, tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path, WriteTiles(write_npy, ".npy", overlap=OVERLAP))
    step = module(lightning, in_tiles)
    trainer(lightning, writer).predict(step, loader(tiles=True), return_predictions=False)
    for i in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"a/{i}.npy"), 2 * pixels_of(2)[i * S : (i + 1) * S])


def test_the_strategy_can_be_changed_between_predictions(lightning: Any, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    writer = PredictionWriter(tmp_path)
    ours = trainer(lightning, writer)
    writer.strategy = WriteImage(write_npy, ".npy")
    ours.predict(module(lightning, whole), loader())
    writer.strategy = WriteTilesZarr(overlap=OVERLAP)
    ours.predict(module(lightning, in_tiles), loader(tiles=True))
    stored = zarr.open_array(tmp_path / "a/1.zarr/0", mode="r")[...]
    np.testing.assert_array_equal(stored, np.load(tmp_path / "a/1.npy"))


def test_several_loaders_have_folders_of_their_own(lightning: Any, tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path, WriteImage(write_npy, ".npy"))
    trainer(lightning, writer).predict(module(lightning, whole), [loader(1, seed=1), loader(1, seed=2)])
    for i in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"dataloader_{i}/a/0.npy"), 2 * pixels_of(1, i + 1))
    assert not (tmp_path / "a").exists()


def test_one_prediction_and_none_are_taken_as_well(lightning: Any, tmp_path: Path) -> None:
    def step(pixels: Any, numbers: Any) -> Any:
        return whole(pixels, numbers)[0] if numbers[0] < S else None

    writer = PredictionWriter(tmp_path, WriteImage(write_npy, ".npy"))
    trainer(lightning, writer).predict(module(lightning, step), loader(batch=1))
    assert [path.name for path in tmp_path.rglob("*.npy")] == ["0.npy"]


def test_an_image_that_was_never_completed_is_reported_when_the_prediction_ends(lightning: Any, tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path, WriteImage(write_npy, ".npy"))
    with pytest.raises(IncompleteImageError, match=r"a/1\.tif.*1 of 5"):
        trainer(lightning, writer, limit_predict_batches=2).predict(module(lightning, whole), loader())
    assert [path.name for path in tmp_path.rglob("*.npy")] == ["0.npy"]


def test_an_error_of_the_model_is_what_is_raised(lightning: Any, tmp_path: Path) -> None:
    def step(pixels: Any, numbers: Any) -> Any:
        if numbers[0] == 3:
            raise RuntimeError("the model broke")
        return whole(pixels, numbers)

    writer = PredictionWriter(tmp_path, WriteImage(write_npy, ".npy"))
    ours = trainer(lightning, writer)
    with pytest.raises(RuntimeError, match="the model broke") as caught:
        ours.predict(module(lightning, step), loader())
    assert any("3 of 5 samples" in note for note in caught.value.__notes__)
    trainer(lightning, writer).predict(module(lightning, whole), loader())  # nothing of it is left
    assert (tmp_path / "a/1.npy").exists()


@pytest.mark.parametrize("answer", [3, "text", [1, 2], {"a": 1}])
def test_another_answer_of_predict_step_is_an_error(lightning: Any, answer: Any, tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path, WriteImage(write_npy, ".npy"))
    with pytest.raises(PredictionError, match=f"predict_step returned a {type(answer).__name__}"):
        trainer(lightning, writer).predict(module(lightning, lambda pixels, numbers: answer), loader())


def test_without_a_strategy_predicting_is_an_error(lightning: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no strategy"):
        trainer(lightning, PredictionWriter(tmp_path)).predict(module(lightning, whole), loader())


def test_it_can_be_copied_to_another_process(lightning: Any, tmp_path: Path) -> None:
    writer = pickle.loads(pickle.dumps(PredictionWriter(tmp_path)))
    assert isinstance(writer, PredictionWriter)
    assert writer.folder == tmp_path
    writer.strategy = WriteImage(write_npy, ".npy")
    trainer(lightning, writer).predict(module(lightning, whole), loader())
    assert (tmp_path / "a/1.npy").exists()


class Counting(PredictionWriter):
    """What a user makes of it."""

    batches = 0

    def write_on_batch_end(self, *args: Any) -> None:
        self.batches += 1
        super().write_on_batch_end(*args)


def test_it_can_be_subclassed(lightning: Any, tmp_path: Path) -> None:
    writer = Counting(tmp_path, WriteImage(write_npy, ".npy"))
    trainer(lightning, writer).predict(module(lightning, whole), loader())
    assert writer.batches == 4
    assert isinstance(writer, Counting)


PROBE = """
import sys
{imports}
from patchloom.torch.lightning import PredictionWriter
names = {{cls.__module__.partition(".")[0] for cls in type(PredictionWriter("out")).__mro__}}
print(*sorted(names & {{"lightning", "pytorch_lightning"}}))
"""


@pytest.mark.parametrize(
    ("imports", "expected"),
    [
        ("import lightning.pytorch", "lightning"),
        ("import pytorch_lightning", "pytorch_lightning"),
        pytest.param("import pytorch_lightning, lightning.pytorch", "lightning pytorch_lightning",
                     marks=pytest.mark.slow),
        pytest.param("", "lightning", marks=pytest.mark.slow),
    ],
)
def test_its_bases_are_those_of_the_package_that_is_in_use(imports: str, expected: str) -> None:
    for name in ("lightning", "pytorch_lightning"):
        pytest.importorskip(name)
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(imports=imports)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == expected.split()


def test_without_lightning_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from patchloom.torch import lightning as ours

    monkeypatch.setattr(ours, "PACKAGES", ("package_that_is_not_there",))
    with pytest.raises(MissingExtraError, match=r"patchloom\[lightning\]"):
        PredictionWriter(tmp_path)
    assert importlib.util.find_spec("package_that_is_not_there") is None
